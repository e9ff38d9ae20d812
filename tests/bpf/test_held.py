# SPDX-License-Identifier: GPL-2.0-only
"""Datagrams that come before a connection is established: kept in order, bounded, counted."""

from dataclasses import replace

import pytest

from mimicd.core import abi
from mimicd.core.abi import ConnFlag, EventType, Operation, Reason
from mimicd.core.connection import Role, State
from mimicd.core.frames import finish_checksum
from tests.bpf.packets import UDP, VLAN, ip_packet, link_header, udp, udp_frame
from tests.bpf.plane import Departure, Plane, now_ns
from tests.bpf.talk import DATAGRAM, HIGHER_REMOTE, LOCAL, Talk, talk
from tests.rig.segment import ACK, PSH, RST, decode_datagram

LOST = abi.CONN_DROPS.index("lost-held")


def opening(plane: Plane, *datagrams: bytes) -> Talk:
    conversation = talk(plane)
    conversation.open()
    for datagram in datagrams:
        assert conversation.send(datagram).result == Departure.HELD
    return conversation


def establish(conversation: Talk) -> None:
    """With a window that needs no probes, and time enough for a machine that stalls."""
    conversation.answer(conversation.syn_ack())
    conversation.peer_seq += 1
    conversation.change(peer_window=0x3400000)
    take_time(conversation)


def take_time(conversation: Talk) -> None:
    conversation.change(drain_until_ns=now_ns() + 3600_000_000_000)


@pytest.mark.parametrize("version", [4, 6])
def test_a_held_datagram_goes_whole_to_user_space(sending_plane: Plane, version: int) -> None:
    conversation = talk(sending_plane, version)
    ends = (conversation.local, conversation.remote)
    frames = [udp_frame(*ends, bytes([size & 0xFF]) * size) for size in (31, 0, 1, 200, 1400)]
    start_ns = now_ns()
    results = [sending_plane.egress(frame).result for frame in frames]
    assert results == [Departure.SENT, *[Departure.HELD] * 4]
    events = sending_plane.events()
    assert [event.frame for event in events] == frames
    for number, event in enumerate(events):
        assert (event.type, event.key) == (EventType.HELD, conversation.key)
        assert (event.state, event.role) == (State.SYN_SENT, Role.INITIATOR)
        assert event.reason is (Reason.OPENED if number == 0 else Reason.NONE)
        assert event.generation == conversation.entry.generation
        assert start_ns < event.at_ns <= now_ns()
        assert event.transport_at == 14 + (20 if version == 4 else 40)
        # finishing a finished checksum changes nothing
        assert finish_checksum(event.frame, event.transport_at, event.key) == event.frame
    assert sending_plane.counted() == {"held": 5, "tx-syn": 1}
    assert conversation.entry.held_now == 5


def test_a_held_frame_keeps_its_tags_and_options(plane: Plane) -> None:
    talk(plane)
    ends = (LOCAL[4], HIGHER_REMOTE[4])
    packet = ip_packet(*ends, UDP, udp(*ends, DATAGRAM), options=b"\x94\x04\0\0")
    frame = link_header(4, [(VLAN, 9)]) + packet
    run = plane.egress(frame)
    assert run.result == Departure.SENT
    (event,) = plane.events()
    assert (event.frame, event.transport_at) == (frame, 14 + 4 + 24)
    # the SYN goes where the datagram was bound for
    assert run.data[:18] == frame[:18]


def test_no_more_than_so_many_are_held(plane: Plane) -> None:
    conversation = opening(plane)
    results = [conversation.send(b"%d" % number).result for number in range(abi.HELD_MAX + 9)]
    assert results.count(Departure.HELD) == abi.HELD_MAX - 1
    assert results[-10:] == [Departure.DROPPED] * 10
    counts = plane.counted()
    assert (counts["held"], counts["drop-held-full"]) == (abi.HELD_MAX, 10)
    assert conversation.entry.drops[abi.CONN_DROPS.index("held-full")] == 10
    assert len(plane.events()) == abi.HELD_MAX


def test_what_comes_while_others_are_still_held_queues_behind_them(plane: Plane) -> None:
    conversation = opening(plane, b"second", b"third")
    establish(conversation)
    assert conversation.entry.flags & ConnFlag.DRAINING
    assert conversation.resend(b"first").result == Departure.SENT
    take_time(conversation)
    assert conversation.send(b"fourth").result == Departure.HELD
    assert plane.events()[-1].state is State.ESTABLISHED
    conversation.command(Operation.DRAINED)
    for datagram in (b"second", b"third", b"fourth"):
        assert conversation.entry.flags & ConnFlag.DRAINING
        assert conversation.resend(datagram).result == Departure.SENT
    assert conversation.entry.held_now == 0
    # the last one may still be on its way
    assert conversation.entry.flags & ConnFlag.DRAINING
    assert conversation.command(Operation.DRAINED).result == Departure.TAKEN
    assert not conversation.entry.flags & ConnFlag.DRAINING
    segment = conversation.sent(b"fifth")
    assert segment.flags == ACK | PSH
    assert decode_datagram(segment.payload, 0, 0, 0) == b"fifth"
    counts = plane.counted()
    assert (counts["held"], counts["resent"], counts["tx-data"]) == (4, 4, 5)
    assert counts["drained"] == 2


def test_a_sender_that_is_faster_than_user_space_overtakes_what_is_held(plane: Plane) -> None:
    conversation = opening(plane, b"second")
    establish(conversation)
    for _ in range(abi.HELD_MAX - 2):
        assert conversation.send(b"one more").result == Departure.HELD
    assert conversation.entry.held_now == abi.HELD_MAX
    assert conversation.sent(b"the first that overtakes").flags == ACK | PSH
    assert conversation.resend(b"one").result == Departure.SENT
    # once overtaken it takes no more, or it would never run empty
    assert conversation.sent(b"while others are held").flags == ACK | PSH
    for _ in range(abi.HELD_MAX - 1):
        assert conversation.resend(b"the rest").result == Departure.SENT
    conversation.command(Operation.DRAINED)
    assert not conversation.entry.flags & (ConnFlag.DRAINING | ConnFlag.DRAIN_OVERTAKEN)
    assert conversation.sent(b"and on").flags == ACK | PSH
    assert not any(conversation.entry.drops)


def test_a_sender_that_waits_for_answers_loses_nothing_while_it_is_held(plane: Plane) -> None:
    conversation = opening(plane, b"second")
    establish(conversation)
    for _ in range(3 * abi.HELD_MAX):
        assert conversation.resend(b"one").result == Departure.SENT
        take_time(conversation)
        assert conversation.send(b"one more").result == Departure.HELD
    assert conversation.entry.drops[abi.CONN_DROPS.index("held-full")] == 0


def test_who_never_lets_the_queue_run_empty_is_not_held_for_longer_than_ten_seconds(
    plane: Plane,
) -> None:
    conversation = opening(plane, b"second")
    establish(conversation)
    conversation.change(state_since_ns=now_ns() - 9_000_000_000)
    assert conversation.send(b"third").result == Departure.HELD
    conversation.change(state_since_ns=now_ns() - 10_000_000_001)
    assert conversation.sent(b"fourth").flags == ACK | PSH
    for datagram in (b"first", b"second", b"third"):
        assert conversation.resend(datagram).result == Departure.SENT
    conversation.command(Operation.DRAINED)
    assert conversation.sent(b"fifth").flags == ACK | PSH


def test_resent_datagrams_are_data_segments_with_consecutive_numbers(plane: Plane) -> None:
    conversation = opening(plane, b"second")
    establish(conversation)
    first = conversation.segment_of(conversation.resend(b"first").data)
    second = conversation.segment_of(conversation.resend(b"second").data)
    assert (first.payload, second.payload) == (b"first", b"second")
    assert (first.seq, second.seq) == (conversation.peer_ack, conversation.peer_ack + 5)


def test_a_daemon_that_is_gone_holds_nobody_up_for_more_than_a_second(plane: Plane) -> None:
    conversation = opening(plane, b"second")
    conversation.answer(conversation.syn_ack())
    entry = conversation.entry
    assert entry.drain_until_ns - entry.state_since_ns == 1_000_000_000
    conversation.change(drain_until_ns=now_ns() - 1, peer_window=0x3400000)
    assert conversation.sent(b"third").flags == ACK | PSH
    entry = conversation.entry
    assert not entry.flags & ConnFlag.DRAINING
    assert (entry.held_now, entry.drops[LOST]) == (0, 2)


def test_each_resent_datagram_gives_another_second(plane: Plane) -> None:
    conversation = opening(plane, b"second", b"third")
    establish(conversation)
    conversation.change(drain_until_ns=now_ns() - 1)
    conversation.resend(b"first")
    entry = conversation.entry
    assert entry.flags & ConnFlag.DRAINING
    assert entry.drain_until_ns - entry.last_tx_ns == 1_000_000_000


def test_a_daemon_that_dies_behind_the_last_one_holds_nobody_up_for_long(plane: Plane) -> None:
    conversation = opening(plane)
    establish(conversation)
    conversation.resend()
    entry = conversation.entry
    assert entry.drain_until_ns - entry.last_tx_ns == 100_000_000
    conversation.change(drain_until_ns=now_ns() - 1)
    assert conversation.sent(b"second").flags == ACK | PSH
    entry = conversation.entry
    assert not entry.flags & ConnFlag.DRAINING
    assert entry.drops[LOST] == 0


def test_what_is_given_up_no_longer_holds_others(plane: Plane) -> None:
    conversation = opening(plane, b"second", b"third")
    establish(conversation)
    conversation.resend(b"first")
    assert conversation.command(Operation.RELEASE, 1).result == Departure.TAKEN
    assert conversation.entry.flags & ConnFlag.DRAINING
    conversation.command(Operation.RELEASE, 1)
    conversation.command(Operation.DRAINED)
    entry = conversation.entry
    assert not entry.flags & ConnFlag.DRAINING
    assert (entry.held_now, entry.drops[LOST]) == (0, 2)


def test_a_reset_frees_what_was_held(plane: Plane) -> None:
    conversation = opening(plane, b"second")
    generation = conversation.entry.generation
    conversation.command(Operation.RESET, Reason.NO_ANSWER)
    entry = conversation.entry
    assert (entry.state, entry.held, entry.resent, entry.drops[LOST]) == (State.IDLE, 0, 0, 2)
    event = plane.events()[-1]
    assert (event.state, event.reason) == (State.IDLE, Reason.NO_ANSWER)
    # whatever was held for an earlier handshake is told from the next by this number
    assert event.generation == entry.generation == generation + 1


def test_what_is_resent_too_late_is_dropped_and_opens_nothing(plane: Plane) -> None:
    conversation = opening(plane)
    conversation.command(Operation.RESET, Reason.NO_ANSWER)
    plane.counted()
    assert conversation.resend().result == Departure.TAKEN
    assert plane.counted() == {"drop-resend-late": 1}
    assert conversation.state() is State.IDLE


def test_a_retried_handshake_keeps_what_was_held(plane: Plane) -> None:
    conversation = opening(plane, b"second")
    syn = conversation.answer(conversation.segment(RST, seq=0))
    conversation.peer_ack = (syn.seq + 1) % 2**32
    assert conversation.entry.held_now == 2
    establish(conversation)
    for datagram in (DATAGRAM, b"second"):
        assert conversation.resend(datagram).result == Departure.SENT
    assert conversation.entry.held_now == 0


def test_what_does_not_fit_the_ring_is_counted_and_holds_nobody_up(plane: Plane) -> None:
    conversations = []
    for number in range(20):
        remote = replace(HIGHER_REMOTE[4], port=30000 + number)
        conversation = talk(plane, remote=remote)
        conversation.open()
        conversations.append(conversation)
        for _ in range(250):
            assert conversation.send(bytes(1400)).result == Departure.HELD
    counts = plane.counted()
    lost = counts["drop-ring-full"]
    assert lost > 1000
    assert counts["held"] + lost == 20 * 251
    assert sum(conversation.entry.held_now for conversation in conversations) == counts["held"]
    assert sum(conversation.entry.drops[LOST] for conversation in conversations) == lost
    assert len(plane.events()) == counts["held"]
