# SPDX-License-Identifier: GPL-2.0-only
"""A living connection meets a SYN, a RST or a FIN: what replaces it and what ends it."""

from dataclasses import replace

import pytest

from mimicd.core.abi import Reason
from mimicd.core.connection import Role, State
from tests.bpf.plane import Arrival, Plane
from tests.bpf.talk import PEER_ISN, Talk, talk
from tests.bpf.test_states import assert_rst_ends, assert_silent, reasons, syn_received
from tests.rig.segment import ACK, FIN, PSH, RST, SYN


def established(plane: Plane) -> Talk:
    conversation = talk(plane)
    conversation.connect()
    return conversation


@pytest.mark.parametrize("version", [4, 6])
def test_a_restarted_peer_takes_the_place_of_the_old_one_once_proven(
    plane: Plane, version: int
) -> None:
    conversation = talk(plane, version)
    conversation.connect()
    before = conversation.entry
    newcomer = replace(conversation, peer_seq=PEER_ISN + 0x12345678)
    syn_ack = newcomer.answer(newcomer.syn(newcomer.peer_seq))
    assert (syn_ack.flags, syn_ack.ack) == (SYN | ACK, newcomer.peer_seq + 1)
    # until that is acknowledged the old connection goes on
    assert conversation.sent().seq == before.seq
    assert conversation.receive(conversation.data()).kind is Arrival.PASSED
    plane.events()
    newcomer.peer_seq += 1
    newcomer.peer_ack = (syn_ack.seq + 1) % 2**32
    update = newcomer.answer(newcomer.segment(ACK))
    assert (update.seq, update.ack) == (newcomer.peer_ack, newcomer.peer_seq)
    entry = conversation.entry
    assert (entry.state, entry.role) == (State.ESTABLISHED, Role.RESPONDER)
    assert (entry.seq, entry.ack) == (newcomer.peer_ack, newcomer.peer_seq)
    assert entry.generation == before.generation + 1
    assert reasons(plane) == [Reason.RESTARTED_BY_PEER]


def test_a_forged_syn_harms_nothing(plane: Plane) -> None:
    conversation = established(plane)
    before = conversation.entry
    for number in range(20):
        conversation.answer(conversation.syn(PEER_ISN + 7 + number))
    assert replace(conversation.entry, syn_answered_ns=0) == before
    # nor does a guess of what it was answered with
    for number in range(20):
        seq = PEER_ISN + 8 + number
        conversation.receive(conversation.segment(ACK, seq=seq, ack=(number << 28) + 5))
    entry = conversation.entry
    assert (entry.state, entry.generation) == (before.state, before.generation)
    assert entry.ack == before.ack
    # a guess that lies ahead of us is answered by a probe, which takes one number
    assert (entry.seq - before.seq) % 2**32 in (0, 1)


def test_the_same_syn_and_a_syn_ack_are_answered_with_a_bare_ack(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.connect()
    conversation.receive(conversation.data())
    entry = conversation.entry
    for segment in (conversation.syn(), conversation.syn_ack()):
        answer = conversation.answer(segment)
        assert (answer.flags, answer.seq, answer.ack) == (ACK, entry.seq, entry.ack)
        assert not answer.payload
    assert (conversation.entry.seq, conversation.entry.ack) == (entry.seq, entry.ack)


def test_of_growing_syn_acks_the_latest_counts(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.open()
    conversation.answer(conversation.syn_ack())
    for number in (1, 2):
        answer = conversation.answer(conversation.syn_ack(seq=PEER_ISN + number))
        assert answer.ack == PEER_ISN + number + 1
    assert conversation.entry.ack == PEER_ISN + 3


# Any state.


@pytest.mark.parametrize("distance", [0, 1, 0x33FFFFF])
def test_a_rst_in_the_window_ends_a_connection(plane: Plane, distance: int) -> None:
    conversation = established(plane)
    segment = conversation.segment(RST, seq=conversation.peer_seq + distance)
    assert_rst_ends(conversation, segment)
    assert conversation.entry.last_reset is Reason.RESET_BY_PEER


@pytest.mark.parametrize("flags", [RST, RST | ACK])
def test_a_rst_with_seq_0_ends_a_connection(plane: Plane, flags: int) -> None:
    assert_rst_ends(conversation := established(plane), conversation.segment(flags, seq=0))


@pytest.mark.parametrize("distance", [-1, 0x3400000, 1 << 31])
def test_a_rst_outside_the_window_is_ignored(plane: Plane, distance: int) -> None:
    conversation = established(plane)
    assert_silent(conversation, conversation.segment(RST, seq=conversation.peer_seq + distance))
    assert conversation.state() is State.ESTABLISHED


def test_a_fin_is_answered_with_rst_and_ends_a_connection(plane: Plane) -> None:
    for flags, payload in ((FIN | ACK, b""), (FIN | ACK | PSH, b"last words"), (FIN, b"")):
        plane.reset()
        conversation = established(plane)
        seq = conversation.entry.seq
        answer = conversation.answer(conversation.segment(flags, payload))
        assert (answer.flags, answer.seq, answer.window) == (RST | ACK, seq, 0)
        assert answer.ack == conversation.peer_seq + len(payload) + 1
        assert conversation.state() is State.IDLE
        assert reasons(plane)[-1] is Reason.CLOSED_BY_PEER


def test_a_fin_outside_the_window_is_ignored(plane: Plane) -> None:
    conversation = established(plane)
    for distance in (-1, 0x3400000):
        seq = conversation.peer_seq + distance
        assert_silent(conversation, conversation.segment(FIN | ACK, seq=seq))
    assert conversation.state() is State.ESTABLISHED


def test_rst_and_fin_end_a_connection_that_was_about_to_be(plane: Plane) -> None:
    for flags in (RST, RST | ACK, FIN | ACK):
        plane.reset()
        conversation, _ = syn_received(plane)
        held = conversation.entry.held
        arrived = conversation.receive(conversation.segment(flags))
        assert (arrived.kind is Arrival.ANSWERED) == bool(flags & FIN)
        entry = conversation.entry
        assert (entry.state, entry.held, entry.cooldown_step) == (State.IDLE, 0, 0)
        assert entry.drops[4] == held == 1
