# SPDX-License-Identifier: GPL-2.0-only
"""What a datagram looks like as a data segment, and the way back, computed apart from the code.

[IP][TCP, 20 bytes][padding, p bytes][datagram from byte n to its end][its first n bytes]
"""

import struct

from mimicd.core.abi import ConnEntry
from tests.bpf.packets import TCP, UDP, Dissected, dissect, pseudo_header, rewritten_network
from tests.rig.segment import (
    ACK,
    PSH,
    checksum,
    decode_datagram,
    padding_bytes,
)

_TCP = struct.Struct("!HHIIBBHHH")


def assert_disguised(
    before: bytes,
    after: bytes,
    entry: ConnEntry,
    padding: int,
    *,
    window: int = 0x3400,
    checksum_right: bool = True,
    link_bytes: int = 14,
) -> None:
    """`after` is the datagram of the frame `before`, sent by a connection that was as `entry`."""
    old, new = dissect(before, link_bytes), dissect(after, link_bytes)
    assert new.link == old.link
    assert new.protocol == TCP
    assert new.network == rewritten_network(old, TCP, len(new.transport))
    assert new.network_checksum_right
    assert not new.trailer
    source, target, seq, ack, offset, flags, field, _, urgent = _TCP.unpack_from(new.transport)
    assert (source, target) == (old.source.port, old.target.port)
    assert (seq, ack) == (entry.seq, entry.ack)
    assert (offset, flags, field, urgent) == (5 << 4, ACK | PSH, window, 0)
    datagram = old.transport[8:]
    assert len(new.transport) == 20 + padding_bytes(padding, seq, ack) + len(datagram)
    assert decode_datagram(new.transport[20:], padding, seq, ack) == datagram
    assert new.transport_checksum_right == checksum_right


def restored(frame: bytes, padding: int, link_bytes: int = 14) -> bytes:
    """The frame that a right data segment must become."""
    old = dissect(frame, link_bytes)
    assert old.transport_checksum_right
    seq, ack, offset = struct.unpack_from("!IIB", old.transport, 4)
    datagram = decode_datagram(old.transport[(offset >> 4) * 4 :], padding, seq, ack)
    assert datagram is not None
    return old.link + _as_udp(old, datagram)


def _as_udp(old: Dissected, datagram: bytes) -> bytes:
    length = 8 + len(datagram)
    header = old.transport[:4] + length.to_bytes(2, "big")
    pseudo = pseudo_header(old.source, old.target, UDP, length)
    check = checksum(pseudo + header + b"\0\0" + datagram) or 0xFFFF
    network = rewritten_network(old, UDP, length)
    return network + header + check.to_bytes(2, "big") + datagram
