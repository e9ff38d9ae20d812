# SPDX-License-Identifier: GPL-2.0-only
"""What tshark makes of a capture: packets, checksums, judgement of the sequence numbers."""

import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.rig.namespace import RigError

# A healthy connection shows none of these (tshark's fields tcp.analysis.*).
WARNINGS = (
    "lost_segment",
    "out_of_order",
    "retransmission",
    "fast_retransmission",
    "spurious_retransmission",
    "ack_lost_segment",
    "zero_window",
    "zero_window_probe",
    "zero_window_probe_ack",
    "window_full",
    "reused_ports",
)
# Normal events of a living connection, listed beside them.
NOTES = ("keep_alive", "keep_alive_ack", "window_update", "duplicate_ack")

FIN, SYN, RST, PSH, ACK, URG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_FLAG_LETTERS = ((SYN, "S"), (FIN, "F"), (RST, "R"), (PSH, "P"), (ACK, "A"), (URG, "U"))

_PROTOCOLS = ("frame", "eth", "ethertype", "nflog", "ip", "ipv6", "icmp", "icmpv6", "tcp", "udp")
_CHECKED = ("ip", "tcp", "udp")
_BAD = "0"
_FIELDS = (
    *("frame.number", "frame.time_epoch", "ip.proto", "ipv6.nxt"),
    *("ip.src", "ip.dst", "ipv6.src", "ipv6.dst"),
    *("tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport"),
    *("tcp.flags", "tcp.seq_raw", "tcp.ack_raw", "tcp.len", "tcp.window_size_value"),
    *("udp.length",),
    *(f"{protocol}.checksum.status" for protocol in _CHECKED),
    *(f"tcp.analysis.{name}" for name in (*WARNINGS, *NOTES)),
)
_PAYLOADS = ("tcp.payload", "udp.payload")


@dataclass(frozen=True, slots=True)
class Packet:
    """One captured TCP or UDP packet."""

    number: int
    """As tshark and Wireshark count, from 1."""
    time_s: float
    protocol: str
    """ "tcp" or "udp"."""
    source: str
    """ "192.0.2.1:51820" or "[2001:db8::1]:51820"."""
    target: str
    flags: int
    seq: int
    ack: int
    length_bytes: int
    """Of the transport's payload."""
    window: int
    """The field as sent, not scaled."""
    bad_checksums: tuple[str, ...]
    judgements: tuple[str, ...]
    """Names in WARNINGS and NOTES."""
    payload: bytes
    """Empty unless asked for."""

    @property
    def flag_letters(self) -> str:
        """Such as "S", "SA", "PA", "R"."""
        return "".join(letter for flag, letter in _FLAG_LETTERS if self.flags & flag)

    def __str__(self) -> str:
        ends = f"{self.source} > {self.target}"
        what = f"{self.protocol} {self.flag_letters} seq={self.seq} ack={self.ack}"
        rest = f"len={self.length_bytes} win={self.window}"
        return f"#{self.number} {ends} {what} {rest} {' '.join(self.judgements)}".rstrip()


@dataclass(frozen=True)
class Report:
    """The packets of one flow or direction, counted."""

    packets: tuple[Packet, ...]

    @property
    def tcp(self) -> int:
        return sum(packet.protocol == "tcp" for packet in self.packets)

    @property
    def udp(self) -> int:
        return sum(packet.protocol == "udp" for packet in self.packets)

    @property
    def resets(self) -> int:
        return sum(bool(packet.flags & RST) for packet in self.packets)

    @property
    def bad_checksums(self) -> Counter[str]:
        """By protocol: "ip", "tcp", "udp"."""
        return Counter(name for packet in self.packets for name in packet.bad_checksums)

    @property
    def warnings(self) -> Counter[str]:
        return self._judged(WARNINGS)

    @property
    def notes(self) -> Counter[str]:
        return self._judged(NOTES)

    @property
    def flag_sequence(self) -> list[str]:
        """The flag letters of the TCP segments in order, such as ["S", "SA", "A", "PA"]."""
        return [packet.flag_letters for packet in self.packets if packet.protocol == "tcp"]

    def faults(self) -> list[str]:
        """One line for each packet that a healthy fake-TCP flow would not show."""
        return [
            str(packet) + "".join(f" bad {name} checksum" for name in packet.bad_checksums)
            for packet in self.packets
            if packet.protocol == "udp"
            or packet.flags & RST
            or packet.bad_checksums
            or set(packet.judgements) & set(WARNINGS)
        ]

    def _judged(self, names: Iterable[str]) -> Counter[str]:
        wanted = set(names)
        return Counter(
            name for packet in self.packets for name in packet.judgements if name in wanted
        )


@dataclass(frozen=True)
class Analysis:
    """All TCP and UDP packets of a capture."""

    packets: tuple[Packet, ...]

    def everything(self) -> Report:
        return Report(self.packets)

    def flow(self, end: str, other: str) -> Report:
        """Both directions between two "address:port" texts."""
        ends = {end, other}
        return Report(tuple(p for p in self.packets if {p.source, p.target} == ends))

    def direction(self, source: str, target: str) -> Report:
        """One direction between two "address:port" texts."""
        return Report(tuple(p for p in self.packets if p.source == source and p.target == target))


def analyze(path: Path, payloads: bool = False, without_ethertype: int | None = None) -> Analysis:
    """Read a capture file with tshark, checksum validation on."""
    fields = [*_FIELDS, *(_PAYLOADS if payloads else ())]
    # Nothing above the transport is dissected: ports of well-known protocols mean nothing here.
    argv = ["tshark", "-n", "-r", str(path), "-T", "fields", "--disable-protocol", "ALL"]
    for protocol in _PROTOCOLS:
        argv += ["--enable-protocol", protocol]
    for checked in _CHECKED:
        argv += ["-o", f"{checked}.check_checksum:TRUE"]
    argv += ["-o", "tcp.desegment_tcp_streams:FALSE"]
    # Nobody asks for it, and it walks all that is not acknowledged for each segment.
    argv += ["-o", "tcp.track_bytes_in_flight:FALSE"]
    # An ICMP error quotes a packet: take the first, outer occurrence of each field.
    argv += ["-E", "occurrence=f", "-E", "separator=/t"]
    if without_ethertype is not None:
        argv += ["-Y", f"not eth.type == {without_ethertype:#x}"]
    for name in fields:
        argv += ["-e", name]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise RigError(f"tshark cannot read {path}: {done.stderr.strip()}")
    rows = (dict(zip(fields, line.split("\t"), strict=True)) for line in done.stdout.splitlines())
    return Analysis(tuple(packet for row in rows if (packet := _packet(row))))


def _packet(row: Mapping[str, str]) -> Packet | None:
    protocol = "tcp" if row["tcp.srcport"] else "udp" if row["udp.srcport"] else ""
    # An ICMP error has the ports of the packet it quotes, but is none of that flow.
    if not protocol or row["ip.proto"] == "1" or row["ipv6.nxt"] == "58":
        return None
    tcp = protocol == "tcp"
    judgements = [name for name in (*WARNINGS, *NOTES) if row[f"tcp.analysis.{name}"]]
    return Packet(
        number=int(row["frame.number"]),
        time_s=float(row["frame.time_epoch"]),
        protocol=protocol,
        source=_end(row, "src", f"{protocol}.srcport"),
        target=_end(row, "dst", f"{protocol}.dstport"),
        flags=int(row["tcp.flags"], 16) if tcp else 0,
        seq=int(row["tcp.seq_raw"]) if tcp else 0,
        ack=int(row["tcp.ack_raw"] or 0) if tcp else 0,
        length_bytes=int(row["tcp.len"]) if tcp else int(row["udp.length"]) - 8,
        window=int(row["tcp.window_size_value"]) if tcp else 0,
        bad_checksums=tuple(n for n in _CHECKED if row[f"{n}.checksum.status"] == _BAD),
        judgements=tuple(judgements),
        payload=bytes.fromhex(row.get(f"{protocol}.payload", "")),
    )


def _end(row: Mapping[str, str], side: str, port: str) -> str:
    if address := row[f"ip.{side}"]:
        return f"{address}:{row[port]}"
    return f"[{row[f'ipv6.{side}']}]:{row[port]}"
