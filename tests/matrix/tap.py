# SPDX-License-Identifier: GPL-2.0-only
"""What was on one cable, frame by frame, read at once and judged without another program.

It stands on a router's interface whose checksum offload is off: what leaves there has been finished
in software, and a checksum request that was left open by mistake has done its harm.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.rig.namespace import Namespace
from tests.rig.segment import (
    PSH,
    TCP_PROTOCOL,
    Segment,
    decode_datagram,
    decode_packet,
    upper_layer,
)

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 32 << 20
LINK_BYTES = 14
FRAME_MAX_BYTES = 1 << 17
UDP_PROTOCOL = 17


@dataclass
class Seen:
    """What a tap saw of one port since it was asked last."""

    faults: list[str] = field(default_factory=list)
    data: dict[str, list[bytes]] = field(default_factory=dict)
    """Datagrams in data segments, in order, by the end that sent them."""
    segments: int = 0


class Tap:
    """An open packet socket on one interface, for both directions."""

    def __init__(self, raw: socket.socket, largest_packet_bytes: int) -> None:
        self._raw = raw
        self._largest = largest_packet_bytes

    def take(self, port: int) -> Seen:
        """Everything to or from `port` since the last call. Whatever is disguised is TCP."""
        seen = Seen()
        while (frame := self._next()) is not None:
            packet = frame[LINK_BYTES:]
            if not _has_port(packet, port):
                continue
            if len(packet) > self._largest:
                seen.faults.append(f"a packet of {len(packet)} bytes was not cut")
            segment = decode_packet(packet)
            if segment is None:
                seen.faults.append("a datagram crossed as it was")
                continue
            if not segment.checksum_right:
                seen.faults.append(f"wrong checksum: {segment}")
            seen.segments += 1
            self._note_data(segment, seen)
        packets, drops = struct.unpack("II", self._raw.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        if drops:
            seen.faults.append(f"the tap lost {drops} of {packets} frames")
        return seen

    def _note_data(self, segment: Segment, seen: Seen) -> None:
        if segment.has(PSH):
            datagram = decode_datagram(segment.payload, 0, segment.seq, segment.ack)
            seen.data.setdefault(str(segment.source), []).append(datagram or b"")

    def _next(self) -> bytes | None:
        try:
            return self._raw.recv(FRAME_MAX_BYTES)
        except BlockingIOError:
            return None


@contextlib.contextmanager
def tap(namespace: Namespace, interface: str, largest_packet_bytes: int) -> Iterator[Tap]:
    """Watch an interface."""
    with namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        raw.bind((interface, ETH_P_ALL))
        raw.setblocking(False)
        yield Tap(raw, largest_packet_bytes)


def _has_port(packet: bytes, port: int) -> bool:
    """Whether this is TCP or UDP, not a later fragment, with that port at either end."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        protocol, at = packet[9], (packet[0] & 15) * 4
    elif version == 6:
        protocol, at = upper_layer(packet)
    else:
        return False
    if protocol not in (TCP_PROTOCOL, UDP_PROTOCOL) or len(packet) < at + 4:
        return False
    return port in struct.unpack_from("!HH", packet, at)
