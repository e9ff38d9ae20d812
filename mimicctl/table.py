# SPDX-License-Identifier: GPL-2.0-only
"""Plain data as text for people: tables, facts, log lines. Pure; the time is an argument.

What comes from the daemon may stem from the wire, so it is made printable first.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mimicd.core.preflight import WIREGUARD_BYTES
from mimicd.core.settings import BY_KEY
from mimicd.core.terminal import coloured as coloured
from mimicd.core.terminal import counted as counted
from mimicd.core.terminal import log_line as log_line
from mimicd.core.terminal import printable as printable

_STATE_COLOURS = {"established": "32", "syn-sent": "33", "syn-received": "33", "idle": "2"}

# What became of them is told in facts of their own.
_NOT_AMONG_SETTINGS = {"link_type", "xdp_mode"}
_LABEL_WIDTH = 14
_STATE_WIDTH = 13

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
    widths = _widths(header, body)

    def line(cells: Sequence[str], colours: Mapping[str, str]) -> str:
        shown = []
        for cell, title, width in zip(cells, header, widths, strict=True):
            padded = cell.rjust(width) if title in right else cell.ljust(width)
            shown.append(coloured(padded, colours.get(cell, ""), True))
        return "  ".join(shown).rstrip()

    lines = [line(header, {}), *(line(row, colour_of or {}) for row in body)]
    return "\n".join(lines) + "\n"


def _widths(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(header, *body, strict=True)]


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


def connection_summary(name: str, connections: Sequence[Mapping[str, Any]]) -> str:
    """ "eth0: 3 connections: 2 established, 1 idle", the most frequent state first."""
    states = Counter(one["state"] for one in connections)
    words = ", ".join(f"{count} {state}" for state, count in states.most_common())
    return printable(f"{name}: {counted(len(connections), 'connection')}: {words}") + "\n"


def no_connection(view: Mapping[str, Any]) -> str:
    """Why there is none, as far as the counters tell."""
    words = f"{printable(view['name'])} has no connections"
    counters = view["counters"]
    if dropped := counters.get("drop-passive", 0):
        return (
            f"{words}: {counted(dropped, 'datagram')} dropped because the filter is passive"
            " (handshake interval 0): the peer has to connect first.\n"
        )
    if view["ifindex"] and view["filters"] and not any(counters.values()):
        return (
            f"{words}: no packet has matched a filter yet; do they name the addresses and ports"
            " that the program uses?\n"
        )
    return f"{words}.\n"


def connection_list(
    connections: Iterable[Mapping[str, Any]], columns: int | None = None, colour: bool = False
) -> str:
    """The connections, one line each where so many columns have room for that (None: any
    number), else a few lines each."""
    shown = list(connections)
    rows = [[printable(cell) for cell in _connection_cells(one)] for one in shown]
    if columns is None or _line_length(CONNECTION_HEADER, rows) <= columns:
        return table(CONNECTION_HEADER, rows, _CONNECTION_RIGHT, _STATE_COLOURS if colour else None)
    return "".join(
        _connection_lines(row, one["drops"], columns, colour)
        for row, one in zip(rows, shown, strict=True)
    )


def _connection_cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    """In the order of CONNECTION_HEADER."""
    return (
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


def _line_length(header: Sequence[str], body: Sequence[Sequence[str]]) -> int:
    return sum(_widths(header, body)) + 2 * (len(header) - 1)


def _connection_lines(
    row: Sequence[str], drops: Mapping[str, int], columns: int, colour: bool
) -> str:
    """What the table has in one line: the state in front of the ends, the rest below them."""
    local, remote, state, role, seq, ack, mss, age, idle, sent, received, dropped, of = row
    ends = [f"{local} -> {remote}"]
    if len(ends[0]) > columns - _STATE_WIDTH:
        ends = [f"{local} ->", remote]
    if drops:
        dropped += f" ({', '.join(f'{printable(why)} {count}' for why, count in drops.items())})"
    details = (
        f"{role}, age {age}, idle {idle}, peer MSS {mss}",
        f"sent {sent}, received {received}, dropped {dropped}",
        f"seq {seq}, ack {ack}, filter {of}",
    )
    indent = " " * _STATE_WIDTH
    first = coloured(state.ljust(_STATE_WIDTH), _STATE_COLOURS.get(state, ""), colour)
    lines = [first + ends[0], *(indent + end for end in ends[1:])]
    for text in details:
        lines += _wrapped(text, columns, indent)
    return "\n".join(lines) + "\n"


def notes(connections: Iterable[Mapping[str, Any]], columns: int | None = None) -> list[str]:
    """One sentence for each connection that does not work, in lines of at most so many columns."""
    sentences = [
        printable(f"{one['local']} -> {one['remote']}: {one['note']}")
        for one in connections
        if one["note"]
    ]
    if columns is None:
        return sentences
    return ["\n".join(_wrapped(one, columns, "", "  ")) for one in sentences]


def _wrapped(text: str, columns: int, indent: str, further: str = "") -> list[str]:
    """Lines that are longer than that only where a word is."""
    return textwrap.wrap(
        text,
        max(columns, len(indent) + 20),
        initial_indent=indent,
        subsequent_indent=indent + further,
        break_long_words=False,
        break_on_hyphens=False,
    )


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
