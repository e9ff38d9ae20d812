# SPDX-License-Identifier: GPL-2.0-only
"""Control segments on the wire: what an answer, and a SYN, looks like around its TCP header."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bpf.packets import (
    DESTINATION_OPTIONS,
    HOP_BY_HOP,
    LOCAL_MAC,
    REMOTE_MAC,
    SERVICE_VLAN,
    TCP,
    UDP,
    VLAN,
    Tag,
    dissect,
    extension_chain,
    ip_packet,
    link_header,
    udp,
)
from tests.bpf.plane import Arrival, Departure, Plane
from tests.bpf.talk import DATAGRAM, Talk, talk
from tests.bpf.test_ingress import frame_of
from tests.rig.segment import ACK, PSH, SYN, decode_syn_options

TAGS: tuple[tuple[Tag, ...], ...] = ((), ((VLAN, 7),), ((SERVICE_VLAN, 7), (VLAN, 0x2008)))


def syn_ack_to(plane: Plane, frame: bytes) -> bytes:
    arrived = plane.ingress(frame)
    assert arrived.kind is Arrival.ANSWERED
    after = dissect(arrived.frame)
    assert after.network_checksum_right
    assert after.transport_checksum_right
    assert after.transport[13] == SYN | ACK
    assert not after.trailer
    return arrived.frame


@pytest.mark.parametrize("tags", TAGS, ids=len)
@pytest.mark.parametrize("version", [4, 6])
def test_an_answer_goes_back_the_way_it_came(
    plane: Plane, version: int, tags: tuple[Tag, ...]
) -> None:
    conversation = talk(plane, version)
    frame = link_header(version, tags, incoming=True) + frame_of(conversation.syn())[14:]
    answer = syn_ack_to(plane, frame)
    after = dissect(answer)
    assert after.link == link_header(version, tags)
    assert after.link[:12] == REMOTE_MAC + LOCAL_MAC
    assert (after.source, after.target) == (conversation.local, conversation.remote)
    if version == 4:
        header = after.network
        assert (header[0], header[8], header[6:8]) == (0x45, 64, b"\x40\0")
    else:
        assert after.network[:4] == b"\x60\0\0\0"
        assert after.network[7] == 64


@pytest.mark.parametrize("trailer", [b"", bytes(6), bytes(400)], ids=len)
def test_an_answer_has_neither_the_options_nor_the_length_of_the_question(
    plane: Plane, trailer: bytes
) -> None:
    conversation = talk(plane)
    frame = frame_of(conversation.syn(), options=b"\x94\x04\0\0" + b"\1" * 36)
    assert len(dissect(syn_ack_to(plane, frame + trailer)).network) == 20
    conversation = talk(plane, 6)
    extensions = extension_chain([HOP_BY_HOP, DESTINATION_OPTIONS], TCP, units=4)
    frame = frame_of(conversation.syn(), extensions=extensions, first_header=HOP_BY_HOP)
    assert len(dissect(syn_ack_to(plane, frame + trailer)).network) == 40


@pytest.mark.parametrize("tags", TAGS, ids=len)
@pytest.mark.parametrize("version", [4, 6])
def test_a_syn_keeps_what_is_around_the_datagram(
    plane: Plane, version: int, tags: tuple[Tag, ...]
) -> None:
    conversation = talk(plane, version)
    ends = (conversation.local, conversation.remote)
    datagram = udp(*ends, DATAGRAM)
    if version == 4:
        packet = ip_packet(*ends, UDP, datagram, options=b"\x94\x04\0\0")
    else:
        extensions = extension_chain([DESTINATION_OPTIONS], UDP)
        packet = ip_packet(
            *ends, UDP, datagram, extensions=extensions, first_header=DESTINATION_OPTIONS
        )
    frame = link_header(version, tags) + packet
    run = plane.egress(frame)
    assert run.result == Departure.SENT
    before, after = dissect(frame), dissect(run.data)
    assert after.link == before.link
    assert len(after.network) == len(before.network)
    assert (after.protocol, after.transport[13], after.trailer) == (TCP, SYN, b"")
    assert after.network_checksum_right
    assert after.transport_checksum_right


def test_a_syn_in_place_of_any_datagram_is_right(whole_sum_plane: Plane) -> None:
    """It may be longer or shorter than what it takes the place of."""
    for version in (4, 6):
        whole_sum_plane.reset()
        for size in (0, 1, 2, 23, 24, 25, 1000):
            conversation = talk(whole_sum_plane, version)
            whole_sum_plane.maps["conns"].delete(conversation.key)
            assert conversation.sent(bytes(size)).flags == SYN


@pytest.mark.parametrize(
    ("mtu_bytes", "mss4", "mss6"),
    [
        (68, 536, 1220),
        (576, 536, 1220),
        (577, 537, 1220),
        (1280, 1240, 1220),
        (1281, 1241, 1221),
        (1500, 1460, 1440),
        (9000, 8960, 8940),
        (65535, 65495, 65475),
        (65536, 65495, 65475),
    ],
)
def test_the_mss_is_what_the_mtu_leaves(plane: Plane, mtu_bytes: int, mss4: int, mss6: int) -> None:
    plane.reset(mtu_bytes)
    for version, mss in ((4, mss4), (6, mss6)):
        conversation = talk(plane, version)
        options = decode_syn_options(conversation.answer(conversation.syn()).options)
        assert options is not None
        assert (options.mss, options.scale, options.sack_permitted) == (mss, 12, True)


def spoiled(frame: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    raw = bytearray(frame)
    for place, value in changes:
        raw[14 + place % (len(raw) - 14)] = value
    return bytes(raw[: max(len(raw) - cut, 34)])


SPOILED: dict[str, st.SearchStrategy[Any]] = {
    "version": st.sampled_from([4, 6]),
    "changes": st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=4),
    "cut": st.integers(0, 20),
    "size": st.integers(0, 80),
}


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**SPOILED)
def test_whatever_comes_is_passed_or_answered_or_counted(
    plane: Plane, version: int, changes: list[tuple[int, int]], cut: int, size: int
) -> None:
    plane.reset()
    conversation = established(plane, version)
    for flags, payload in ((ACK | PSH, bytes(size)), (ACK, b""), (SYN, b"")):
        frame = spoiled(frame_of(conversation.segment(flags, payload)), changes, cut)
        arrived = plane.ingress(frame)
        if arrived.kind is Arrival.DROPPED:
            assert plane.counted()
        elif not plane.counted():
            assert arrived.frame == frame


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**SPOILED)
def test_whatever_leaves_is_untouched_or_counted(
    plane: Plane, version: int, changes: list[tuple[int, int]], cut: int, size: int
) -> None:
    plane.reset()
    conversation = established(plane, version)
    ends = (conversation.local, conversation.remote)
    right = link_header(version) + ip_packet(*ends, UDP, udp(*ends, bytes(size)))
    # a test run takes no frame with less than an IP header behind the EtherType
    frame = spoiled(right, changes, cut).ljust(14 + 40, b"\0")
    run = plane.egress(frame)
    if not plane.counted():
        assert (run.result, run.data) == (Departure.SENT, frame)


def established(plane: Plane, version: int) -> Talk:
    conversation = talk(plane, version)
    conversation.connect()
    plane.counted()
    return conversation
