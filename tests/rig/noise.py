# SPDX-License-Identifier: GPL-2.0-only
"""IP packets between two ends in which everything but addresses and ports may be wrong. Pure."""

import random
import struct

from tests.rig.segment import ACK, PSH, RST, SYN, End

TCP, UDP = 6, 17


def any_packet(
    chance: random.Random,
    source: End,
    target: End,
    protocol: int = TCP,
    seq: int | None = None,
) -> bytes:
    """Cut at any place, or with bytes behind its end; never with a right TCP checksum but by
    chance. `seq` in place of any sequence number."""
    transport = bytearray(chance.randbytes(chance.randrange(4, 120)))
    transport[:4] = struct.pack("!HH", source.port, target.port)
    if seq is not None and len(transport) >= 8:
        transport[4:8] = struct.pack("!I", seq)
    if len(transport) > 13 and chance.random() < 0.7:
        transport[12] = chance.choice([0x50, 0x80, chance.randrange(256)])
        transport[13] = chance.choice([ACK, ACK | PSH, SYN, RST, chance.randrange(256)])
    header = _any_ipv4 if source.version == 4 else _any_ipv6
    packet = header(chance, source, target, protocol, len(transport)) + transport
    if chance.random() < 0.3:
        packet = packet[: chance.randrange(1, len(packet) + 1)]
    return bytes(packet)


def _any_ipv4(
    chance: random.Random, source: End, target: End, protocol: int, size: int
) -> bytearray:
    """Any version, header length, total length, fragment field and checksum."""
    first = chance.choice([0x45, 0x45, 0x40 | chance.randrange(16), chance.randrange(256)])
    total = chance.choice([20 + size, 20 + size, chance.randrange(20 + size), _any_u16(chance)])
    fragment = chance.choice([0, 0x4000, 0x2000, 0x8000, _any_u16(chance)])
    fields = (first, 0, total, 1, fragment, 64, protocol, _any_u16(chance))
    ends = source.address.packed + target.address.packed
    return bytearray(struct.pack("!BBHHHBBH", *fields) + ends)


def _any_ipv6(
    chance: random.Random, source: End, target: End, protocol: int, size: int
) -> bytearray:
    """Any version, payload length and next header."""
    version = chance.choice([6, 6, 6, chance.randrange(16)])
    length = chance.choice([size, size, chance.randrange(size + 1), _any_u16(chance)])
    following = chance.choice([protocol, protocol, 0, 43, 44, 60, 50, chance.randrange(256)])
    ends = source.address.packed + target.address.packed
    return bytearray(struct.pack("!IHBB", version << 28, length, following, 64) + ends)


def _any_u16(chance: random.Random) -> int:
    return chance.randrange(65536)
