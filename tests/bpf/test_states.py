# SPDX-License-Identifier: GPL-2.0-only
"""The table of connection states, row by row, with real segments (RFC 9293 section 3.10)."""

from dataclasses import replace

import pytest

from mimicd.core.abi import Operation, Reason
from mimicd.core.connection import Role, State
from mimicd.core.model import FlowSettings
from tests.bpf.disguised import restored
from tests.bpf.plane import Arrival, Departure, Plane
from tests.bpf.talk import (
    DATAGRAM,
    FULL_FIELD,
    PEER_ISN,
    Talk,
    talk,
)
from tests.rig.segment import ACK, FIN, PSH, RST, SYN, Segment, encode_syn_options, sequence_after

VERSIONS = [4, 6]


def assert_silent(conversation: Talk, segment: Segment) -> None:
    """Dropped without an answer, and without a change of state."""
    before = conversation.state()
    assert conversation.receive(segment).kind is Arrival.DROPPED
    assert conversation.state() is before


def reasons(plane: Plane) -> list[Reason]:
    return [event.reason for event in plane.events() if event.reason]


def idle(plane: Plane, version: int = 4) -> Talk:
    """An entry in cooldown: we had opened, and were reset."""
    conversation = talk(plane, version)
    conversation.open()
    conversation.command(Operation.RESET, Reason.NO_ANSWER)
    assert conversation.state() is State.IDLE
    plane.events()
    plane.counted()
    return conversation


def syn_received(plane: Plane, settings: FlowSettings | None = None) -> tuple[Talk, Segment]:
    """The peer's SYN was answered, and then a datagram of ours came; and that SYN+ACK."""
    conversation = talk(plane, settings=settings)
    syn_ack = conversation.answer(conversation.syn())
    conversation.peer_seq = PEER_ISN + 1
    conversation.peer_ack = syn_ack.seq + 1
    assert conversation.send().result == Departure.HELD
    assert conversation.state() is State.SYN_RECEIVED
    return conversation, syn_ack


# None, or idle.


@pytest.mark.parametrize("make", [talk, idle])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_syn_is_answered_with_syn_ack(plane: Plane, make: object, version: int) -> None:
    conversation = talk(plane, version) if make is talk else idle(plane, version)
    before = conversation.state()
    for payload in (b"", b"data in a SYN"):
        syn = replace(conversation.syn(), payload=payload)
        answer = conversation.answer(syn)
        assert answer.flags == SYN | ACK
        assert answer.ack == syn.seq + 1 + len(payload)
        assert answer.window == 65535
        assert answer.options == encode_syn_options(1460 if version == 4 else 1440, 12)
        assert conversation.state() is before


@pytest.mark.parametrize("flags", [RST, RST | ACK, FIN, FIN | ACK, FIN | PSH | ACK])
def test_rst_and_fin_without_connection_are_dropped_silently(plane: Plane, flags: int) -> None:
    conversation = talk(plane)
    for seq in (0, PEER_ISN):
        assert_silent(conversation, conversation.segment(flags, seq=seq, ack=77))
    conversation = idle(plane)
    for seq in (0, PEER_ISN):
        assert_silent(conversation, conversation.segment(flags, seq=seq, ack=77))
    assert plane.events() == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("is_idle", [False, True])
@pytest.mark.parametrize(
    ("flags", "payload"), [(ACK, b""), (ACK, b"\0"), (ACK | PSH, DATAGRAM), (SYN | ACK, b"")]
)
def test_anything_else_without_connection_is_answered_with_rst(
    plane: Plane, version: int, is_idle: bool, flags: int, payload: bytes
) -> None:
    conversation = idle(plane, version) if is_idle else talk(plane, version)
    before = conversation.state()
    for ack in (1, 0x80000000, 0xFFFFFFFF):
        plane.allow_reset()
        answer = conversation.answer(conversation.segment(flags, payload, ack=ack))
        assert (answer.flags, answer.seq, answer.window) == (RST, ack, 0)
        assert not answer.payload
        assert not answer.options
        assert conversation.state() is before


# SYN sent.


@pytest.mark.parametrize("version", VERSIONS)
def test_the_first_datagram_becomes_a_syn(plane: Plane, version: int) -> None:
    conversation = talk(plane, version)
    syn = conversation.open()
    assert (syn.flags, syn.ack, syn.window) == (SYN, 0, 65535)
    assert syn.options == encode_syn_options(1460 if version == 4 else 1440, 12)
    assert not syn.payload
    entry = conversation.entry
    assert (entry.state, entry.role, entry.seq) == (
        State.SYN_SENT,
        Role.INITIATOR,
        (syn.seq + 1) % 2**32,
    )
    assert reasons(plane) == [Reason.OPENED]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_right_syn_ack_is_answered_with_ack(plane: Plane, version: int) -> None:
    conversation = talk(plane, version)
    syn = conversation.open()
    ack = conversation.answer(conversation.syn_ack())
    assert (ack.flags, ack.seq, ack.ack) == (ACK, (syn.seq + 1) % 2**32, PEER_ISN + 1)
    assert (ack.window, ack.payload) == (FULL_FIELD, b"")
    entry = conversation.entry
    assert (entry.state, entry.role) == (State.ESTABLISHED, Role.INITIATOR)
    assert (entry.peer_window, entry.peer_wscale, entry.peer_mss) == (65535, 12, 1460)
    assert reasons(plane) == [Reason.OPENED, Reason.ESTABLISHED]


@pytest.mark.parametrize("error", [-1, 1, 1 << 31])
def test_a_syn_ack_of_another_isn_is_refused(plane: Plane, error: int) -> None:
    conversation = talk(plane)
    conversation.open()
    wrong = conversation.segment(SYN | ACK, ack=conversation.peer_ack + error)
    answer = conversation.answer(wrong)
    assert (answer.flags, answer.seq) == (RST, wrong.ack)
    assert conversation.state() is State.SYN_SENT


@pytest.mark.parametrize(("flags", "payload"), [(ACK, b""), (ACK | PSH, DATAGRAM), (ACK, b"\0")])
def test_old_data_and_a_bare_ack_are_ignored_while_opening(
    plane: Plane, flags: int, payload: bytes
) -> None:
    conversation = talk(plane)
    conversation.open()
    for ack in (0, conversation.peer_ack - 1, conversation.peer_ack):
        assert_silent(conversation, conversation.segment(flags, payload, ack=ack))
    assert conversation.state() is State.SYN_SENT


@pytest.mark.parametrize("flags", [RST, RST | ACK])
def test_a_first_rst_is_met_with_a_new_syn_and_a_second_with_cooldown(
    plane: Plane, flags: int
) -> None:
    conversation = talk(plane)
    first = conversation.open()
    # a RST that acknowledges the SYN (RFC 9293), or has seq 0, the SYN's own ack
    second = conversation.answer(conversation.segment(flags, seq=0))
    assert second.flags == SYN
    assert second.options == first.options
    assert sequence_after(second.seq, first.seq) > 1
    assert conversation.state() is State.SYN_SENT
    conversation.peer_ack = (second.seq + 1) % 2**32
    assert_rst_ends(conversation, conversation.segment(flags, seq=0))
    assert conversation.entry.cooldown_step == 1
    told = reasons(plane)
    assert told == [Reason.OPENED, Reason.OPENED, Reason.RESET_BY_PEER]


def assert_rst_ends(conversation: Talk, segment: Segment) -> None:
    assert conversation.receive(segment).kind is Arrival.DROPPED
    assert conversation.state() is State.IDLE


def test_a_rst_that_does_not_mean_our_syn_is_ignored(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.open()
    for segment in (
        conversation.segment(RST | ACK, seq=0, ack=conversation.peer_ack + 1),
        conversation.segment(RST | ACK, seq=0, ack=conversation.peer_ack - 1),
        conversation.segment(RST, seq=1),
        conversation.segment(RST, seq=conversation.peer_ack),
    ):
        assert_silent(conversation, segment)
    assert conversation.state() is State.SYN_SENT


# SYN received.


def test_the_same_syn_again_is_answered_with_the_identical_syn_ack(plane: Plane) -> None:
    conversation, syn_ack = syn_received(plane)
    for _ in range(3):
        assert conversation.answer(conversation.syn()) == syn_ack
    assert conversation.state() is State.SYN_RECEIVED


def test_an_ack_without_data_establishes(plane: Plane) -> None:
    conversation, syn_ack = syn_received(plane)
    update = conversation.answer(conversation.segment(ACK))
    assert (update.flags, update.seq, update.ack) == (ACK, syn_ack.seq + 1, PEER_ISN + 1)
    assert update.window == FULL_FIELD
    entry = conversation.entry
    assert (entry.state, entry.role) == (State.ESTABLISHED, Role.RESPONDER)
    assert (entry.peer_window, entry.peer_mss) == (0x3400000, 1460)
    assert reasons(plane) == [Reason.OPENED, Reason.ESTABLISHED]


def test_an_ack_with_data_establishes_and_the_data_is_delivered(plane: Plane) -> None:
    conversation, syn_ack = syn_received(plane)
    segment = conversation.data()
    arrived = conversation.receive(segment)
    assert arrived.kind is Arrival.DELIVERED_AND_ANSWERED
    assert arrived.frame == restored(conversation.frame_of(segment), 0)
    assert arrived.note is not None
    assert (arrived.note.flags, arrived.note.seq) == (ACK, syn_ack.seq + 1)
    assert arrived.note.ack == conversation.peer_seq
    assert conversation.state() is State.ESTABLISHED


@pytest.mark.parametrize("payload", [b"", b"\0", DATAGRAM])
def test_an_ack_of_something_else_does_not_establish(plane: Plane, payload: bytes) -> None:
    conversation, _ = syn_received(plane)
    for error in (-64, 64, 1 << 31):
        segment = conversation.segment(ACK, payload, ack=conversation.peer_ack + error)
        assert_silent(conversation, segment)
    assert conversation.state() is State.SYN_RECEIVED
