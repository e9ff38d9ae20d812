# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.flows: events of the kernel in, actions on the kernel out."""

import dataclasses
import struct
from ipaddress import IPv4Address

import pytest

from mimicd.core import flows as flows_module
from mimicd.core.abi import EventType, Operation, Reason, encode_flow
from mimicd.core.connection import Role, State
from mimicd.core.flows import Action, Command, Flows, Forget, Resend, stop_commands
from mimicd.core.frames import finish_checksum
from mimicd.core.model import FlowSettings, Handshake, Keepalive
from tests.unit.entries import KEY, NS, entry, held_event, key_of, state_event

ESTABLISHED = state_event(State.ESTABLISHED, Reason.ESTABLISHED)
OPENED = held_event(b"first", reason=Reason.OPENED)


@pytest.fixture
def flows() -> Flows:
    return Flows({1: FlowSettings()})


def resent(*frames: bytes, generation: int = 1) -> list[Action]:
    return [Resend(KEY, frame, generation) for frame in frames]


# Held datagrams.


def test_what_an_earlier_process_held_is_given_up_but_not_what_this_one_holds(flows: Flows) -> None:
    flows.on_event(OPENED)
    opening = entry(state=State.SYN_SENT, held=5, resent=1)
    assert flows.disown(KEY, opening) == [Command(KEY, Operation.RELEASE, opening.generation, 3)]
    assert flows.disown(KEY, dataclasses.replace(opening, held=2)) == []
    assert flows.drained() == []
    standing = dataclasses.replace(opening, state=State.ESTABLISHED)
    assert len(flows.disown(KEY, standing)) == 1
    assert flows.drained() == [Command(KEY, Operation.DRAINED, 1)]


def test_held_datagrams_are_sent_in_order_once_it_is_established(flows: Flows) -> None:
    assert flows.on_event(OPENED) == []
    assert flows.on_event(held_event(b"second")) == []
    assert flows.on_event(held_event(b"third")) == []
    assert flows.held_bytes == 16
    assert flows.on_event(ESTABLISHED) == resent(b"first", b"second", b"third")
    assert flows.held_bytes == 0
    # and once
    assert flows.on_event(ESTABLISHED) == []


def test_behind_the_last_held_datagram_the_kernel_is_told_so(flows: Flows) -> None:
    flows.on_event(OPENED)
    assert flows.drained() == []
    flows.on_event(ESTABLISHED)
    assert flows.drained() == [Command(KEY, Operation.DRAINED, 1)]
    assert flows.drained() == []
    flows.on_event(held_event(b"late", state=State.ESTABLISHED))
    assert flows.drained() == [Command(KEY, Operation.DRAINED, 1)]


def test_of_a_connection_that_is_gone_nothing_is_told(flows: Flows) -> None:
    flows.on_event(OPENED)
    flows.on_event(ESTABLISHED)
    flows.forget(KEY)
    assert flows.drained() == []


def test_what_is_held_after_it_was_established_is_sent_at_once(flows: Flows) -> None:
    """It queued in the kernel behind those that were still held here."""
    flows.on_event(OPENED)
    flows.on_event(ESTABLISHED)
    late = held_event(b"late", state=State.ESTABLISHED)
    assert flows.on_event(late) == resent(b"late")
    # held by another CPU just before, told just after
    assert flows.on_event(held_event(b"later")) == resent(b"later")
    assert flows.held_bytes == 0


def test_what_is_held_just_before_it_is_told_as_established_keeps_its_place(flows: Flows) -> None:
    flows.on_event(OPENED)
    assert flows.on_event(held_event(b"second", state=State.ESTABLISHED)) == []
    assert flows.on_event(ESTABLISHED) == resent(b"first", b"second")


def test_a_new_handshake_of_the_same_connection_keeps_what_was_held(flows: Flows) -> None:
    """The kernel met a RST with a new SYN, or the peer opened while we did."""
    flows.on_event(OPENED)
    assert flows.on_event(state_event(State.SYN_SENT, Reason.OPENED, 2)) == []
    assert flows.on_event(held_event(b"second", 2)) == []
    actions = flows.on_event(state_event(State.ESTABLISHED, Reason.ESTABLISHED, 3))
    assert actions == resent(b"first", b"second", generation=3)


def test_a_datagram_of_the_handshake_before_is_still_sent(flows: Flows) -> None:
    flows.on_event(OPENED)
    flows.on_event(state_event(State.ESTABLISHED, Reason.ESTABLISHED, 2))
    assert flows.on_event(held_event(b"late", 1)) == resent(b"late", generation=1)


def test_a_reset_frees_what_was_held(flows: Flows) -> None:
    flows.on_event(OPENED)
    flows.on_event(held_event(b"second"))
    assert flows.on_event(state_event(State.IDLE, Reason.NO_ANSWER, 2)) == []
    assert flows.held_bytes == 0
    assert flows.on_event(state_event(State.ESTABLISHED, Reason.ESTABLISHED, 3)) == []


def test_what_comes_late_of_a_handshake_that_was_reset_is_not_wanted(flows: Flows) -> None:
    flows.on_event(OPENED)
    flows.on_event(state_event(State.IDLE, Reason.NO_ANSWER, 2))
    assert flows.on_event(held_event(b"of the old one", 1)) == []
    assert flows.held_bytes == 0
    flows.on_event(held_event(b"of the new one", 3))
    actions = flows.on_event(state_event(State.ESTABLISHED, Reason.ESTABLISHED, 3))
    assert actions == resent(b"of the new one", generation=3)


def test_a_reset_that_is_told_late_frees_nothing_of_the_next_handshake(flows: Flows) -> None:
    """Two CPUs: one resets and then tells, between which the other opens again and tells."""
    flows.on_event(OPENED)
    flows.on_event(ESTABLISHED)
    assert flows.on_event(held_event(b"new", 3, reason=Reason.OPENED)) == []
    assert flows.on_event(state_event(State.IDLE, Reason.RESET_BY_PEER, 2)) == []
    assert flows.held_bytes == 3
    actions = flows.on_event(state_event(State.ESTABLISHED, Reason.ESTABLISHED, 3))
    assert actions == resent(b"new", generation=3)


def test_an_end_that_is_told_late_does_not_undo_what_came_after(flows: Flows) -> None:
    flows.on_event(state_event(State.ESTABLISHED, Reason.ESTABLISHED, 5))
    flows.on_event(state_event(State.IDLE, Reason.RESET_BY_PEER, 4))
    assert flows.on_event(held_event(b"x", 5, State.ESTABLISHED)) == resent(b"x", generation=5)


@pytest.mark.parametrize("start", [0xFFFFFFFE, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0])
def test_generations_wrap(flows: Flows, start: int) -> None:
    first, reset, second = (start + step & 0xFFFFFFFF for step in range(3))
    assert flows.on_event(held_event(b"old", first)) == []
    assert flows.held_bytes == 3
    flows.on_event(state_event(State.IDLE, Reason.NO_ANSWER, reset))
    assert flows.on_event(held_event(b"old", first)) == []
    assert flows.held_bytes == 0
    flows.on_event(held_event(b"new", second))
    actions = flows.on_event(state_event(State.ESTABLISHED, Reason.ESTABLISHED, second))
    assert actions == resent(b"new", generation=second)


def test_what_is_too_much_to_hold_is_given_up(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows_module, "HELD_BYTES_MAX", 100)
    other = key_of(2)
    assert flows.on_event(held_event(bytes(60))) == []
    assert flows.on_event(held_event(bytes(40), key=other)) == []
    assert flows.on_event(held_event(b"x", 7, key=other)) == [
        Command(other, Operation.RELEASE, 7, 1)
    ]
    assert flows.held_bytes == 100
    # once there is room again, it is used
    assert len(flows.on_event(ESTABLISHED)) == 1
    assert flows.on_event(held_event(b"x", key=other)) == []
    assert flows.held_bytes == 41


def test_an_unfinished_checksum_is_finished_before_it_is_held(flows: Flows) -> None:
    udp = struct.pack("!4H", 51820, 40001, 13, 0x1234) + b"hello"
    frame = bytes(34) + udp
    key = encode_flow(IPv4Address("192.0.2.1"), 51820, IPv4Address("203.0.113.5"), 40001)
    partial = dataclasses.replace(held_event(frame), partial=True)
    flows.on_event(partial)
    (action,) = flows.on_event(ESTABLISHED)
    assert action == Resend(KEY, finish_checksum(frame, 34, key), 1)
    assert finish_checksum(frame, 34, key) != frame


# Looks.


def test_an_event_with_a_reason_asks_for_a_look(flows: Flows) -> None:
    assert flows.next_deadline_ns() is None
    flows.on_event(held_event(b"x"))
    assert flows.next_deadline_ns() is None
    flows.on_event(state_event(State.SYN_SENT, Reason.OPENED, at_ns=77))
    assert flows.next_deadline_ns() == 77
    assert flows.due(76, 9) == []
    assert flows.due(77, 9) == [KEY]
    assert flows.due(77, 9) == []


def test_a_look_says_what_is_due_and_when_to_look_again(flows: Flows) -> None:
    opening = entry(State.SYN_SENT, state_since_ns=0, last_tx_ns=0, generation=4)
    assert flows.examine(KEY, opening, NS) == []
    assert flows.next_deadline_ns() == 2 * NS
    assert flows.examine(KEY, opening, 2 * NS) == [Command(KEY, Operation.SYN, 4)]
    assert flows.next_deadline_ns() == 4 * NS
    given_up = Command(KEY, Operation.RESET, 4, int(Reason.NO_ANSWER))
    assert flows.examine(KEY, opening, 8 * NS) == [given_up]


def test_settings_that_change_count_from_the_next_look_on() -> None:
    rules = {1: FlowSettings()}
    flows = Flows(rules)
    heard = entry(State.ESTABLISHED, last_rx_ns=0, last_active_ns=0)
    flows.examine(KEY, heard, NS)
    assert flows.next_deadline_ns() == 180 * NS
    rules[1] = FlowSettings(keepalive=Keepalive(time_s=7))
    flows.examine(KEY, heard, NS)
    assert flows.next_deadline_ns() == 7 * NS


def test_keepalives_are_counted_from_the_last_segment(flows: Flows) -> None:
    silent = entry(State.ESTABLISHED, last_rx_ns=0, last_active_ns=0, generation=1)
    assert flows.examine(KEY, silent, 180 * NS) == [Command(KEY, Operation.KEEPALIVE, 1)]
    assert flows.examine(KEY, silent, 181 * NS) == []
    assert flows.examine(KEY, silent, 190 * NS) == [Command(KEY, Operation.PROBE, 1)]
    heard = dataclasses.replace(silent, last_rx_ns=191 * NS)
    assert flows.examine(KEY, heard, 192 * NS) == []
    # a new silence begins with a first attempt
    assert flows.examine(KEY, heard, 371 * NS) == [Command(KEY, Operation.KEEPALIVE, 1)]


def test_an_idle_entry_is_forgotten_in_the_end(flows: Flows) -> None:
    idle = entry(State.IDLE, reset_ns=0, cooldown_step=1, generation=9)
    assert flows.examine(KEY, idle, NS) == []
    assert flows.knows(KEY)
    assert flows.examine(KEY, idle, 10 * NS) == [Forget(KEY, 9)]
    assert not flows.knows(KEY)
    assert flows.next_deadline_ns() is None


@pytest.mark.parametrize("gone", [None, entry(State.ESTABLISHED, rule=2)])
def test_an_entry_that_is_gone_or_whose_filter_is_gone_is_watched_no_more(
    flows: Flows, gone: object
) -> None:
    flows.on_event(OPENED)
    assert flows.examine(KEY, gone, 0) == []  # type: ignore[arg-type]
    assert (len(flows), flows.held_bytes, flows.next_deadline_ns()) == (0, 0, None)


def test_no_more_is_looked_at_than_asked_for(flows: Flows) -> None:
    for number in range(5):
        flows.on_event(state_event(State.SYN_SENT, Reason.OPENED, at_ns=number, key=key_of(number)))
    assert flows.due(9, 2) == [key_of(0), key_of(1)]
    assert len(flows.due(9, 9)) == 3


# After an earlier process.


def test_an_adopted_connection_is_watched_from_its_entry(flows: Flows) -> None:
    adopted = entry(State.ESTABLISHED, last_rx_ns=0, last_active_ns=0, generation=3)
    assert flows.examine(KEY, adopted, NS) == []
    assert flows.next_deadline_ns() == 180 * NS
    late = held_event(b"x", 3, State.ESTABLISHED)
    assert flows.on_event(late) == resent(b"x", generation=3)


def test_of_an_adopted_handshake_datagrams_are_held(flows: Flows) -> None:
    flows.examine(KEY, entry(State.SYN_SENT, generation=3), 0)
    assert flows.on_event(held_event(b"x", 3)) == []
    assert flows.on_event(state_event(State.ESTABLISHED, Reason.ESTABLISHED, 3)) == resent(
        b"x", generation=3
    )


def test_a_look_at_a_known_connection_does_not_change_the_order_of_datagrams(
    flows: Flows,
) -> None:
    """The entry says established before the event does; only the event empties the queue."""
    flows.on_event(OPENED)
    flows.examine(KEY, entry(State.ESTABLISHED, generation=1), 0)
    assert flows.on_event(held_event(b"second", state=State.ESTABLISHED)) == []
    assert flows.on_event(ESTABLISHED) == resent(b"first", b"second")


def test_a_datagram_of_an_unknown_established_connection_is_sent_at_once(flows: Flows) -> None:
    late = held_event(b"x", 3, State.ESTABLISHED)
    assert flows.on_event(late) == resent(b"x", generation=3)


def test_trace_events_do_nothing(flows: Flows) -> None:
    assert flows.on_event(dataclasses.replace(ESTABLISHED, type=EventType.TRACE)) == []


def test_at_the_end_every_connection_whose_peer_has_answered_is_reset() -> None:
    entries = {
        key_of(number): entry(state, generation=number, role=Role.RESPONDER)
        for number, state in enumerate(State)
    }
    assert stop_commands(entries) == [
        Command(key_of(number), Operation.RESET, number, int(Reason.STOPPED)) for number in (2, 3)
    ]


def test_a_passive_filter_is_watched_as_any_other() -> None:
    flows = Flows({1: FlowSettings(handshake=Handshake(interval_s=0))})
    flows.examine(KEY, entry(State.SYN_RECEIVED, state_since_ns=0), NS)
    assert flows.next_deadline_ns() == 8 * NS
