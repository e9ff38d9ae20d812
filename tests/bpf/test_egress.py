# SPDX-License-Identifier: GPL-2.0-only
"""TC egress, frame by frame: what is ours leaves as a right data segment, all else untouched."""

import random

import pytest

from mimicd.core.model import PADDING_RANDOM, FlowSettings
from tests.bpf.disguised import assert_disguised
from tests.bpf.packets import (
    DESTINATION_OPTIONS,
    FRAGMENT,
    HOP_BY_HOP,
    ROUTING,
    SERVICE_VLAN,
    UDP,
    VLAN,
    Tag,
    extension_chain,
    ip_packet,
    link_header,
    udp,
    udp_frame,
)
from tests.bpf.plane import Departure, Plane
from tests.bpf.talk import HIGHER_REMOTE, LOCAL, Talk, talk
from tests.rig.segment import RST, Segment, encode_packet, end

BUILDS = ["plane", "whole_sum_plane"]
PADDINGS = [*range(17), PADDING_RANDOM]
SIZES = [*range(65), 127, 128, 129, 500, 511, 512, 513, 1023, 1024, 1025, 1399, 1400, 1439]
LARGE_SIZES = [2047, 2048, 2049, 3000, 3400]
TAGS: dict[str, tuple[Tag, ...]] = {
    "one tag": ((VLAN, 0x6005),),
    "two tags": ((SERVICE_VLAN, 0x0007), (VLAN, 0x2FFF)),
}
OPTIONS = b"\x94\x04\0\0\x01\x01\x01\x01\x07\x1f\x04".ljust(40, b"\0")
CHAIN = (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, *(DESTINATION_OPTIONS,) * 6)


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def connected(plane: Plane, version: int, padding: int = 0) -> Talk:
    conversation = talk(plane, version, FlowSettings(padding=padding))
    conversation.connect()
    plane.counted()
    return conversation


def send_data(conversation: Talk, frame: bytes, padding: int = 0, **expected: bool) -> None:
    before = conversation.entry
    run = conversation.plane.egress(frame)
    assert run.result == Departure.SENT
    assert_disguised(frame, run.data, before, padding, **expected)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_of_any_size_becomes_a_data_segment(
    sending_plane: Plane, version: int, padding: int
) -> None:
    conversation = connected(sending_plane, version, padding)
    # 1500 bytes of MTU, less the longest headers and padding
    sizes = [size for size in SIZES if size <= 1500 - 40 - 20 - 16]
    total = conversation.entry.tx_bytes
    for size in sizes:
        frame = udp_frame(conversation.local, conversation.remote, payload(size))
        send_data(conversation, frame, padding)
        conversation.take_all()
    assert sending_plane.counted()["tx-data"] == len(sizes)
    assert conversation.entry.tx_bytes == total + sum(sizes)


@pytest.mark.parametrize("version", [4, 6])
def test_a_large_datagram_becomes_a_data_segment(sending_plane: Plane, version: int) -> None:
    for padding in (0, 3, 16):
        sending_plane.reset(mtu_bytes=9000)
        conversation = connected(sending_plane, version, padding)
        for size in LARGE_SIZES:
            frame = udp_frame(conversation.local, conversation.remote, payload(size))
            send_data(conversation, frame, padding)


@pytest.mark.parametrize("padding", [0, 1, 15, PADDING_RANDOM])
@pytest.mark.parametrize("options_bytes", range(4, 44, 4))
def test_options_of_ipv4_stay(sending_plane: Plane, options_bytes: int, padding: int) -> None:
    conversation = connected(sending_plane, 4, padding)
    for size in (0, 1, 11, 12, 13, 40, 41, 1000):
        datagram = udp(conversation.local, conversation.remote, payload(size))
        options = OPTIONS[:options_bytes]
        ends = (conversation.local, conversation.remote)
        send_data(
            conversation, link_header(4) + ip_packet(*ends, UDP, datagram, options=options), padding
        )


@pytest.mark.parametrize("units", [0, 1, 3])
@pytest.mark.parametrize("depth", range(1, 9))
def test_extension_headers_of_ipv6_stay(sending_plane: Plane, depth: int, units: int) -> None:
    conversation = connected(sending_plane, 6, 5)
    kinds = CHAIN[:depth]
    for size in (0, 1, 17, 18, 40, 41, 1000):
        datagram = udp(conversation.local, conversation.remote, payload(size))
        packet = ip_packet(
            conversation.local,
            conversation.remote,
            UDP,
            datagram,
            extensions=extension_chain(kinds, UDP, units),
            first_header=kinds[0],
        )
        send_data(conversation, link_header(6) + packet, 5)


def test_the_longest_extension_headers_stay(sending_plane: Plane) -> None:
    """Ethernet, IPv6 and 264 bytes of extension headers are 318 bytes: as far as is looked."""
    conversation = connected(sending_plane, 6)
    ends = (conversation.local, conversation.remote)
    first = extension_chain([HOP_BY_HOP], DESTINATION_OPTIONS)
    rest = extension_chain([DESTINATION_OPTIONS, DESTINATION_OPTIONS], UDP, units=15)
    assert len(first + rest) == 264
    packet = ip_packet(
        *ends, UDP, udp(*ends, payload(100)), extensions=first + rest, first_header=HOP_BY_HOP
    )
    send_data(conversation, link_header(6) + packet)


@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS.keys())
@pytest.mark.parametrize("version", [4, 6])
def test_vlan_tags_stay(plane: Plane, version: int, tags: tuple[Tag, ...]) -> None:
    conversation = connected(plane, version, 2)
    ends = (conversation.local, conversation.remote)
    for size in (0, 1, 13, 14, 60, 1000):
        packet = ip_packet(*ends, UDP, udp(*ends, payload(size)))
        send_data(conversation, link_header(version, tags) + packet, 2)


@pytest.mark.parametrize("version", [4, 6])
def test_an_interface_without_link_header_sends_data_segments(
    headerless_plane: Plane, version: int
) -> None:
    for padding in (0, 7):
        headerless_plane.reset()
        settings = FlowSettings(padding=padding)
        conversation = talk(headerless_plane, version, settings, link_bytes=0)
        conversation.connect()
        for size in (0, 1, 19, 20, 41, 1000):
            before = conversation.entry
            frame = udp_frame(conversation.local, conversation.remote, payload(size))[14:]
            run = headerless_plane.egress(frame)
            assert run.result == Departure.SENT
            assert_disguised(frame, run.data, before, padding, link_bytes=0)


@pytest.mark.parametrize("padding", [0, 1, 16])
@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_without_checksum_gets_a_whole_one(
    sending_plane: Plane, version: int, padding: int
) -> None:
    conversation = connected(sending_plane, version, padding)
    ends = (conversation.local, conversation.remote)
    for size in SIZES[:70]:
        packet = ip_packet(*ends, UDP, udp(*ends, payload(size), check=0))
        send_data(conversation, link_header(version) + packet, padding)


@pytest.mark.parametrize("version", [4, 6])
def test_a_wrong_checksum_stays_wrong(plane: Plane, version: int) -> None:
    for padding in (0, 1, 6):
        plane.reset()
        conversation = connected(plane, version, padding)
        ends = (conversation.local, conversation.remote)
        for size in (1, 2, 12, 13, 30, 31):
            broken = bytearray(udp_frame(*ends, payload(size)))
            broken[-1 - size // 2] ^= 0x10
            send_data(conversation, bytes(broken), padding, checksum_right=False)


def test_link_padding_behind_the_datagram_is_cut_off(sending_plane: Plane) -> None:
    for version in (4, 6):
        sending_plane.reset()
        conversation = connected(sending_plane, version)
        frame = udp_frame(conversation.local, conversation.remote, b"short")
        before = conversation.entry
        run = sending_plane.egress(frame + b"\xaa" * 30)
        assert run.result == Departure.SENT
        assert_disguised(frame, run.data, before, 0)


def test_padding_is_not_the_same_each_time(plane: Plane) -> None:
    conversation = connected(plane, 4, 16)
    sent = [conversation.sent(b"x").payload[:16] for _ in range(8)]
    assert len(set(sent)) == 8


def others() -> dict[str, bytes]:
    """Frames that are none of our flow's datagrams."""
    local, remote = LOCAL[4], HIGHER_REMOTE[4]
    local6, remote6 = LOCAL[6], HIGHER_REMOTE[6]
    plain = udp_frame(local, remote, payload(40))
    plain6 = udp_frame(local6, remote6, payload(40))
    datagram6 = udp(local6, remote6, payload(40))
    nine = extension_chain(CHAIN, UDP)
    assert len(nine) == 9 * 8

    def at(frame: bytes, offset: int, value: int) -> bytes:
        return frame[:offset] + bytes([value]) + frame[offset + 1 :]

    def six(extensions: bytes, first: int) -> bytes:
        return link_header(6) + ip_packet(
            local6, remote6, UDP, datagram6, extensions=extensions, first_header=first
        )

    return {
        "ARP": plain[:12] + b"\x08\x06" + plain[14:],
        "three VLAN tags": link_header(4, [(VLAN, 1), (VLAN, 2), (VLAN, 3)]) + plain[14:],
        "TCP": link_header(4) + encode_packet(Segment(local, remote, RST, 1)),
        "another port": udp_frame(end("198.51.100.1", 51821), remote, payload(40)),
        "another address": udp_frame(end("198.51.100.2", 51820), remote, payload(40)),
        "the reverse": udp_frame(remote, local, payload(40)),
        "another address of IPv6": udp_frame(end("2001:db8:1::2", 51820), remote6, payload(40)),
        "a header of 16 bytes": at(plain, 14, 0x44),
        "version 5": at(plain, 14, 0x55),
        "version 4 in IPv6": at(plain6, 14, 0x40),
        "an IP length below its header": at(at(plain, 16, 0), 17, 19),
        "an IP length without room for UDP": at(at(plain, 16, 0), 17, 27),
        "an IPv6 length without room for UDP": at(at(plain6, 18, 0), 19, 7),
        "a later fragment": link_header(4)
        + ip_packet(local, remote, UDP, udp(local, remote, payload(40)), fragment=5),
        "a later fragment of IPv6": six(b"\x11\0\0\x28\0\0\0\1", FRAGMENT),
        "nine extension headers": six(nine, HOP_BY_HOP),
        "an extension header longer than the packet": six(b"\x11\x20" + bytes(6), HOP_BY_HOP),
        "an unknown extension header": six(b"\x11\0" + bytes(6), 51),
        # behind a tag, since a test run takes no frame with less of an IP header itself
        "a cut IP header": link_header(4, [(VLAN, 1)]) + plain[14:30],
        "a cut IPv6 header": link_header(6, [(VLAN, 1)]) + plain6[14:50],
        "a cut extension header": six(b"\x11\0" + bytes(6), HOP_BY_HOP)[:58],
        "no room for ports": plain[:36],
        "only a link header": link_header(4, [(VLAN, 1)]),
    }


OTHERS = others()


@pytest.mark.parametrize("frame", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_not_ours_leaves_bit_for_bit(sending_plane: Plane, frame: bytes) -> None:
    for version in (4, 6):
        talk(sending_plane, version)
    run = sending_plane.egress(frame)
    assert (run.result, run.data) == (Departure.SENT, frame)
    assert sending_plane.counted() == {}
    assert sending_plane.maps["conns"].all_keys() == []


def test_without_a_filter_everything_leaves_bit_for_bit(sending_plane: Plane) -> None:
    for version in (4, 6):
        frame = udp_frame(LOCAL[version], HIGHER_REMOTE[version], payload(100))
        run = sending_plane.egress(frame)
        assert (run.result, run.data) == (Departure.SENT, frame)
    assert sending_plane.counted() == {}
