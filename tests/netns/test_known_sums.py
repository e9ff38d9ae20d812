# SPDX-License-Identifier: GPL-2.0-only
"""A checksum that was formed on this machine is known to be right; one that came along is not."""

import socket
import struct

import pytest

from tests.netns.disguise import disguised, remote_and_local
from tests.rig.network import Network
from tests.rig.segment import PSH, Segment, decode_packet
from tests.rig.traffic import exchange, flow

PORT, COUNT = 5300, 50
SIZES_BYTES = (16, 64, 1400)
# linux/if_packet.h
SOL_PACKET, PACKET_AUXDATA = 263, 8
STATUS_NOT_READY, STATUS_VALID = 1 << 3, 1 << 7
SO_RCVBUFFORCE, BUFFER_BYTES = 33, 8 << 20
LINK_BYTES = 14
ALL = f"{COUNT * len(SIZES_BYTES)} of {COUNT * len(SIZES_BYTES)} arrived"


def opened(net: Network) -> socket.socket:
    """Sees what arrives at B, and what the kernel thinks of its checksum."""
    raw = net.b.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    raw.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    raw.bind((net.b.interface, 3))
    raw.setblocking(False)
    return raw


def arrived(raw: socket.socket) -> list[tuple[Segment, int]]:
    """Data segments from A with their status."""
    found: list[tuple[Segment, int]] = []
    while True:
        try:
            frame, told, _, address = raw.recvmsg(65536, 64)
        except BlockingIOError:
            return found
        if address[2] == socket.PACKET_OUTGOING:
            continue
        segment = decode_packet(frame[LINK_BYTES:])
        if segment is not None and segment.has(PSH):
            (status,) = struct.unpack_from("=I", told[0][2])
            found.append((segment, status))


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("offload", [True, False], ids=["formed-here", "came-along"])
def test_only_what_was_formed_here_is_known_to_be_right(
    direct_network: Network, family: int, offload: bool
) -> None:
    net = direct_network
    net.a.set_offload(tx=offload)
    at_a, at_b = remote_and_local(net, family, PORT)
    with disguised(net, [at_a], [at_b]), flow(net.a, net.b, family, port_b=PORT) as ends:
        exchange(*ends, [4])
        with opened(net) as raw:
            to_b, to_a = exchange(*ends, [size for size in SIZES_BYTES for _ in range(COUNT)])
            seen = arrived(raw)
    assert (str(to_b), str(to_a)) == (ALL, ALL)
    assert len(seen) == COUNT * len(SIZES_BYTES)
    assert all(segment.checksum_right for segment, _ in seen)
    assert {bool(status & STATUS_VALID) for _, status in seen} == {offload}
    assert not any(status & STATUS_NOT_READY for _, status in seen)
