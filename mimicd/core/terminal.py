# SPDX-License-Identifier: GPL-2.0-only
"""Text as a terminal may get it: made printable, with colour where a person looks. Pure.

The daemon's log and the client show a log line in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mimicd.core.values import LEVELS

GRADE_COLOURS = {"ok": "32", "warn": "33", "fail": "31"}
LEVEL_COLOURS = {"error": "31", "warn": "33", "debug": "2", "trace": "2"}


def printable(text: object) -> str:
    """`text` without anything that could steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def counted(number: int, noun: str) -> str:
    """ "1 filter", "2 filters"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def coloured(text: str, colour: str, enabled: bool) -> str:
    """`text` in an SGR colour (ECMA-48, 8.3.117)."""
    return f"\x1b[{colour}m{text}\x1b[0m" if enabled and colour else text


def colour_wanted(is_terminal: bool, environ: Mapping[str, str]) -> bool:
    """Whether a stream gets colour."""
    # https://no-color.org: any value that is not empty turns colour off.
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def check_table(lines: Sequence[tuple[str, str, str]], colour: bool = False) -> str:
    """Lines of a check, one each: (check, "ok", "warn" or "fail", words)."""
    width = max((len(check) for check, _, _ in lines), default=0)
    return "".join(
        f"{coloured(f'{grade:<4}', GRADE_COLOURS.get(grade, ''), colour)}"
        f"  {printable(check):<{width}}  {printable(words)}\n"
        for check, grade, words in lines
    )


def log_line(interface: str, level: int, text: str, colour: bool = False) -> str:
    """One line of the log; `interface` is "" for what concerns the whole daemon."""
    name = LEVELS[max(0, min(level, len(LEVELS) - 1))]
    shown = coloured(f"{name:<5}", LEVEL_COLOURS.get(name, ""), colour)
    where = f"{printable(interface)}: " if interface else ""
    return f"{shown} {where}{printable(text)}"
