# SPDX-License-Identifier: GPL-2.0-only
"""Errors of routers on the way: those about our segments are retold, and no others are touched."""

import random
import struct
from dataclasses import replace

import pytest

from mimicd.core.model import FlowSettings
from tests.bpf.packets import TCP, UDP, dissect, ip_packet, link_header, pseudo_header
from tests.bpf.plane import Arrival, Plane
from tests.bpf.talk import FULL_WINDOW_BYTES, Talk, talk
from tests.rig.segment import SEQUENCE_SPACE, End, checksum, end

ROUTER = {4: end("192.0.2.254", 0), 6: end("2001:db8:f::1", 0)}
ICMP = {4: 1, 6: 58}
TOO_BIG = {4: (3, 4), 6: (2, 0)}
QUOTED_BYTES = 400
PADDING = 3
GROWN = 12 + PADDING
IPV6_LEAST = 1280


def icmp(version: int, kind: tuple[int, int], mtu: int, quoted: bytes) -> bytes:
    """An error as the router sends it to the local end."""
    source, target = ROUTER[version], TALKS_FROM[version]
    body = struct.pack("!HH" if version == 4 else "!I", *((0, mtu) if version == 4 else (mtu,)))
    message = bytes(kind) + b"\0\0" + body + quoted
    pseudo = b"" if version == 4 else pseudo_header(source, target, ICMP[6], len(message))
    value = checksum(pseudo + message)
    message = message[:2] + value.to_bytes(2, "big") + message[4:]
    return link_header(version, incoming=True) + ip_packet(source, target, ICMP[version], message)


TALKS_FROM = {4: end("198.51.100.1", 51820), 6: end("2001:db8:1::1", 51820)}


def established(plane: Plane, version: int) -> Talk:
    conversation = talk(plane, version, FlowSettings(padding=PADDING))
    conversation.connect()
    assert conversation.local.address == TALKS_FROM[version].address
    plane.counted()
    return conversation


def quoted_of(source: End, target: End, seq: int, protocol: int = TCP) -> bytes:
    """The beginning of a packet that we sent, TTL spent as far as the router."""
    transport = struct.pack("!HHI", source.port, target.port, seq) + b"\x55" * QUOTED_BYTES
    return ip_packet(source, target, protocol, transport)


def last_sent(conversation: Talk) -> int:
    return (conversation.entry.seq - 1000) % SEQUENCE_SPACE


@pytest.mark.parametrize("mtu", [1280, 1295, 1400, 1492, 9000])
@pytest.mark.parametrize("version", [4, 6])
def test_an_error_about_a_segment_becomes_one_about_its_datagram(
    plane: Plane, version: int, mtu: int
) -> None:
    conversation = established(plane, version)
    quoted = quoted_of(conversation.local, conversation.remote, last_sent(conversation))
    frame = icmp(version, TOO_BIG[version], mtu, quoted)
    before = conversation.entry
    arrived = plane.ingress(frame)
    assert arrived.kind is Arrival.PASSED
    after = arrived.frame
    assert len(after) == len(frame)
    at = 14 + (20 if version == 4 else 40)
    assert after[:at] == frame[:at]
    message = after[at:]
    pseudo = b"" if version == 4 else pseudo_header(ROUTER[6], TALKS_FROM[6], ICMP[6], len(message))
    assert checksum(pseudo + message) == 0
    told = int.from_bytes(message[4:8], "big")
    assert told == (mtu - GROWN if version == 4 else max(IPV6_LEAST, mtu - GROWN))
    # the quoted packet is shorter on the wire than it is told; what was cut off does not matter
    inner = dissect(message[8:].ljust(8 + len(quoted), b"\0"), link_bytes=0)
    assert inner.protocol == UDP
    assert (inner.source, inner.target) == (conversation.local, conversation.remote)
    length = len(quoted) - (20 if version == 4 else 40) - GROWN
    assert struct.unpack_from("!HH", inner.transport, 4) == (length, 0)
    assert len(inner.transport) == length
    if version == 4:
        assert checksum(inner.network) == 0
    assert plane.counted() == {"rx-path-mtu": 1}
    assert conversation.entry == before


def test_a_router_that_tells_no_mtu_is_believed_that_it_was_too_big(plane: Plane) -> None:
    conversation = established(plane, 4)
    quoted = quoted_of(conversation.local, conversation.remote, last_sent(conversation))
    arrived = plane.ingress(icmp(4, TOO_BIG[4], 0, quoted))
    assert arrived.frame[34 + 4 : 34 + 8] == bytes(4)
    assert plane.counted() == {"rx-path-mtu": 1}


@pytest.mark.parametrize("version", [4, 6])
def test_what_quotes_nothing_of_ours_passes_as_it_is(plane: Plane, version: int) -> None:
    conversation = established(plane, version)
    local, remote, seq = conversation.local, conversation.remote, last_sent(conversation)
    ours = quoted_of(local, remote, seq)
    behind = (conversation.entry.seq + 5) % SEQUENCE_SPACE
    long_ago = (conversation.entry.seq - FULL_WINDOW_BYTES - 1) % SEQUENCE_SPACE
    too_short = (0, 1, 19, 27) if version == 4 else (0, 1, 39, 47)
    least = 67 + GROWN if version == 4 else IPV6_LEAST - 1
    frames = [
        *(icmp(version, TOO_BIG[version], mtu, ours) for mtu in (1, least)),
        icmp(version, TOO_BIG[version], 1400, quoted_of(local, remote, behind)),
        icmp(version, TOO_BIG[version], 1400, quoted_of(local, remote, long_ago)),
        icmp(version, TOO_BIG[version], 1400, quoted_of(local, replace(remote, port=9), seq)),
        icmp(version, TOO_BIG[version], 1400, quoted_of(remote, local, seq)),
        icmp(version, TOO_BIG[version], 1400, quoted_of(local, remote, seq, UDP)),
        icmp(version, (3, 1) if version == 4 else (1, 0), 1400, ours),
        icmp(version, (8, 0) if version == 4 else (128, 0), 1400, ours),
        *(icmp(version, TOO_BIG[version], 1400, ours[:size]) for size in too_short),
    ]
    for frame in frames:
        arrived = plane.ingress(frame)
        assert (arrived.kind, arrived.frame) == (Arrival.PASSED, frame)
    assert plane.counted() == {}


@pytest.mark.parametrize("version", [4, 6])
def test_an_error_that_is_wrong_itself_stays_wrong(plane: Plane, version: int) -> None:
    conversation = established(plane, version)
    quoted = quoted_of(conversation.local, conversation.remote, last_sent(conversation))
    frame = bytearray(icmp(version, TOO_BIG[version], 1400, quoted))
    frame[-1] ^= 0xFF
    at = 14 + (20 if version == 4 else 40)
    message = plane.ingress(bytes(frame)).frame[at:]
    pseudo = b"" if version == 4 else pseudo_header(ROUTER[6], TALKS_FROM[6], ICMP[6], len(message))
    assert checksum(pseudo + message) != 0


@pytest.mark.parametrize("version", [4, 6])
def test_any_bytes_in_an_error_harm_nothing(plane: Plane, version: int) -> None:
    conversation = established(plane, version)
    before = conversation.entry
    source = random.Random(version)
    for _ in range(300):
        quoted = bytearray(quoted_of(conversation.local, conversation.remote, before.seq - 1000))
        for _ in range(source.randrange(1, 6)):
            quoted[source.randrange(48)] = source.randrange(256)
        frame = icmp(version, TOO_BIG[version], source.randrange(1 << 16), bytes(quoted))
        arrived = plane.ingress(frame[: source.randrange(54, len(frame))])
        assert arrived.kind is Arrival.PASSED
    assert conversation.entry == before
