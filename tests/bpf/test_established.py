# SPDX-License-Identifier: GPL-2.0-only
"""Segments of an established connection, in the order in which they are told apart."""

import pytest

from mimicd.core.abi import Operation
from mimicd.core.model import FlowSettings
from tests.bpf.disguised import restored
from tests.bpf.plane import Arrival, Departure, Plane
from tests.bpf.talk import DATAGRAM, FULL_FIELD, FULL_WINDOW_BYTES, Talk, talk
from tests.rig.segment import ACK, PSH, RST, Segment, sequence_after

VERSIONS = [4, 6]
SPENT_BYTES = 1_000_000


def established(plane: Plane, version: int = 4, padding: int = 0) -> Talk:
    """As initiator, with some of our window spent."""
    conversation = talk(plane, version, FlowSettings(padding=padding))
    conversation.connect()
    conversation.change(window=FULL_WINDOW_BYTES - SPENT_BYTES)
    plane.counted()
    return conversation


def assert_bare_ack(answer: Segment, conversation: Talk, window: int) -> None:
    entry = conversation.entry
    assert (answer.flags, answer.payload, answer.options) == (ACK, b"", b"")
    assert (answer.seq, answer.ack, answer.window) == (entry.seq, entry.ack, window)


# 0. PSH: data.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [0, 1])
def test_with_psh_even_the_smallest_datagram_is_data(plane: Plane, version: int, size: int) -> None:
    for distance in (-1, 0):  # -1: the numbers are those of a keepalive
        plane.reset()
        conversation = established(plane, version)
        conversation.peer_seq += distance
        segment = conversation.data(b"\0" * size)
        arrived = conversation.receive(segment)
        assert arrived.kind is Arrival.PASSED
        assert arrived.frame == restored(conversation.frame_of(segment), 0)
        assert conversation.entry.ack == segment.seq + size
        assert plane.counted() == {"rx-data": 1}


# 1. One below our ack, less than two bytes: a keepalive.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("payload", [b"", b"\0"])
def test_a_keepalive_is_answered_and_restores_nothing(
    plane: Plane, version: int, payload: bytes
) -> None:
    conversation = established(plane, version)
    before = conversation.entry
    answer = conversation.answer(conversation.segment(ACK, payload, seq=conversation.peer_seq - 1))
    assert_bare_ack(answer, conversation, (FULL_WINDOW_BYTES - SPENT_BYTES) >> 12)
    after = conversation.entry
    assert (after.seq, after.ack, after.window) == (before.seq, before.ack, before.window)
    assert after.last_active_ns == before.last_active_ns
    assert after.last_rx_ns > before.last_rx_ns
    assert plane.counted() == {"rx-keepalive": 1, "tx-ack": 1}


def test_two_bytes_one_below_our_ack_are_data(plane: Plane) -> None:
    conversation = established(plane)
    conversation.peer_seq -= 1
    assert conversation.receive(conversation.data(b"xy", ACK)).kind is Arrival.PASSED


# 2. Its answer.


def test_the_answer_to_our_keepalive_is_no_sign_of_use(plane: Plane) -> None:
    conversation = established(plane)
    before = conversation.entry
    run = conversation.command(Operation.KEEPALIVE)
    keepalive = conversation.segment_of(run.data)
    assert (keepalive.flags, keepalive.payload) == (ACK, b"")
    assert (keepalive.seq, keepalive.ack) == (before.seq - 1, before.ack)
    assert keepalive.window == (FULL_WINDOW_BYTES - SPENT_BYTES) >> 12
    assert conversation.receive(conversation.segment(ACK)).kind is Arrival.DROPPED
    answered = conversation.entry
    assert answered.last_rx_ns > before.last_rx_ns
    assert answered.last_active_ns == before.last_active_ns
    # unlike a bare ACK that nobody asked for
    conversation.receive(conversation.segment(ACK))
    assert conversation.entry.last_active_ns > before.last_active_ns


# 3. One byte: a window probe.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("distance", [0, 1, 5000, -2, -5000])
def test_a_probe_restores_the_window_and_is_answered(
    plane: Plane, version: int, distance: int
) -> None:
    conversation = established(plane, version)
    seq = conversation.peer_seq + distance
    before = conversation.entry
    answer = conversation.answer(conversation.segment(ACK, b"\0", seq=seq))
    assert conversation.entry.ack == seq + 1
    assert conversation.entry.last_active_ns > before.last_active_ns
    assert conversation.entry.window == FULL_WINDOW_BYTES
    assert_bare_ack(answer, conversation, FULL_FIELD)
    assert plane.counted() == {"rx-probe": 1, "tx-ack": 1}


# 4. Empty: a window update.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("distance", [0, 1, 1400, -2, -1400])
def test_a_bare_ack_never_moves_our_ack(plane: Plane, version: int, distance: int) -> None:
    conversation = established(plane, version)
    before = conversation.entry
    segment = conversation.segment(ACK, seq=conversation.peer_seq + distance)
    assert conversation.receive(segment).kind is Arrival.DROPPED
    after = conversation.entry
    assert (after.seq, after.ack, after.window) == (before.seq, before.ack, before.window)
    assert plane.counted() == {"rx-ack": 1}


# 5. Everything else: data.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("flags", [ACK, ACK | PSH])
def test_data_is_delivered_in_order_of_arrival(plane: Plane, version: int, flags: int) -> None:
    conversation = established(plane, version, padding=3)
    first, second, third = (conversation.data(DATAGRAM + bytes([n]), flags) for n in range(3))
    heard_ns = conversation.entry.last_active_ns
    for segment in (first, third, second, first):
        arrived = conversation.receive(segment)
        assert arrived.kind is Arrival.PASSED
        assert arrived.frame == restored(conversation.frame_of(segment), 3)
        # loss stays loss, and ack goes back with what comes late
        entry = conversation.entry
        assert entry.ack == segment.seq + len(segment.payload)
        assert entry.last_active_ns == entry.last_rx_ns > heard_ns
        heard_ns = entry.last_rx_ns
        assert conversation.sent().ack == segment.seq + len(segment.payload)
    entry = conversation.entry
    assert (entry.rx_packets, entry.rx_bytes) == (4, 4 * (len(DATAGRAM) + 1))
    assert entry.window == FULL_WINDOW_BYTES - SPENT_BYTES - 4 * len(first.payload)


def test_numbers_wrap(plane: Plane) -> None:
    conversation = established(plane)
    conversation.change(seq=2**32 - 40, ack=2**32 - 40)
    conversation.peer_seq = conversation.peer_ack = 2**32 - 40
    before = conversation.sent(b"x" * 39)
    after = conversation.sent(b"y" * 39)
    assert (before.seq, after.seq) == (2**32 - 40, 2**32 - 1)
    assert conversation.entry.seq == 38
    for datagram in (b"x" * 39, b"y" * 39):
        assert conversation.receive(conversation.data(datagram)).kind is Arrival.PASSED
    assert conversation.entry.ack == 38
    conversation.take_all()
    assert sequence_after(conversation.peer_ack, 2**32 - 40) == 78
    assert conversation.entry.peer_window == FULL_WINDOW_BYTES


def test_no_control_segment_of_ours_has_psh(plane: Plane) -> None:
    conversation = established(plane)
    answers = [
        conversation.answer(conversation.segment(ACK, b"\0")),
        conversation.answer(conversation.syn()),
        conversation.answer(conversation.syn(5)),
    ]
    for operation in (Operation.KEEPALIVE, Operation.PROBE, Operation.RESET):
        run = conversation.command(operation, 4)
        assert run.result == Departure.SENT
        answers.append(conversation.segment_of(run.data))
    assert answers[-1].flags & RST
    assert not any(answer.flags & PSH for answer in answers)
