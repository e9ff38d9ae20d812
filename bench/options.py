# SPDX-License-Identifier: GPL-2.0-only
"""What to measure, from the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from bench.arms import OURS, Arm, ArmError, check_line, other

FIGURES = {
    "flood": "rate and CPU of a packet as fast as one core sends",
    "paced": "CPU of a packet at a fixed rate",
    "rate": "highest rate that loses at most 0.1 %",
    "rtt": "round trip of one datagram at a time",
    "cold": "first datagram of a new connection",
    "burst": "32 datagrams at once on a new connection",
    "bpf": "time in BPF programs, beside a fixed one",
    "segments": "rate and CPU of a datagram sent in superpackets (UDP_SEGMENT)",
    "checksum": "time of the sender's program with checksum offload on and off",
    "wireguard": "TCP through WireGuard (wireguard-go)",
    "start": "from asking the daemon to attached",
    "connections": "growth: the figures with many connections",
    "filters": "growth: the figures with many filters",
    "memory": "memory of the programs, and time to their first answer",
}


@dataclass(frozen=True, slots=True)
class Options:
    """One invocation."""

    figures: tuple[str, ...] = tuple(FIGURES)
    sizes: tuple[int, ...] = (64, 512, 1400)
    passes: int = 5
    seconds: float = 1.0
    """Of each stream."""
    rate_pps: int = 10_000
    """Of the fixed rate."""
    times: int = 7
    """How many cold connections and bursts in a pass."""
    topologies: tuple[str, ...] = ("direct",)
    families: tuple[int, ...] = (4,)
    offload: bool = True
    apart: bool = False
    """Each host receives on its own CPU."""
    connections: tuple[int, ...] = (1, 1_000, 60_000)
    filters: tuple[int, ...] = (1, 100, 10_000)
    others: tuple[Arm, ...] = ()
    ours_options: str = ""
    """More options of mimicd, at both ends."""
    output: Path | None = None
    calm_s: float = 8.0
    """How long a step waits at most for a quiet machine; 0: not at all, whoever disturbs it."""
    strict: bool = False

    @property
    def growth_passes(self) -> int:
        """To make and fill 60,000 connections takes long."""
        return min(self.passes, 3)


FIELDS = frozenset(field.name for field in fields(Options))
QUICK = Options(
    figures=("flood", "rtt", "cold", "burst", "memory"),
    sizes=(64, 1400),
    passes=2,
    seconds=0.3,
    times=3,
    calm_s=0,
)


def parse(argv: Sequence[str]) -> Options:
    """Read the arguments; a bad one ends the program with exit code 2, as argparse does."""
    parser = _parser()
    given = parser.parse_args(argv)
    try:
        check_line(OURS, given.ours_options or "")
        others = tuple(
            other(name, server, client, is_relay)
            for many, is_relay in ((given.arm, False), (given.relay, True))
            for name, server, client in many
        )
    except ArmError as exc:
        parser.error(str(exc))
    names = [arm.name for arm in others]
    if len(set(names)) < len(names):
        parser.error("two arms have the same name")
    named = {key: value for key, value in vars(given).items() if key in FIELDS}
    chosen = {key: value for key, value in named.items() if value is not None}
    return replace(QUICK if given.quick else Options(), others=others, **chosen)


def _parser() -> argparse.ArgumentParser:
    figures = "\n".join(f"  {name:12} {words}" for name, words in FIGURES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures the disguise beside plain UDP, in network namespaces, as root.",
        epilog=f"figures:\n{figures}\n\ndocs/benchmarks.md says what they mean.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a short run: few figures, two passes")
    add("--figures", type=_figures, metavar="NAME,...", help="default: all")
    add("--sizes", type=_sizes, metavar="BYTES,...", help="payloads; default: 64,512,1400")
    add("--passes", type=_positive, metavar="N", help="default: 5")
    add("--seconds", type=_seconds, metavar="S", help="of each stream; default: 1")
    add("--rate", dest="rate_pps", type=_positive, metavar="PPS", help="the fixed rate: 10000")
    add("--times", type=_positive, metavar="N", help="cold connections in a pass; default: 7")
    add("--connections", type=_counts, metavar="N,...", help="default: 1,1000,60000")
    add("--filters", type=_counts, metavar="N,...", help="default: 1,100,10000")
    add("--topology", dest="topologies", type=_topologies, metavar="direct,router")
    add("--family", dest="families", type=_families, metavar="4,6")
    add("--offload", type=_switch, metavar="on|off", help="checksum offload; default: on")
    help_text = (
        "shared: all of a packet's way on the sender's CPU (default); apart: a CPU for a host"
    )
    add("--cpus", dest="apart", type=_apart, metavar="shared|apart", help=help_text)
    add("--mimicd", dest="ours_options", metavar="OPTIONS", help="more of mimicd's at both ends")
    arm = ("NAME", "SERVER", "CLIENT")
    help_text = "another program by its command lines (placeholders: bench/arms.py)"
    add("--arm", nargs=3, action="append", default=[], metavar=arm, help=help_text)
    help_text = "the same, where the programs talk to it on loopback"
    add("--relay", nargs=3, action="append", default=[], metavar=arm, help=help_text)
    add("--output", type=Path, metavar="FOLDER", help="write table, JSON and plots there")
    add(
        "--calm",
        dest="calm_s",
        type=float,
        metavar="S",
        help="wait for a quiet machine; 0: never",
    )
    add("--strict", action="store_true", help="exit with 1 if a target is missed")
    return parser


def _words(text: str, known: Sequence[str]) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word for word in text.split(",") if word))
    for word in words:
        if word not in known:
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(known)}")
    if not words:
        raise argparse.ArgumentTypeError("nothing is named")
    return words


def _figures(text: str) -> tuple[str, ...]:
    return _words(text, list(FIGURES))


def _topologies(text: str) -> tuple[str, ...]:
    return _words(text, ["direct", "router"])


def _families(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text, ["4", "6"]))


def _switch(text: str) -> bool:
    return _words(text, ["on", "off"]) == ("on",)


def _apart(text: str) -> bool:
    return _words(text, ["shared", "apart"]) == ("apart",)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(_positive(word) for word in text.split(","))
    # The stamp of a datagram has 32 bytes; more than 1460 do not fit into the usual MTU.
    for size in sizes:
        if not 32 <= size <= 1460:
            raise argparse.ArgumentTypeError(f"a size is 32..1460 bytes, not {size}")
    return sizes


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(_positive(word) for word in text.split(","))
    if max(counts) > 65_535:
        raise argparse.ArgumentTypeError(f"65535 at most, not {max(counts)}")
    return counts


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 to 60")
    return seconds
