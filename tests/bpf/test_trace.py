# SPDX-License-Identifier: GPL-2.0-only
"""The trace: every segment with its numbers while it is on, nothing else changed, bounded."""

from collections.abc import Iterator

import pytest

from mimicd.core import abi
from mimicd.core.abi import ConfigFlag, Operation, TracedSegment
from mimicd.core.model import FlowSettings
from mimicd.kernel import dataplane
from mimicd.kernel.ring import Ring
from tests.bpf.plane import Arrival, Departure, Plane
from tests.bpf.talk import DATAGRAM, Talk, talk
from tests.rig.segment import ACK, PSH, RST, SYN, Segment

PADDING = 3


class Traced:
    """A plane whose trace is on."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.ring = Ring(plane.fds["traces"], dataplane.TRACE_RING_BYTES)
        self.ring.skip()

    def switch(self, on: bool) -> None:
        raw = self._plane.maps["config"].lookup(bytes(4)) or b""
        flags = int(ConfigFlag.TRACE) if on else 0
        self._plane.maps["config"].update(bytes(4), raw[:28] + bytes([flags]) + raw[29:])

    def told(self) -> list[TracedSegment]:
        return [abi.decode_trace(raw) for raw in self.ring.read(1 << 20)]


@pytest.fixture
def traced(plane: Plane) -> Iterator[Traced]:
    traced = Traced(plane)
    traced.switch(True)
    yield traced
    traced.ring.close()


def facts(conversation: Talk, segment: Segment, sent: bool) -> tuple[object, ...]:
    length = len(segment.payload)
    return (conversation.key, sent, segment.flags, segment.seq, segment.ack, length)


def told_facts(traced: Traced) -> list[tuple[object, ...]]:
    return [(one.key, one.sent, one.flags, one.seq, one.ack, one.length) for one in traced.told()]


def test_a_handshake_and_what_follows_are_told_in_their_order(plane: Plane, traced: Traced) -> None:
    one = talk(plane, settings=FlowSettings(padding=PADDING))
    syn = one.open()
    syn_ack = one.syn_ack()
    ack = one.answer(syn_ack)
    assert told_facts(traced) == [
        facts(one, syn, sent=True),
        facts(one, syn_ack, sent=False),
        facts(one, ack, sent=True),
    ]
    one.peer_seq += 1
    before = one.entry
    assert one.resend().result == Departure.SENT
    length = len(DATAGRAM) + PADDING
    assert told_facts(traced) == [
        (one.key, True, ACK | PSH, before.seq, before.ack, length),
        # the peer's window is not scaled yet
        (one.key, True, ACK, before.seq + length, before.ack, 1),
    ]
    data = one.data()
    assert one.receive(data).kind is not Arrival.DROPPED
    (received,) = told_facts(traced)[:1]
    assert received == facts(one, data, sent=False)
    keepalive = one.asked(Operation.KEEPALIVE)
    assert told_facts(traced) == [facts(one, keepalive, sent=True)]
    reset = one.asked(Operation.RESET, 7)
    assert reset.flags == RST | ACK
    assert told_facts(traced) == [facts(one, reset, sent=True)]


def test_a_segment_that_belongs_to_nothing_is_told_with_its_answer(
    plane: Plane, traced: Traced
) -> None:
    one = talk(plane, 6)
    stray = one.segment(ACK, seq=1, ack=5)
    answer = one.answer(stray)
    assert told_facts(traced) == [facts(one, stray, sent=False), facts(one, answer, sent=True)]


def test_switched_off_nothing_is_told_and_on_nothing_else_changes(
    plane: Plane, traced: Traced
) -> None:
    counted = []
    for on in (True, False):
        plane.reset()
        traced.switch(on)
        one = talk(plane)
        one.connect()
        run = one.send()
        assert run.result == Departure.SENT
        counted.append(plane.counted())
        assert bool(traced.told()) is on
        # Held datagrams and changes of state come as ever.
        assert len(plane.events()) == 2
    assert counted[0] == counted[1]


def test_a_full_ring_costs_lines_that_are_counted_and_no_packets(
    plane: Plane, traced: Traced
) -> None:
    one = talk(plane)
    one.connect()
    traced.told()
    plane.counted()
    room = dataplane.TRACE_RING_BYTES // (abi.EVENT_BYTES + 8)
    sent = room + 500
    for _ in range(sent):
        assert one.send().result == Departure.SENT
        if one.entry.peer_window < 1 << 20:
            one.change(peer_window=50 << 20)
    counted = plane.counted()
    told = traced.told()
    assert counted["tx-data"] == sent
    assert room - 1 <= len(told) <= room
    assert counted["trace-lost"] + len(told) == sent
    numbers = [segment.seq for segment in told]
    assert numbers == sorted(numbers)
    assert one.send().result == Departure.SENT
    assert len(traced.told()) == 1


def test_the_words_for_a_segment() -> None:
    def words(sent: bool, flags: int) -> str:
        return TracedSegment(0, b"", sent, 5, 7, 40, flags).text()

    assert words(True, SYN | ACK) == "sent - len=40, SYN,ACK seq=5, ack=7"
    assert words(False, ACK | PSH) == "received - len=40, PSH,ACK seq=5, ack=7"
    assert words(False, RST) == "received - len=40, RST seq=5, ack=7"
    assert words(False, 0x20) == "received - len=40, none seq=5, ack=7"
