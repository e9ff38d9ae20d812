# SPDX-License-Identifier: GPL-2.0-only
"""The time of established connections: read once in a jiffy, never ahead of the clock."""

from mimicd.core.abi import ConnFlag, Operation, Reason
from tests.bpf.plane import Departure, Plane, now_ns
from tests.bpf.talk import Talk, talk
from tests.rig.segment import RST

NS_PER_MS = 1_000_000
ROUNDS = 400
LOW_BYTES = 0x3400000 // 4
"""Of the peer's window: little enough for a probe."""


def established(plane: Plane) -> Talk:
    conversation = talk(plane)
    conversation.connect()
    plane.counted()
    return conversation


def test_packets_of_one_jiffy_share_a_time_that_is_not_ahead(plane: Plane) -> None:
    conversation = established(plane)
    plane.fresh_tick = False
    times = [0]
    for turn in range(ROUNDS):
        if not turn:
            start_ns = now_ns()
        assert conversation.send(b"x").result == Departure.SENT
        conversation.receive(conversation.data(b"y"))
        entry = conversation.entry
        assert times[-1] <= entry.last_tx_ns <= entry.last_rx_ns <= now_ns()
        times += [entry.last_tx_ns, entry.last_rx_ns]
    # a jiffy is a millisecond at least
    assert 1 < len(set(times)) <= (now_ns() - start_ns) // NS_PER_MS + 3


def test_what_begins_or_ends_reads_the_clock(plane: Plane) -> None:
    """What ended is told apart from what came just before, within a jiffy too."""
    conversation = talk(plane)
    plane.fresh_tick = False
    before_ns = now_ns()
    conversation.connect()
    assert before_ns < conversation.entry.state_since_ns
    conversation.receive(conversation.data())
    before_ns = now_ns()
    conversation.receive(conversation.segment(RST))
    assert before_ns < conversation.entry.reset_ns <= now_ns()


def test_what_is_commanded_reads_the_clock(plane: Plane) -> None:
    conversation = established(plane)
    plane.fresh_tick = False
    conversation.receive(conversation.data())
    before_ns = now_ns()
    conversation.asked(Operation.RESET, Reason.STOPPED)
    assert before_ns < conversation.entry.reset_ns <= now_ns()


def test_a_time_that_another_cpu_has_read_a_moment_later_is_no_long_time_ago(plane: Plane) -> None:
    conversation = established(plane)
    later_ns = now_ns() + 3_600_000 * NS_PER_MS
    conversation.change(peer_window=LOW_BYTES, last_probe_ns=later_ns)
    assert conversation.send(b"no probe follows").result == Departure.SENT
    assert plane.counted() == {"tx-data": 1}
    assert not conversation.entry.flags & ConnFlag.PROBE_OUT
    conversation.change(last_probe_ns=0)
    assert conversation.send(b"one does").result == Departure.SENT
    assert plane.counted() == {"tx-data": 1, "tx-probe": 1}
