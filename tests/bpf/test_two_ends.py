# SPDX-License-Identifier: GPL-2.0-only
"""Two ends of ours whose numbers somebody has moved: datagrams and windows come right again.

Forged data moves what an end expects, and then a forged segment its view of the other's window. A
RST with seq 0 ends a connection more easily; this must not stop one for longer.
"""

import random
from dataclasses import dataclass, replace

import pytest

from mimicd.core import abi
from mimicd.core.abi import ConnEntry
from mimicd.core.connection import Role, State
from mimicd.core.model import Filter, FlowSettings, Origin
from tests.bpf.model import WINDOW, WORD
from tests.bpf.packets import link_header, udp_frame
from tests.bpf.plane import Arrival, Departure, Plane
from tests.bpf.talk import HIGHER_REMOTE, LOCAL, talk
from tests.rig.segment import ACK, PSH, End, Segment, decode_packet, encode_packet

W = WINDOW[False]
ROUNDS = 8
FAR = (W - 1, W + 1, 3 * W, WORD // 2 - 1, WORD // 2 + 1, WORD - 3 * W, WORD - W - 1)


@dataclass
class Side:
    """One end of the flow; both are connections of the same programs."""

    plane: Plane
    local: End
    remote: End

    @property
    def key(self) -> bytes:
        ends = (self.local.address, self.local.port, self.remote.address, self.remote.port)
        return abi.encode_flow(*ends)

    @property
    def entry(self) -> ConnEntry:
        entry = self.plane.entry(self.key)
        assert entry is not None
        return entry

    def change(self, **changes: object) -> None:
        self.plane.change(self.key, **changes)

    def send(self) -> list[bytes]:
        """The segments that a datagram leaves as, one of them perhaps a probe."""
        self.plane.counted()
        self.plane.forget_clones()
        run = self.plane.egress(udp_frame(self.local, self.remote, b"datagram"))
        counted = self.plane.counted()
        if run.result != Departure.SENT:
            return []
        both = "tx-data" in counted and "tx-probe" in counted
        return [self.plane.clone(), run.data] if both else [run.data]

    def receive(self, frame: bytes) -> tuple[int, bytes | None]:
        """Whether a datagram was delivered, and what answers."""
        arrived = self.plane.ingress(frame)
        delivered = arrived.kind in (Arrival.PASSED, Arrival.DELIVERED_AND_ANSWERED)
        answer = arrived.frame if arrived.kind is Arrival.ANSWERED else None
        if arrived.note is not None:
            note = arrived.note
            segment = Segment(
                self.local, self.remote, note.flags, note.seq, note.ack, note.window, b""
            )
            answer = link_header(self.local.version) + encode_packet(segment)
        return delivered, answer


def connected(plane: Plane) -> tuple[Side, Side]:
    ends = LOCAL[4], HIGHER_REMOTE[4]
    sides = Side(plane, *ends), Side(plane, *reversed(ends))
    for side, other in zip(sides, reversed(ends), strict=True):
        filter_ = Filter(Origin.REMOTE, other.address, other.port, FlowSettings())
        rule = plane.add_filter(filter_)
        entry = replace(
            abi.decode_conn(bytes(abi.CONN_BYTES)),
            rule=rule,
            state=State.ESTABLISHED,
            role=Role.INITIATOR,
            peer_wscale=12,
            window=W,
            peer_window=W,
            seq=1000 if side is sides[0] else 2000,
            ack=2000 if side is sides[0] else 1000,
        )
        plane.put(side.key, entry)
    return sides


def converse(sender: Side, receiver: Side) -> int:
    """One datagram, and all that answers; how many were delivered. Time for a probe goes by."""
    for side in (sender, receiver):
        side.change(last_probe_ns=0)
    delivered = 0
    for frame in sender.send():
        to, back, packet = receiver, sender, frame
        for _ in range(20):
            came, answer = to.receive(packet)
            delivered += came
            if answer is None:
                break
            to, back, packet = back, to, answer
        else:
            raise AssertionError("the two ends answer each other for ever")
    return delivered


def works(sender: Side, receiver: Side) -> bool:
    """A datagram arrives, and there is room for more."""
    return converse(sender, receiver) == 1 and sender.entry.peer_window > W // 2


@pytest.mark.parametrize("number", range(40))
def test_a_flow_in_one_direction_goes_on_whatever_was_moved(plane: Plane, number: int) -> None:
    chance = random.Random(number)
    sender, receiver = connected(plane)
    for side in (sender, receiver):
        if chance.random() < 0.7:
            side.change(ack=(side.entry.ack + chance.choice(FAR)) % WORD)
        if chance.random() < 0.7:
            side.change(peer_window=chance.choice((0, 40, W)))
    rounds = [works(sender, receiver) for _ in range(ROUNDS)]
    assert rounds[-1], rounds
    # and then the other end finds nothing that is still in its way
    rounds = [works(receiver, sender) for _ in range(ROUNDS)]
    assert rounds[-1], rounds
    assert (sender.entry.ack, receiver.entry.ack) == (receiver.entry.seq, sender.entry.seq)


def test_forged_data_and_a_window_of_zero_do_not_stop_a_sender(plane: Plane) -> None:
    """With segments of a stranger who knows addresses and ports alone."""
    sender, receiver = connected(plane)
    seq = (sender.entry.ack + WORD // 2 - 5) % WORD
    names = (sender.remote, sender.local)

    def forge(flags: int, seq: int, payload: bytes, window: int) -> None:
        for ack in range(0, WORD, WORD // 4):
            segment = Segment(*names, flags, seq, ack, window, payload)
            sender.receive(link_header(4, incoming=True) + encode_packet(segment))

    forge(ACK | PSH, seq, b"x", 0)
    assert sender.entry.ack == seq + 1
    forge(ACK, seq + 1, b"", 0)
    assert sender.entry.peer_window == 0
    rounds = [works(sender, receiver) for _ in range(ROUNDS)]
    assert rounds[-1], rounds


@pytest.mark.parametrize("payload", [b"", b"\0"])
@pytest.mark.parametrize("distance", [2, 1000, 0x7FFFFFFF])
def test_what_acknowledges_the_unsent_is_answered_by_a_probe_now_and_then(
    plane: Plane, payload: bytes, distance: int
) -> None:
    conversation = talk(plane)
    conversation.connect()
    conversation.change(last_probe_ns=0)
    before = conversation.entry
    beyond = conversation.segment(ACK, payload, ack=before.seq + distance, window=0)
    plane.counted()
    probe = conversation.answer(beyond)
    assert (probe.flags, probe.seq, len(probe.payload)) == (ACK, before.seq, 1)
    assert plane.counted() == {"drop-rx-ack": 1, "tx-probe": 1}
    assert conversation.entry.peer_window == before.peer_window
    conversation.change(last_probe_ns=conversation.entry.last_rx_ns)
    assert conversation.receive(beyond).kind is Arrival.DROPPED
    assert plane.counted() == {"drop-rx-ack": 1}
    # it is the same byte as long as nobody has answered
    conversation.change(last_probe_ns=0)
    assert conversation.answer(beyond).seq == probe.seq


def test_data_that_acknowledges_the_unsent_is_delivered(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.connect()
    before = conversation.entry
    conversation.peer_ack = before.seq + 1_000_000
    data = conversation.data()
    assert conversation.receive(data).kind is Arrival.PASSED
    after = conversation.entry
    assert (after.ack, after.peer_window) == (conversation.peer_seq, before.peer_window)


def test_a_forged_syn_keeps_nobody_from_opening_for_ever(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.answer(conversation.syn())
    assert conversation.send().result == Departure.HELD
    assert conversation.state() is State.SYN_RECEIVED
    conversation.command(abi.Operation.RESET, abi.Reason.NO_ANSWER)
    conversation.answer(conversation.syn())
    assert decode_packet(conversation.send().data[14:]) is not None
    assert conversation.state() is State.SYN_SENT
    # what is forged next crosses, and the true answer decides
    conversation.receive(conversation.syn(7000))
    conversation.peer_ack = conversation.entry.seq
    conversation.answer(conversation.syn_ack())
    assert conversation.state() is State.ESTABLISHED
    assert not conversation.entry.flags & abi.ConnFlag.HINT_FAILED
