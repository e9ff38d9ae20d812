# SPDX-License-Identifier: GPL-2.0-only
"""Commands of user space, and what a reset leaves: applied once, to the connection they meant."""

from dataclasses import replace

import pytest

from mimicd.core import abi
from mimicd.core.abi import Operation, Reason
from mimicd.core.connection import Role, State
from mimicd.core.frames import command_frame
from mimicd.core.model import FlowSettings, Handshake
from tests.bpf.packets import link_header, udp_frame
from tests.bpf.plane import COMMAND_MARK, Departure, Plane, now_ns
from tests.bpf.talk import HIGHER_REMOTE, Talk, talk
from tests.rig.segment import ACK, PSH, RST, SYN, sequence_after

NS = 1_000_000_000


def established(plane: Plane, version: int = 4) -> Talk:
    conversation = talk(plane, version)
    conversation.connect()
    plane.counted()
    plane.events()
    return conversation


def assert_refused(conversation: Talk, operation: Operation, **arguments: int) -> None:
    before = conversation.plane.entry(conversation.key)
    assert conversation.command(operation, **arguments).result == Departure.TAKEN
    assert conversation.plane.counted() == {"drop-stale-command": 1}
    assert conversation.plane.entry(conversation.key) == before
    assert conversation.plane.events() == []


@pytest.mark.parametrize("version", [4, 6])
def test_a_syn_is_repeated_with_the_same_isn(plane: Plane, version: int) -> None:
    conversation = talk(plane, version)
    syn = conversation.open()
    for _ in range(3):
        sent_ns = conversation.entry.last_tx_ns
        run = conversation.command(Operation.SYN)
        assert conversation.segment_of(run.data) == syn
        assert conversation.entry.last_tx_ns > sent_ns
    assert plane.counted() == {"tx-syn": 4, "held": 1}


def test_a_probe_command_consumes_one_byte_and_repeats_it(plane: Plane) -> None:
    conversation = established(plane)
    first, again = (
        conversation.segment_of(conversation.command(Operation.PROBE).data) for _ in range(2)
    )
    assert (first.flags, first.payload, first.seq) == (ACK, b"\0", conversation.peer_ack)
    assert again == first
    assert conversation.entry.seq == first.seq + 1


@pytest.mark.parametrize("version", [4, 6])
def test_a_reset_carries_our_next_seq(plane: Plane, version: int) -> None:
    conversation = established(plane, version)
    before = conversation.entry
    rst = conversation.segment_of(conversation.command(Operation.RESET, Reason.STOPPED).data)
    assert (rst.flags, rst.seq, rst.ack, rst.window) == (RST | ACK, before.seq, before.ack, 0)
    (event,) = plane.events()
    assert (event.state, event.reason) == (State.IDLE, Reason.STOPPED)
    assert conversation.entry.last_reset is Reason.STOPPED


def test_a_reset_of_a_handshake_carries_the_seq_behind_the_syn(plane: Plane) -> None:
    conversation = talk(plane)
    syn = conversation.open()
    rst = conversation.segment_of(conversation.command(Operation.RESET, Reason.NO_ANSWER).data)
    assert (rst.flags, rst.seq, rst.ack) == (RST, (syn.seq + 1) % 2**32, 0)
    assert conversation.state() is State.IDLE


@pytest.mark.parametrize("operation", Operation)
def test_a_command_for_another_generation_is_refused(plane: Plane, operation: Operation) -> None:
    conversation = established(plane)
    generation = conversation.entry.generation
    for other in (generation - 1, generation + 1, generation + 2**31):
        assert_refused(conversation, operation, generation=other)
    plane.reset()
    conversation = talk(plane)
    conversation.open()
    plane.counted()
    plane.events()
    assert_refused(conversation, operation, generation=conversation.entry.generation - 1)


def test_a_command_counts_for_its_generation_even_where_numbers_wrap(plane: Plane) -> None:
    conversation = established(plane)
    conversation.change(generation=2**32 - 1)
    conversation.command(Operation.RESET, Reason.STALE)
    assert conversation.entry.generation == 0
    conversation.open()
    assert conversation.entry.generation == 1
    plane.counted()
    plane.events()
    assert_refused(conversation, Operation.SYN, generation=2**32 - 1)


@pytest.mark.parametrize("operation", Operation)
def test_an_idle_connection_takes_no_command(plane: Plane, operation: Operation) -> None:
    conversation = established(plane)
    conversation.command(Operation.RESET, Reason.STALE)
    plane.counted()
    plane.events()
    assert_refused(conversation, operation)


@pytest.mark.parametrize("operation", Operation)
def test_a_command_makes_no_connection(plane: Plane, operation: Operation) -> None:
    conversation = talk(plane)
    assert_refused(conversation, operation, generation=0)
    assert conversation.state() is None


def test_a_command_for_another_state_is_refused(plane: Plane) -> None:
    conversation = established(plane)
    assert_refused(conversation, Operation.SYN)
    plane.reset()
    conversation = talk(plane)
    conversation.open()
    plane.counted()
    plane.events()
    assert_refused(conversation, Operation.KEEPALIVE)
    assert_refused(conversation, Operation.PROBE)


@pytest.mark.parametrize("number", [0, 7, 0xFFFFFFFF])
def test_an_unknown_command_is_refused(plane: Plane, number: int) -> None:
    conversation = established(plane)
    before = conversation.entry
    payload = (
        number.to_bytes(4, "little") + abi.encode_command(Operation.SYN, before.generation)[4:]
    )
    frame = command_frame(link_header(4), conversation.key, payload)
    assert plane.egress(frame, COMMAND_MARK).result == Departure.TAKEN
    assert plane.counted() == {"drop-stale-command": 1}
    assert conversation.entry == before


def test_a_cut_command_is_refused(plane: Plane) -> None:
    conversation = established(plane)
    payload = abi.encode_command(Operation.RESET, conversation.entry.generation, 4)
    for size in range(12):
        frame = command_frame(link_header(4), conversation.key, payload[:size])
        assert plane.egress(frame, COMMAND_MARK).result == Departure.TAKEN
    assert plane.counted() == {"drop-stale-command": 12}
    assert conversation.state() is State.ESTABLISHED


def test_without_its_mark_a_command_is_a_datagram(plane: Plane) -> None:
    conversation = established(plane)
    payload = abi.encode_command(Operation.RESET, conversation.entry.generation, 4)
    frame = udp_frame(conversation.local, conversation.remote, payload)
    assert plane.egress(frame, COMMAND_MARK + 1).result == Departure.SENT
    assert conversation.state() is State.ESTABLISHED
    assert plane.counted() == {"tx-data": 1}


# What a reset leaves.


def test_the_initiator_cools_down_longer_after_each_failure(plane: Plane) -> None:
    conversation = talk(plane)
    for cooldown_s in (5, 10, 20, 40, 40):
        conversation.open()
        conversation.command(Operation.RESET, Reason.NO_ANSWER)
        entry = conversation.entry
        assert entry.cooldown_ns == cooldown_s * NS
        plane.counted()
        # nearly over
        conversation.change(
            reset_ns=now_ns() - cooldown_s * NS + NS // 2,
            last_rx_ns=0,
            last_tx_ns=0,
        )
        assert conversation.send().result == Departure.DROPPED
        assert plane.counted() == {"drop-cooldown": 1}
        # over
        conversation.change(reset_ns=now_ns() - cooldown_s * NS)
    assert conversation.entry.drops[abi.CONN_DROPS.index("cooldown")] == 5
    conversation.connect()
    assert conversation.entry.cooldown_step == 0
    conversation.command(Operation.RESET, Reason.KEEPALIVE)
    assert conversation.entry.cooldown_ns == 5 * NS


def test_a_stale_connection_opens_again_at_once(plane: Plane) -> None:
    conversation = established(plane)
    conversation.command(Operation.RESET, Reason.STALE)
    assert conversation.entry.cooldown_step == 0
    assert conversation.open().flags == SYN


def test_the_responder_does_not_cool_down(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.accept()
    conversation.command(Operation.RESET, Reason.KEEPALIVE)
    assert conversation.entry.cooldown_step == 0
    assert conversation.open().flags == SYN


def test_a_peer_gets_in_while_we_cool_down(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.open()
    conversation.command(Operation.RESET, Reason.NO_ANSWER)
    conversation.accept()
    entry = conversation.entry
    assert (entry.state, entry.role, entry.cooldown_step) == (
        State.ESTABLISHED,
        Role.RESPONDER,
        0,
    )
    assert conversation.sent().flags == ACK | PSH


def test_a_new_isn_lies_above_the_last_number_used(plane: Plane) -> None:
    conversation = established(plane)
    for seq in (5, 2**31, 2**32 - 1):
        conversation.change(seq=seq)
        conversation.command(Operation.RESET, Reason.STALE)
        syn = conversation.open()
        assert 0 < sequence_after(syn.seq, seq) < 2**29
        conversation.change(state=State.ESTABLISHED)


def test_first_numbers_are_not_foreseeable(plane: Plane) -> None:
    conversation = talk(plane, settings=FlowSettings(Handshake()))
    isns = set()
    for port in range(20):
        other = replace(conversation, remote=replace(HIGHER_REMOTE[4], port=1000 + port))
        isns.add(other.open().seq)
    assert len(isns) == 20
    assert max(isns) - min(isns) > 2**28
