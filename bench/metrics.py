# SPDX-License-Identifier: GPL-2.0-only
"""What the metrics are called and which way is better. Pure."""

from dataclasses import dataclass

_FIGURES = {
    "flood": "flood",
    "paced": "fixed rate",
    "rate": "highest rate, 0.1 % lost",
    "rtt": "round trip",
    "cold": "first datagram",
    "burst": "cold burst",
    "bpf": "BPF",
    "memory": "memory",
    "ready": "start to first answer",
    "start": "Run to attached",
    "wireguard": "TCP in WireGuard",
    "segments": "UDP_SEGMENT",
    "checksum": "checksum",
    "connections": "connections",
    "filters": "filters",
}

_UNITS = {
    "pps": "packets/s",
    "us": "µs",
    "ns": "ns",
    "ms": "ms",
    "percent": "%",
    "mb": "MB",
    "mbps": "Mbit/s",
    "ratio": "",
    "count": "",
}

_WORDS = {
    "pps": "",
    "cpu_us": "CPU a packet",
    "ours_us": "CPU of the programs a packet",
    "way_us": "CPU of the sender a packet",
    "loss_percent": "lost",
    "lost_percent": "lost",
    "lost": "lost",
    "p50_us": "median",
    "p99_us": "99th percentile",
    "first_ms": "until it arrives",
    "in_order_percent": "arrived in order",
    "last_ms": "until the last arrives",
    "packet_ns": "all programs, a packet",
    "reference_ns": "reference program, a run",
    "cpu_per_gbit_ms": "CPU a Gbit",
    "partial_ns": "left to the interface (offload on)",
    "none_ns": "done by the kernel (offload off)",
    "partial_to_none_ratio": "on / off",
    "rtt_us": "round trip",
    "opened_ms": "until all stand",
    "ready_ms": "start to first answer",
    "compiled_ms": "compiled before",
}


@dataclass(frozen=True, slots=True)
class Label:
    """How a metric is shown."""

    text: str
    unit: str


def label(metric: str) -> Label:
    """Of "flood.1400.pps": "flood, 1400 bytes" in "packets/s"."""
    figure, *middle, last = metric.split(".")
    parts = [_FIGURES.get(figure, figure)]
    for part in middle:
        parts.append(_place(figure, part))
    if words := _WORDS.get(last, "" if last in _UNITS else _words(last)):
        parts.append(words)
    return Label(", ".join(parts), _UNITS.get(last.rpartition("_")[2], ""))


def _place(figure: str, part: str) -> str:
    if not part.isdigit():
        return part
    if figure in ("connections", "filters"):
        return f"{int(part):,}"
    return f"{part} bytes"


def _words(last: str) -> str:
    stem, _, unit = last.rpartition("_")
    return (stem if unit in _UNITS else last).replace("_", " ").replace("-", " ")


def figure_of(metric: str) -> str:
    return metric.partition(".")[0]


def number(value: float) -> str:
    """Four digits or so: 152314, 98.3, 4.51, 0.352."""
    size = abs(value)
    if size >= 1000:
        return f"{value:.0f}"
    if size >= 100:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 or size == 0 else f"{value:.3f}"
