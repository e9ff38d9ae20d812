# SPDX-License-Identifier: GPL-2.0-only
"""Both ends open at once (RFC 9293 section 3.5): one SYN+ACK, which a firewall can follow."""

from dataclasses import replace

import pytest

from mimicd.core.abi import Operation, Reason
from mimicd.core.connection import Role, State
from tests.bpf.plane import Arrival, Plane
from tests.bpf.talk import FULL_FIELD, HIGHER_REMOTE, LOCAL, LOWER_REMOTE, PEER_ISN, Talk, talk
from tests.bpf.test_states import assert_silent
from tests.rig.segment import ACK, RST, SYN, Segment

VERSIONS = [4, 6]


def crossing(plane: Plane, version: int, remote: object) -> tuple[Talk, Segment]:
    """Our SYN is out, and the peer's comes; our SYN."""
    ends = LOWER_REMOTE if remote == "lower" else HIGHER_REMOTE
    conversation = talk(plane, version, remote=ends[version])
    return conversation, conversation.open()


@pytest.mark.parametrize("version", VERSIONS)
def test_of_two_crossing_syns_the_lower_end_answers(plane: Plane, version: int) -> None:
    conversation, syn = crossing(plane, version, "higher")
    assert conversation.receive(conversation.syn()).kind is Arrival.DROPPED
    assert conversation.state() is State.SYN_RECEIVED
    # a mimic's answer to our SYN is no handshake yet, to a firewall
    conversation.peer_seq = PEER_ISN + 1
    assert_silent(conversation, conversation.segment(ACK))
    conversation.peer_seq = PEER_ISN
    answer = conversation.asked(Operation.SYN)
    assert (answer.flags, answer.seq, answer.ack) == (SYN | ACK, syn.seq, PEER_ISN + 1)
    assert answer.options == syn.options
    assert conversation.state() is State.SYN_RECEIVED
    assert conversation.answer(conversation.syn()) == answer
    conversation.peer_seq = PEER_ISN + 1
    update = conversation.answer(conversation.segment(ACK))
    assert (update.flags, update.seq, update.window) == (ACK, (syn.seq + 1) % 2**32, FULL_FIELD)
    assert conversation.state() is State.ESTABLISHED


@pytest.mark.parametrize("version", VERSIONS)
def test_of_two_crossing_syns_the_higher_end_waits(plane: Plane, version: int) -> None:
    conversation, syn = crossing(plane, version, "lower")
    assert_silent(conversation, conversation.syn())
    assert conversation.state() is State.SYN_SENT
    answer = conversation.answer(conversation.syn_ack())
    assert (answer.flags, answer.seq, answer.ack) == (ACK, (syn.seq + 1) % 2**32, PEER_ISN + 1)
    assert conversation.state() is State.ESTABLISHED


def test_ends_of_one_address_compare_by_port(plane: Plane) -> None:
    for port, state in ((51821, State.SYN_RECEIVED), (51819, State.SYN_SENT)):
        plane.reset()
        conversation = talk(plane, remote=replace(LOCAL[4], port=port))
        conversation.open()
        conversation.receive(conversation.syn())
        assert conversation.state() is state


def test_a_crossing_syn_is_told_of_once(plane: Plane) -> None:
    for remote in ("higher", "lower"):
        plane.reset()
        conversation, _ = crossing(plane, 4, remote)
        plane.events()
        for _ in range(3):
            conversation.receive(conversation.syn())
        told = [event.reason for event in plane.events() if event.reason]
        assert told == [Reason.CROSSED], remote


def test_without_a_crossing_syn_nobody_may_ask_for_a_syn_ack(plane: Plane) -> None:
    conversation, syn = crossing(plane, 4, "higher")
    assert conversation.asked(Operation.SYN) == syn


def test_a_syn_ack_establishes_a_simultaneous_open(plane: Plane) -> None:
    conversation, syn = crossing(plane, 4, "higher")
    conversation.receive(conversation.syn())
    answer = conversation.answer(conversation.syn_ack())
    assert (answer.flags, answer.seq, answer.ack) == (ACK, (syn.seq + 1) % 2**32, PEER_ISN + 1)
    assert conversation.state() is State.ESTABLISHED


# A mimic answers a crossing SYN by ACK, and a SYN+ACK that it did not ask for by RST.


def test_an_ack_of_a_crossing_syn_is_met_with_the_same_syn(plane: Plane) -> None:
    """An ACK would do for the two ends, but a firewall has to see a SYN+ACK."""
    conversation, syn = crossing(plane, 4, "lower")
    assert_silent(conversation, conversation.syn())
    conversation.peer_seq = PEER_ISN + 1
    assert conversation.answer(conversation.segment(ACK)) == syn
    assert conversation.state() is State.SYN_SENT
    # which a mimic answers by SYN+ACK, with the ISN that it has
    conversation.peer_seq = PEER_ISN
    answer = conversation.answer(conversation.syn_ack())
    assert (answer.flags, answer.ack) == (ACK, PEER_ISN + 1)
    assert conversation.state() is State.ESTABLISHED


def test_an_ack_of_anything_else_after_a_crossing_syn_is_ignored(plane: Plane) -> None:
    conversation, _ = crossing(plane, 4, "lower")
    conversation.receive(conversation.syn())
    conversation.peer_seq = PEER_ISN + 1
    for error in (-1, 1):
        segment = conversation.segment(ACK, ack=conversation.peer_ack + error)
        assert_silent(conversation, segment)


def test_after_a_rst_to_its_syn_ack_the_lower_end_waits_as_well(plane: Plane) -> None:
    conversation, first = crossing(plane, 4, "higher")
    conversation.receive(conversation.syn())
    conversation.asked(Operation.SYN)
    conversation.peer_seq = PEER_ISN + 1
    second = conversation.answer(conversation.segment(RST))
    assert (second.flags, second.options) == (SYN, first.options)
    assert second.seq != first.seq
    entry = conversation.entry
    assert (entry.state, entry.role) == (State.SYN_SENT, Role.INITIATOR)
    assert_silent(conversation, conversation.syn(PEER_ISN + 99))
    assert conversation.state() is State.SYN_SENT


def test_a_rst_of_another_place_does_not_end_a_crossing(plane: Plane) -> None:
    conversation, _ = crossing(plane, 4, "higher")
    conversation.receive(conversation.syn())
    segment = conversation.segment(RST, seq=PEER_ISN)
    assert conversation.receive(segment).kind is Arrival.DROPPED
    assert conversation.state() is State.SYN_RECEIVED
