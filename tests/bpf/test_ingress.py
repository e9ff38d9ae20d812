# SPDX-License-Identifier: GPL-2.0-only
"""Received, frame by frame: a data segment becomes the datagram that it was, all else passes."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mimicd.core.model import PADDING_RANDOM, FlowSettings
from tests.bpf.disguised import restored
from tests.bpf.packets import (
    DESTINATION_OPTIONS,
    FRAGMENT,
    HOP_BY_HOP,
    ROUTING,
    SERVICE_VLAN,
    TCP,
    VLAN,
    dissect,
    extension_chain,
    ip_packet,
    link_header,
    udp_frame,
)
from tests.bpf.plane import Arrival, Plane
from tests.bpf.talk import HIGHER_REMOTE, LOCAL, Talk, talk
from tests.rig.segment import ACK, PSH, Segment, checksum, encode_packet, end

PADDINGS = [*range(17), PADDING_RANDOM]
SIZES = [*range(65), 127, 128, 129, 500, 1000, 1424]
LARGE_SIZES = [2047, 2048, 2049, 3000, 3350]
ROLES = ["connect", "accept"]
CHAIN = (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, *(DESTINATION_OPTIONS,) * 6)


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def established(plane: Plane, version: int, padding: int = 0) -> Talk:
    conversation = talk(plane, version, FlowSettings(padding=padding))
    conversation.connect()
    plane.counted()
    return conversation


def tcp_bytes(segment: Segment) -> bytes:
    return encode_packet(segment)[20 if segment.source.version == 4 else 40 :]


def frame_of(segment: Segment, **network: object) -> bytes:
    """An incoming frame with this segment; `network` goes to packets.ip_packet()."""
    ends = (segment.source, segment.target)
    packet = ip_packet(*ends, TCP, tcp_bytes(segment), **network)  # type: ignore[arg-type]
    return link_header(segment.source.version, incoming=True) + packet


def assert_delivered(plane: Plane, frame: bytes, padding: int, link_bytes: int = 14) -> None:
    arrived = plane.ingress(frame)
    assert arrived.kind is Arrival.PASSED
    assert arrived.frame == restored(frame, padding, link_bytes)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("version", [4, 6])
def test_a_data_segment_of_any_size_becomes_its_datagram(
    plane: Plane, version: int, padding: int
) -> None:
    conversation = established(plane, version, padding)
    for size in SIZES:
        assert_delivered(plane, frame_of(conversation.data(payload(size))), padding)
    assert plane.counted() == {"rx-data": len(SIZES)}
    assert conversation.entry.rx_packets == len(SIZES)
    assert conversation.entry.rx_bytes == sum(SIZES)
    assert conversation.entry.ack == conversation.peer_seq


@pytest.mark.parametrize("version", [4, 6])
def test_a_large_data_segment_becomes_its_datagram(plane: Plane, version: int) -> None:
    for padding in (0, 3, 16):
        plane.reset()
        conversation = established(plane, version, padding)
        for size in LARGE_SIZES:
            assert_delivered(plane, frame_of(conversation.data(payload(size))), padding)


@pytest.mark.parametrize("padding", [0, 1, 16])
def test_data_without_push_is_delivered_from_two_bytes_on(plane: Plane, padding: int) -> None:
    conversation = established(plane, 4, padding)
    for size in range(2, 40):
        assert_delivered(plane, frame_of(conversation.data(payload(size), ACK)), padding)


@pytest.mark.parametrize("padding", [0, 1, 8, 16])
@pytest.mark.parametrize("words", range(1, 11))
def test_options_of_tcp_are_skipped(plane: Plane, words: int, padding: int) -> None:
    for version in (4, 6):
        plane.reset()
        conversation = established(plane, version, padding)
        for size in (0, 1, 2, 27, 28, 29, 200, 201):
            segment = conversation.data(payload(size))
            segment = replace(segment, options=b"\x01\x01\x08\x0a\xde\xad\xbe\xef" * 5)
            segment = replace(segment, options=segment.options[: 4 * words])
            assert_delivered(plane, frame_of(segment), padding)


@pytest.mark.parametrize("options_bytes", range(4, 44, 4))
def test_options_of_ipv4_stay(plane: Plane, options_bytes: int) -> None:
    for padding in (0, 5, PADDING_RANDOM):
        plane.reset()
        conversation = established(plane, 4, padding)
        for size, tcp_options in ((0, b""), (1, b""), (41, b"\1" * 40), (300, b"\1" * 12)):
            segment = replace(conversation.data(payload(size)), options=tcp_options)
            options = b"\x94\x04\0\0".ljust(options_bytes, b"\1")
            assert_delivered(plane, frame_of(segment, options=options), padding)


@pytest.mark.parametrize("units", [0, 3])
@pytest.mark.parametrize("depth", range(1, 9))
def test_extension_headers_of_ipv6_stay(plane: Plane, depth: int, units: int) -> None:
    conversation = established(plane, 6, 5)
    extensions = extension_chain(CHAIN[:depth], TCP, units)
    for size, tcp_options in ((0, b""), (1, b""), (41, b"\1" * 40), (300, b"\1" * 12)):
        segment = replace(conversation.data(payload(size)), options=tcp_options)
        frame = frame_of(segment, extensions=extensions, first_header=CHAIN[0])
        assert_delivered(plane, frame, 5)


@pytest.mark.parametrize("version", [4, 6])
def test_vlan_tags_stay(plane: Plane, version: int) -> None:
    for tags in ([(VLAN, 0x6005)], [(SERVICE_VLAN, 7), (VLAN, 0x2FFF)]):
        plane.reset()
        conversation = established(plane, version, 2)
        for size in (0, 1, 13, 14, 1000):
            frame = frame_of(conversation.data(payload(size)))
            assert_delivered(plane, link_header(version, tags, incoming=True) + frame[14:], 2)


@pytest.mark.parametrize("version", [4, 6])
def test_an_interface_without_link_header_delivers_datagrams(
    headerless_plane: Plane, version: int
) -> None:
    for padding in (0, 7):
        headerless_plane.reset()
        settings = FlowSettings(padding=padding)
        conversation = talk(headerless_plane, version, settings, link_bytes=0)
        conversation.connect()
        for size in (0, 1, 19, 20, 1000):
            frame = frame_of(conversation.data(payload(size)))[14:]
            assert_delivered(headerless_plane, frame, padding, link_bytes=0)


def test_link_padding_behind_a_segment_is_cut_off(plane: Plane) -> None:
    conversation = established(plane, 4)
    for size in (0, 1, 3, 5):
        frame = frame_of(conversation.data(payload(size)))
        arrived = plane.ingress(frame.ljust(60, b"\0"))
        assert arrived.kind is Arrival.PASSED
        assert arrived.frame == restored(frame, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_a_checksum_that_comes_out_as_zero_is_sent_as_all_ones(plane: Plane, version: int) -> None:
    """RFC 768: zero would mean none."""
    conversation = established(plane, version)
    for size in (2, 12, 14, 40):
        datagram = payload(size)
        plain = restored(frame_of(conversation.data(datagram)), 0)
        check = int.from_bytes(dissect(plain).transport[6:8], "big")
        last = int.from_bytes(datagram[-2:], "big")
        # the sum of what is covered becomes all ones
        last = (last + check) % 0xFFFF
        frame = frame_of(conversation.data(datagram[:-2] + last.to_bytes(2, "big")))
        arrived = plane.ingress(frame)
        assert dissect(arrived.frame).transport[6:8] == b"\xff\xff"
        assert arrived.frame == restored(frame, 0)


@pytest.mark.parametrize("padding", [0, 1, 6])
@pytest.mark.parametrize("version", [4, 6])
def test_a_corrupted_segment_stays_corrupt(plane: Plane, version: int, padding: int) -> None:
    options = b"\1" * 8
    header_bytes = 14 + (20 if version == 4 else 40)
    for size in (2, 3, 20, 33):
        plane.reset()
        conversation = established(plane, version, padding)
        right = frame_of(replace(conversation.data(payload(size)), options=options))
        # every byte of options, padding and datagram, the window, the urgent pointer, the sum
        places = [*range(14, 20), *range(20, len(right) - header_bytes)]
        for place in places:
            broken = bytearray(right)
            broken[header_bytes + place] ^= 1 << place % 8
            arrived = plane.ingress(bytes(broken))
            assert arrived.kind is Arrival.PASSED
            after = dissect(arrived.frame)
            assert not after.transport_checksum_right, f"byte {place} was repaired"
            assert len(after.transport) == 8 + size


def others() -> Iterator[tuple[str, bytes]]:
    """Frames that are none of our flow's segments."""
    for version in (4, 6):
        local, remote = LOCAL[version], HIGHER_REMOTE[version]
        plain = frame_of(Segment(remote, local, ACK | PSH, 1, 2, 3, b"0123456789"))
        yield f"UDP {version}", udp_frame(remote, local, b"plain", incoming=True)
        elsewhere = end(str(local.address), 51821)
        yield f"another port {version}", frame_of(Segment(remote, elsewhere, ACK, 1))
        yield f"the reverse {version}", frame_of(Segment(local, remote, ACK, 1))
        yield f"no room for ports {version}", plain[: 14 + (20 if version == 4 else 40) + 2]
        # behind a tag, since a test run takes no frame with less of an IP header itself
        tagged = link_header(version, [(VLAN, 1)], incoming=True)
        yield f"a cut IP header {version}", tagged + plain[14:30]
        yield f"only a link header {version}", tagged
    plain = frame_of(Segment(HIGHER_REMOTE[4], LOCAL[4], ACK | PSH, 1, 2, 3, b"0123456789"))
    yield "ARP", plain[:12] + b"\x08\x06" + plain[14:]
    for ihl in range(5):
        yield f"a header of {ihl} words", plain[:14] + bytes([0x40 | ihl]) + plain[15:]
    yield "an IP length below its header", plain[:16] + b"\0\x13" + plain[18:]
    yield "an IP length of ports only", plain[:16] + b"\0\x1b" + plain[18:]
    segment = Segment(HIGHER_REMOTE[4], LOCAL[4], ACK | PSH, 1, 2, 3, b"0123456789")
    yield "a later fragment", frame_of(segment, fragment=9)
    segment = Segment(HIGHER_REMOTE[6], LOCAL[6], ACK | PSH, 1, 2, 3, b"0123456789")
    nine = extension_chain(CHAIN, TCP)
    yield "nine extension headers", frame_of(segment, extensions=nine, first_header=HOP_BY_HOP)
    later = b"\x06\0\0\x28\0\0\0\1"
    yield "a later IPv6 fragment", frame_of(segment, extensions=later, first_header=FRAGMENT)
    endless = b"\x06\xff" + bytes(6)
    yield "an endless extension", frame_of(segment, extensions=endless, first_header=HOP_BY_HOP)


OTHERS = dict(others())


@pytest.mark.parametrize("frame", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_not_ours_arrives_bit_for_bit(plane: Plane, frame: bytes) -> None:
    for version in (4, 6):
        talk(plane, version)
    arrived = plane.ingress(frame)
    assert (arrived.kind, arrived.frame) == (Arrival.PASSED, frame)
    assert plane.counted() == {}


def test_without_a_filter_everything_arrives_bit_for_bit(plane: Plane) -> None:
    for version in (4, 6):
        frame = frame_of(Segment(HIGHER_REMOTE[version], LOCAL[version], ACK | PSH, 1, 2, 3, b"x"))
        assert plane.ingress(frame).frame == frame
    assert plane.counted() == {}


def test_padding_varies_with_the_numbers_of_the_segment(plane: Plane) -> None:
    """(seq + ack) mod 11 of a sum that wraps at 2^32."""
    conversation = established(plane, 4, PADDING_RANDOM)
    for seq in (0, 1, 2**31, 2**32 - 1, 2**32 - conversation.peer_ack):
        conversation.peer_seq = seq % 2**32
        size = ((seq + conversation.peer_ack) % 2**32) % 11
        segment = conversation.data(b"twelve bytes")
        assert len(segment.payload) == 12 + size
        assert_delivered(plane, frame_of(segment), PADDING_RANDOM)


def test_the_reference_knows_a_right_frame_from_a_wrong_one() -> None:
    frame = udp_frame(LOCAL[4], HIGHER_REMOTE[4], b"odd")
    assert dissect(frame).transport_checksum_right
    assert checksum(dissect(frame).network) == 0
    assert not dissect(frame[:-1] + b"!").transport_checksum_right
