# SPDX-License-Identifier: GPL-2.0-only
"""Received: what is addressed to a flow of ours and is no right segment changes only a counter."""

import struct
from dataclasses import replace

import pytest

from mimicd.core.connection import State
from mimicd.core.model import FlowSettings
from tests.bpf.packets import FRAGMENT, MORE_FRAGMENTS, TCP, dissect
from tests.bpf.plane import DELIVER_MARK, Arrival, Departure, Plane
from tests.bpf.talk import DATAGRAM, Talk, talk
from tests.bpf.test_ingress import frame_of, tcp_bytes
from tests.rig.segment import ACK, FIN, PSH, RST, SYN

URG = 0x20


def established(plane: Plane, version: int = 4, padding: int = 0) -> Talk:
    conversation = talk(plane, version, FlowSettings(padding=padding))
    conversation.connect()
    plane.counted()
    return conversation


def assert_dropped(conversation: Talk, frame: bytes, counter: str) -> None:
    """Dropped and counted; the connection is as it was."""
    before = conversation.entry
    assert conversation.plane.ingress(frame).kind is Arrival.DROPPED
    assert conversation.plane.counted() == {counter: 1}
    assert conversation.entry == before


def test_a_first_fragment_is_dropped(plane: Plane) -> None:
    conversation = established(plane)
    frame = frame_of(conversation.data(), fragment=MORE_FRAGMENTS)
    assert_dropped(conversation, frame, "drop-rx-fragment")
    plane.reset()
    conversation = established(plane, 6)
    header = struct.pack("!BBHI", TCP, 0, 1, 7)
    frame = frame_of(conversation.data(), extensions=header, first_header=FRAGMENT)
    assert_dropped(conversation, frame, "drop-rx-fragment")


@pytest.mark.parametrize("version", [4, 6])
def test_an_ip_packet_longer_than_its_frame_is_dropped(plane: Plane, version: int) -> None:
    conversation = established(plane, version)
    for datagram in (b"", b"x", DATAGRAM, bytes(1000)):
        segment = conversation.data(datagram)
        for missing in (1, 2, 11, 12, 13, 500):
            frame = frame_of(segment, length_error=missing)
            assert_dropped(conversation, frame, "drop-rx-malformed")


def test_a_control_segment_longer_than_its_frame_is_dropped(plane: Plane) -> None:
    conversation = established(plane)
    for flags in (ACK, RST, FIN | ACK, SYN):
        frame = frame_of(conversation.segment(flags, seq=conversation.entry.ack), length_error=1)
        assert_dropped(conversation, frame, "drop-rx-malformed")


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_shorter_than_its_segment_stays_corrupt(plane: Plane, version: int) -> None:
    for cut in (1, 2, 3, 12, 20):
        plane.reset()
        conversation = established(plane, version)
        arrived = plane.ingress(frame_of(conversation.data(), length_error=-cut))
        assert arrived.kind is Arrival.PASSED
        after = dissect(arrived.frame)
        assert len(after.transport) == 8 + len(DATAGRAM) - cut
        assert not after.trailer
        assert not after.transport_checksum_right


@pytest.mark.parametrize("version", [4, 6])
def test_a_header_that_is_cut_is_dropped(plane: Plane, version: int) -> None:
    conversation = established(plane, version)
    segment = conversation.segment(ACK)
    for left in range(8, 20):
        frame = frame_of(segment, length_error=left - 20)
        assert_dropped(conversation, frame, "drop-rx-malformed")
        # and the bytes are not even there
        assert_dropped(conversation, frame[: left - 20], "drop-rx-malformed")


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 6, 15])
def test_a_data_offset_outside_the_segment_is_dropped(plane: Plane, offset: int) -> None:
    for version in (4, 6):
        plane.reset()
        conversation = established(plane, version)
        for flags in (ACK, ACK | PSH, RST, SYN):
            frame = bytearray(frame_of(conversation.segment(flags, b"xy")))
            frame[14 + (20 if version == 4 else 40) + 12] = offset << 4
            assert_dropped(conversation, bytes(frame), "drop-rx-malformed")


@pytest.mark.parametrize("offset", range(5, 16))
def test_any_data_offset_inside_the_segment_is_followed(plane: Plane, offset: int) -> None:
    conversation = established(plane)
    segment = replace(conversation.data(), options=b"\1" * (4 * offset - 20))
    arrived = plane.ingress(frame_of(segment))
    assert dissect(arrived.frame).transport[8:] == DATAGRAM
    assert tcp_bytes(segment)[12] == offset << 4


@pytest.mark.parametrize(
    ("flags", "payload"),
    [(ACK, b""), (ACK, b"\0"), (RST, b""), (RST | ACK, b""), (FIN | ACK, b""), (SYN, b"")],
)
def test_a_control_segment_with_a_wrong_checksum_is_dropped(
    plane: Plane, flags: int, payload: bytes
) -> None:
    for version in (4, 6):
        plane.reset()
        conversation = established(plane, version)
        frame = frame_of(conversation.segment(flags, payload))
        for place in range(4, 20):
            if place in (12, 13):  # the data offset and the flags make it another segment
                continue
            broken = bytearray(frame)
            broken[14 + (20 if version == 4 else 40) + place] ^= 0x40
            assert_dropped(conversation, bytes(broken), "drop-rx-checksum")


def test_a_wrong_checksum_is_found_however_long_a_syn_is(plane: Plane) -> None:
    """Some put data into a SYN; it is summed in pieces of 64 bytes."""
    conversation = talk(plane)
    for size in (*range(60), 63, 64, 65, 127, 128, 1000, 1440, 1996, 2000, 2016):
        segment = replace(conversation.syn(), payload=bytes(range(256)) * 8)
        segment = replace(segment, payload=segment.payload[:size])
        frame = bytearray(frame_of(segment))
        frame[-1] ^= 1
        assert plane.ingress(bytes(frame)).kind is Arrival.DROPPED
        assert plane.counted() == {"drop-rx-checksum": 1}
        answer = conversation.answer(segment)
        assert answer.ack == segment.seq + 1 + size
        plane.counted()


@pytest.mark.parametrize("flags", [SYN | FIN, SYN | FIN | ACK, 0, PSH, URG])
def test_flags_that_make_no_sense_are_dropped(plane: Plane, flags: int) -> None:
    conversation = established(plane)
    before = conversation.entry
    assert plane.ingress(frame_of(conversation.segment(flags, b"xy"))).kind is Arrival.DROPPED
    assert plane.counted() == {"drop-rx-flags": 1}
    assert conversation.entry.ack == before.ack
    assert conversation.state() is State.ESTABLISHED


@pytest.mark.parametrize("padding", [1, 7, 16])
def test_data_shorter_than_the_padding_is_dropped(plane: Plane, padding: int) -> None:
    conversation = established(plane, padding=padding)
    ack = conversation.entry.ack
    for size in range(padding):
        segment = conversation.segment(ACK | PSH, bytes(size))
        assert plane.ingress(frame_of(segment)).kind is Arrival.DROPPED
    assert plane.counted() == {"drop-rx-short": padding}
    assert conversation.entry.ack == ack
    assert conversation.entry.drops[-1] == padding


BROKEN_OPTIONS = {
    "a length of 0": b"\x02\x00\x05\xb4",
    "a length of 1": b"\x03\x01\x01\x01",
    "a length beyond the header": b"\x01\x01\x02\x04",
    "no length": b"\x01\x01\x01\x02",
    "an unknown option beyond the header": b"\x08\x0a\0\0",
}


@pytest.mark.parametrize("options", BROKEN_OPTIONS.values(), ids=BROKEN_OPTIONS.keys())
def test_a_syn_with_a_broken_option_is_dropped(plane: Plane, options: bytes) -> None:
    conversation = talk(plane)
    segment = replace(conversation.syn(), options=options, payload=b"\x04\x04\x04")
    assert plane.ingress(frame_of(segment)).kind is Arrival.DROPPED
    assert plane.counted() == {"drop-rx-options": 1}
    assert conversation.state() is None


def test_a_frame_without_a_note_passes_tc_ingress_bit_for_bit(xdp_plane: Plane) -> None:
    conversation = established(xdp_plane)
    frame = frame_of(conversation.data())
    for mark in (0, DELIVER_MARK, 7):
        run = xdp_plane.reply(frame, mark)
        assert (run.result, run.data) == (Departure.SENT, frame)
    assert xdp_plane.counted() == {}
