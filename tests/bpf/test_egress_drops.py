# SPDX-License-Identifier: GPL-2.0-only
"""TC egress: what is ours and cannot be sent right is not sent at all, and counted."""

import struct

import pytest

from mimicd.core.model import PADDING_RANDOM, FlowSettings
from tests.bpf.packets import (
    DONT_FRAGMENT,
    FRAGMENT,
    LOCAL_MAC,
    MORE_FRAGMENTS,
    REMOTE_MAC,
    UDP,
    VLAN,
    ip_packet,
    link_header,
    pseudo_header,
    udp,
    udp_frame,
)
from tests.bpf.plane import Departure, Plane
from tests.bpf.talk import DATAGRAM, HIGHER_REMOTE, LOCAL, Talk, talk
from tests.rig.segment import checksum

ICMP, ICMPV6 = 1, 58


def connected(plane: Plane, version: int, padding: int = 0) -> Talk:
    conversation = talk(plane, version, FlowSettings(padding=padding))
    conversation.connect()
    plane.counted()
    return conversation


def assert_dropped(conversation: Talk, frame: bytes, counter: str) -> None:
    before = conversation.entry
    run = conversation.plane.egress(frame)
    assert run.result == Departure.DROPPED
    assert conversation.plane.counted() == {counter: 1}
    assert conversation.entry == before


def test_a_first_fragment_is_dropped_and_a_later_one_passes(sending_plane: Plane) -> None:
    conversation = connected(sending_plane, 4)
    ends = (conversation.local, conversation.remote)
    datagram = udp(*ends, bytes(1400), length_error=1000)
    first = ip_packet(*ends, UDP, datagram, fragment=MORE_FRAGMENTS)
    assert_dropped(conversation, link_header(4) + first, "drop-fragment")
    later = link_header(4) + ip_packet(*ends, UDP, bytes(1000), fragment=1408 // 8)
    run = sending_plane.egress(later)
    assert (run.result, run.data) == (Departure.SENT, later)


def test_a_first_fragment_of_ipv6_is_dropped_and_a_later_one_passes(sending_plane: Plane) -> None:
    conversation = connected(sending_plane, 6)
    ends = (conversation.local, conversation.remote)

    def fragment(offset_and_more: int) -> bytes:
        header = struct.pack("!BBHI", UDP, 0, offset_and_more, 7)
        return link_header(6) + ip_packet(
            *ends, UDP, udp(*ends, bytes(64)), extensions=header, first_header=FRAGMENT
        )

    assert_dropped(conversation, fragment(1), "drop-fragment")
    later = fragment(64)
    run = sending_plane.egress(later)
    assert (run.result, run.data) == (Departure.SENT, later)
    # offset 0 and no more to come (RFC 6946): whole
    assert sending_plane.egress(fragment(0)).result == Departure.SENT
    assert sending_plane.counted() == {"tx-data": 1}


@pytest.mark.parametrize("version", [4, 6])
def test_lengths_that_do_not_agree_are_dropped(sending_plane: Plane, version: int) -> None:
    conversation = connected(sending_plane, version)
    ends = (conversation.local, conversation.remote)
    for ip_error, udp_error in ((0, 1), (0, -1), (0, -len(DATAGRAM) - 1), (-1, 0), (5, 5), (5, 0)):
        datagram = udp(*ends, DATAGRAM, length_error=udp_error)
        packet = ip_packet(*ends, UDP, datagram, length_error=ip_error)
        assert_dropped(conversation, link_header(version) + packet, "drop-malformed")


def test_a_superpacket_is_dropped_without_a_hop(plane: Plane) -> None:
    conversation = connected(plane, 4)
    frame = udp_frame(conversation.local, conversation.remote, bytes(1400))
    before = conversation.entry
    assert plane.egress(frame, gso_bytes=700).result == Departure.DROPPED
    assert plane.counted() == {"drop-superpacket": 1}
    assert conversation.entry == before


def test_a_superpacket_takes_the_hop_as_it_is(plane: Plane) -> None:
    conversation = connected(plane, 4)
    plane.configure(hop_ifindex=77)
    frame = udp_frame(conversation.local, conversation.remote, bytes(1400))
    run = plane.egress(frame, gso_bytes=700)
    assert (run.result, run.data) == (Departure.REDIRECTED, frame)
    assert plane.counted() == {"hop": 1}


@pytest.mark.parametrize("tags", [1, 2])
def test_an_unfinished_checksum_behind_a_vlan_tag_is_never_sent_wrong(
    whole_sum_plane: Plane, tags: int
) -> None:
    """The kernel's own helper knows IP directly behind Ethernet only."""
    conversation = connected(whole_sum_plane, 4)
    frame = udp_frame(conversation.local, conversation.remote, DATAGRAM)
    tagged = link_header(4, [(VLAN, 5)] * tags) + frame[14:]
    assert whole_sum_plane.egress(tagged).result == Departure.DROPPED
    assert whole_sum_plane.counted() == {"drop-rewrite": 1}


@pytest.mark.parametrize("padding", [0, 1, 16, PADDING_RANDOM])
@pytest.mark.parametrize("version", [4, 6])
def test_what_just_fits_the_mtu_is_sent(sending_plane: Plane, version: int, padding: int) -> None:
    conversation = connected(sending_plane, version, padding)
    most_padding = 10 if padding == PADDING_RANDOM else padding
    fits = 1500 - (20 if version == 4 else 40) - 20 - most_padding
    frame = udp_frame(conversation.local, conversation.remote, bytes(fits))
    run = sending_plane.egress(frame)
    assert run.result == Departure.SENT
    assert len(run.data) <= 14 + 1500
    assert sending_plane.counted() == {"tx-data": 1}
    frame = udp_frame(conversation.local, conversation.remote, bytes(fits + 1))
    assert sending_plane.egress(frame).result == Departure.REDIRECTED
    assert sending_plane.counted() == {"drop-too-big": 1}


@pytest.mark.parametrize("padding", [0, 5])
def test_what_does_not_fit_is_answered_with_fragmentation_needed(
    sending_plane: Plane, padding: int
) -> None:
    conversation = connected(sending_plane, 4, padding)
    frame = udp_frame(conversation.local, conversation.remote, bytes(1472))
    run = sending_plane.egress(frame)
    assert run.result == Departure.REDIRECTED
    packet = run.data[14:]
    assert run.data[:14] == LOCAL_MAC + REMOTE_MAC + b"\x08\x00"
    assert checksum(packet[:20]) == 0
    assert packet[9] == ICMP
    assert int.from_bytes(packet[2:4], "big") == len(packet)
    assert packet[12:20] == HIGHER_REMOTE[4].address.packed + LOCAL[4].address.packed
    message = packet[20:]
    assert checksum(message) == 0
    kind, code, _, _, mtu_bytes = struct.unpack_from("!BBHHH", message)
    assert (kind, code, mtu_bytes) == (3, 4, 1500 - 12 - padding)
    # RFC 792: the IP header and 64 bits of the datagram
    assert message[8:] == frame[14 : 14 + 28]


def test_what_does_not_fit_is_answered_with_packet_too_big(sending_plane: Plane) -> None:
    for mtu_bytes, told in ((1500, 1488), (1285, 1280)):
        sending_plane.reset(mtu_bytes)
        conversation = connected(sending_plane, 6)
        frame = udp_frame(conversation.local, conversation.remote, bytes(mtu_bytes - 48))
        run = sending_plane.egress(frame)
        assert run.result == Departure.REDIRECTED
        packet = run.data[14:]
        assert run.data[:14] == LOCAL_MAC + REMOTE_MAC + b"\x86\xdd"
        assert packet[6] == ICMPV6
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
        assert packet[8:40] == HIGHER_REMOTE[6].address.packed + LOCAL[6].address.packed
        message = packet[40:]
        pseudo = pseudo_header(conversation.remote, conversation.local, ICMPV6, len(message))
        assert checksum(pseudo + message) == 0
        assert struct.unpack_from("!BBHI", message)[::3] == (2, told)
        assert message[8:] == frame[14 : 14 + len(message) - 8]
        assert len(message) >= 8 + 40 + 8


def test_what_does_not_fit_and_may_be_fragmented_is_dropped(sending_plane: Plane) -> None:
    conversation = connected(sending_plane, 4)
    ends = (conversation.local, conversation.remote)
    packet = ip_packet(*ends, UDP, udp(*ends, bytes(1472)), fragment=0)
    assert_dropped(conversation, link_header(4) + packet, "drop-too-big")
    packet = ip_packet(*ends, UDP, udp(*ends, bytes(1400)), fragment=0)
    assert not int.from_bytes(packet[6:8], "big") & DONT_FRAGMENT
    assert sending_plane.egress(link_header(4) + packet).result == Departure.SENT
