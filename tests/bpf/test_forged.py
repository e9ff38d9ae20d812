# SPDX-License-Identifier: GPL-2.0-only
"""What a stranger, or the past, says of a connection leaves no mark on it."""

from dataclasses import replace

import pytest

from mimicd.core.abi import Operation, Reason
from mimicd.core.connection import Role, State
from mimicd.core.model import FlowSettings, Handshake
from tests.bpf.plane import Arrival, Departure, Plane
from tests.bpf.talk import PEER_ISN, talk
from tests.rig.segment import ACK, PSH, RST, SYN, encode_syn_options

PASSIVE = FlowSettings(handshake=Handshake(0, 0))


W = 0x3400000


@pytest.mark.parametrize("distance", [W + 1, -W - 1, 1 << 31])
def test_data_outside_the_window_is_delivered_and_moves_nothing(
    plane: Plane, distance: int
) -> None:
    """Else whoever sends it could send a RST right behind it, which then lies in the window."""
    conversation = talk(plane)
    conversation.connect()
    ack = conversation.entry.ack
    forged = conversation.segment(ACK | PSH, b"forged", seq=ack + distance)
    assert conversation.receive(forged).kind is Arrival.PASSED
    assert conversation.entry.ack == ack
    rst = conversation.segment(RST, seq=forged.seq + 6)
    assert conversation.receive(rst).kind is Arrival.DROPPED
    assert conversation.state() is State.ESTABLISHED
    assert conversation.receive(conversation.data()).kind is Arrival.PASSED
    assert conversation.entry.ack == conversation.peer_seq


def test_a_peer_that_goes_on_outside_the_window_is_followed(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.connect()
    conversation.peer_seq += W + 7
    for _ in range(2):
        assert conversation.receive(conversation.data()).kind is Arrival.PASSED
    assert conversation.entry.ack == conversation.peer_seq


def test_a_window_probe_outside_the_window_counts_the_second_time(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.connect()
    ack = conversation.entry.ack
    probe = conversation.segment(ACK, b"\0", seq=ack + W + 7)
    assert [conversation.answer(probe).ack for _ in range(2)] == [ack, probe.seq + 1]


@pytest.mark.parametrize("forger_first", [True, False])
def test_a_forged_syn_beside_the_true_one_decides_nothing(plane: Plane, forger_first: bool) -> None:
    """Only what the ACK proves counts: its own numbers, and the scale of the SYN it belongs to."""
    conversation = talk(plane)
    forged = replace(conversation.syn(PEER_ISN + 0x1000000), options=encode_syn_options(536, 0))
    if forger_first:
        conversation.answer(forged)
        assert conversation.send().result == Departure.HELD
        syn_ack = conversation.answer(conversation.syn())
    else:
        syn_ack = conversation.answer(conversation.syn())
        assert conversation.send().result == Departure.HELD
        conversation.answer(forged)
    assert conversation.state() is State.SYN_RECEIVED
    conversation.peer_seq, conversation.peer_ack = PEER_ISN + 1, syn_ack.seq + 1
    conversation.answer(conversation.segment(ACK))
    entry = conversation.entry
    assert (entry.state, entry.role) == (State.ESTABLISHED, Role.RESPONDER)
    assert (entry.ack, entry.peer_wscale, entry.peer_window) == (PEER_ISN + 1, 12, 0x3400000)


def test_a_rst_ends_the_hint_of_a_syn_also_where_an_entry_rests(plane: Plane) -> None:
    """Else a datagram would wait for the ACK of a peer that knows of nothing."""
    conversation = talk(plane)
    conversation.open()
    conversation.command(Operation.RESET, Reason.STALE)
    conversation.answer(conversation.syn())
    assert conversation.receive(conversation.segment(RST, seq=PEER_ISN + 1)).kind is Arrival.DROPPED
    assert conversation.sent().flags == SYN


def test_a_resend_that_comes_too_late_makes_no_entry(plane: Plane) -> None:
    """Nobody would be told of it, so nobody would ever forget it."""
    conversation = talk(plane)
    assert conversation.resend().result == Departure.TAKEN
    assert plane.counted() == {"drop-resend-late": 1}
    assert conversation.state() is None


def test_an_old_syn_makes_no_entry_behind_a_passive_filter(plane: Plane) -> None:
    conversation = talk(plane, settings=PASSIVE)
    conversation.answer(conversation.syn())
    raw = plane.maps["half_opens"].lookup(conversation.key)
    assert raw is not None
    long_ago = int.from_bytes(raw[:8], "little") - 9_000_000_000
    plane.maps["half_opens"].update(conversation.key, long_ago.to_bytes(8, "little") + raw[8:])
    plane.counted()
    assert conversation.send().result == Departure.DROPPED
    assert plane.counted() == {"drop-passive": 1}
    assert conversation.state() is None


def test_of_growing_syn_acks_the_latest_counts_on_every_connection(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.connect()
    conversation.receive(conversation.data())
    conversation.command(Operation.RESET, Reason.STALE)
    conversation.peer_seq = PEER_ISN
    conversation.open()
    conversation.answer(conversation.syn_ack())
    answer = conversation.answer(conversation.syn_ack(seq=PEER_ISN + 1))
    assert answer.ack == PEER_ISN + 2


def test_a_window_that_no_longer_fits_its_field_shows_as_the_most(plane: Plane) -> None:
    """A reload has just taken max_window away."""
    conversation = talk(plane, settings=FlowSettings(max_window=True))
    conversation.connect()
    plane.set_rule(1, FlowSettings())
    assert conversation.sent().window == 65535
