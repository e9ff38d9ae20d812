# SPDX-License-Identifier: GPL-2.0-only
"""Plain data as text for people: tables, facts, log lines. Pure; the time is an argument.

What comes from the daemon may stem from the wire, so it is made printable first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mimicd.core.preflight import WIREGUARD_BYTES
from mimicd.core.settings import BY_KEY
from mimicd.core.terminal import coloured as coloured
from mimicd.core.terminal import log_line as log_line
from mimicd.core.terminal import printable as printable

_STATE_COLOURS = {"established": "32", "syn-sent": "33", "syn-received": "33", "idle": "2"}

# What became of them is told in facts of their own.
_NOT_AMONG_SETTINGS = {"link_type", "xdp_mode"}
_LABEL_WIDTH = 14

CONNECTION_HEADER = (
    *("LOCAL", "REMOTE", "STATE", "ROLE", "SEQ", "ACK", "MSS"),
    *("AGE", "IDLE", "SENT", "RECEIVED", "DROPPED", "FILTER"),
)
_CONNECTION_RIGHT = frozenset(CONNECTION_HEADER[4:-1])


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: frozenset[str] = frozenset(),
    colour_of: Mapping[str, str] | None = None,
) -> str:
    """Columns as wide as needed; those in `right` flush right. Cells in `colour_of` get colour."""
    body = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]

    def line(cells: Sequence[str], colours: Mapping[str, str]) -> str:
        shown = []
        for cell, title, width in zip(cells, header, widths, strict=True):
            padded = cell.rjust(width) if title in right else cell.ljust(width)
            shown.append(coloured(padded, colours.get(cell, ""), True))
        return "  ".join(shown).rstrip()

    lines = [line(header, {}), *(line(row, colour_of or {}) for row in body)]
    return "\n".join(lines) + "\n"


def interface_table(views: Sequence[Mapping[str, Any]], now_s: float) -> str:
    """The running interfaces, one line each; `now_s` is Unix time."""
    rows = [
        (
            view["name"],
            view["state"],
            view["link-type"],
            view["xdp-mode"],
            str(len(view["filters"])),
            duration(now_s - view["started-at"]),
        )
        for view in views
    ]
    header = ("INTERFACE", "STATE", "LINK", "XDP", "FILTERS", "UPTIME")
    return table(header, rows, frozenset(("FILTERS", "UPTIME")))


def interface_facts(
    view: Mapping[str, Any], version: str, pid: int, now_s: float, colour: bool = False
) -> str:
    """Process and interface, a fact a line; `now_s` is Unix time."""
    facts: list[tuple[str, str]] = [
        ("process", f"PID {pid}, mimicd {version}"),
        ("uptime", duration(now_s - view["started-at"])),
    ]
    if view["ifindex"]:
        facts += [
            ("link type", view["link-type"]),
            ("XDP mode", view["xdp-mode"]),
            ("max payload", _payload(view["max-payload"])),
        ]
    facts += [("" if number else "filters", one) for number, one in enumerate(view["filters"])]
    settings = dict(view["settings"])
    # in the table's order; what a newer daemon has beyond it comes last
    facts += [
        (key, settings[key])
        for key in (*BY_KEY, *(key for key in settings if key not in BY_KEY))
        if key in settings and key not in _NOT_AMONG_SETTINGS
    ]
    counters = [(key, count) for key, count in sorted(view["counters"].items()) if count]
    facts += [
        ("" if number else "counters", f"{key} {count}")
        for number, (key, count) in enumerate(counters)
    ]
    title = f"{printable(view['name'])}: {printable(view['state'])}"
    lines = [coloured(title, "1", colour)]
    lines += [f"  {label:<{_LABEL_WIDTH}} {printable(text)}" for label, text in facts]
    return "\n".join(lines) + "\n"


def _payload(bytes_: int) -> str:
    return f"{bytes_} bytes of UDP, for WireGuard MTU = {max(0, bytes_ - WIREGUARD_BYTES)}"


def connection_table(connections: Iterable[Mapping[str, Any]], colour: bool = False) -> str:
    """The connections, one line each."""
    rows = [
        (
            one["local"],
            one["remote"],
            one["state"],
            one["role"],
            str(one["seq"]),
            str(one["ack"]),
            str(one["peer-mss"]),
            duration(one["age"]),
            duration(one["idle"]),
            size(one["tx-bytes"]),
            size(one["rx-bytes"]),
            str(sum(one["drops"].values())),
            one["filter"],
        )
        for one in connections
    ]
    colours = _STATE_COLOURS if colour else None
    return table(CONNECTION_HEADER, rows, _CONNECTION_RIGHT, colours)


def notes(connections: Iterable[Mapping[str, Any]]) -> list[str]:
    """One sentence for each connection that does not work."""
    return [
        printable(f"{one['local']} -> {one['remote']}: {one['note']}")
        for one in connections
        if one["note"]
    ]


def filters(count: int) -> str:
    """ "1 filter", "2 filters"."""
    return "1 filter" if count == 1 else f"{count} filters"


def duration(seconds: float) -> str:
    """ "12s", "3m 05s", "2h 03m", "5d 07h"; a clock that was set back counts as 0."""
    whole = max(0, int(seconds))
    minutes, secs = divmod(whole, 60)
    hours, mins = divmod(minutes, 60)
    days, hrs = divmod(hours, 24)
    if days:
        return f"{days}d {hrs:02}h"
    if hours:
        return f"{hours}h {mins:02}m"
    if minutes:
        return f"{minutes}m {secs:02}s"
    return f"{secs}s"


def size(count_bytes: int) -> str:
    """ "999 B", "1.0 KiB", "17.3 MiB"."""
    if count_bytes < 1024:
        return f"{count_bytes} B"
    amount = float(count_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1023.95 or unit == "TiB":
            break
    return f"{amount:.1f} {unit}"
