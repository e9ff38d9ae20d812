# SPDX-License-Identifier: GPL-2.0-only
"""Windows: what we announce, what we take from the peer, and probes when little is left."""

import pytest

from mimicd.core.abi import ConnFlag, Operation
from mimicd.core.model import FlowSettings
from tests.bpf.plane import Arrival, Departure, Plane, now_ns
from tests.bpf.talk import FULL_FIELD, FULL_WINDOW_BYTES, Talk, talk
from tests.rig.segment import ACK, PSH, SYN, Segment, decode_packet, decode_syn_options

W = FULL_WINDOW_BYTES
PROBE_INTERVAL_NS = 10_000_000
LOW = W // 2 - 1
"""Of the peer's window: little enough for a probe."""


def established(plane: Plane, max_window: bool = False) -> Talk:
    conversation = talk(plane, settings=FlowSettings(max_window=max_window))
    conversation.connect()
    plane.counted()
    return conversation


def data_and_probe(conversation: Talk, datagram: bytes) -> tuple[Segment, Segment]:
    """The data segment that leaves as a clone, and what its packet has become."""
    conversation.plane.forget_clones()
    run = conversation.send(datagram)
    data = decode_packet(conversation.plane.clone()[14:])
    assert run.result == Departure.SENT
    assert data is not None
    assert data.checksum_right
    return data, conversation.segment_of(run.data)


# What we announce.


@pytest.mark.parametrize("left", [W, W - 1, W - 4096, 0x1000000, 4096, 4095, 0])
def test_data_probes_and_keepalives_announce_what_is_left(plane: Plane, left: int) -> None:
    conversation = established(plane)
    conversation.change(window=left)
    assert conversation.sent().window == left >> 12
    for operation in (Operation.KEEPALIVE, Operation.PROBE):
        run = conversation.command(operation)
        assert conversation.segment_of(run.data).window == left >> 12
    keepalive = conversation.segment(ACK, seq=conversation.peer_seq - 1)
    assert conversation.answer(keepalive).window == left >> 12


def test_a_rst_announces_nothing(plane: Plane) -> None:
    conversation = established(plane)
    run = conversation.command(Operation.RESET, 9)
    assert conversation.segment_of(run.data).window == 0


def test_with_max_window_everything_announces_the_most(plane: Plane) -> None:
    conversation = talk(plane, settings=FlowSettings(max_window=True))
    syn = conversation.open()
    options = decode_syn_options(syn.options)
    assert options is not None
    assert (syn.flags, syn.window, options.scale) == (SYN, 65535, 14)
    assert conversation.answer(conversation.syn_ack()).window == 65535
    conversation.peer_seq += 1
    conversation.drain()
    conversation.take_all()
    for left in (65535 << 14, W, 4096):
        conversation.change(window=left)
        assert conversation.sent().window == 65535
        assert conversation.answer(conversation.segment(ACK, b"\0")).window == 65535
        conversation.peer_seq += 1
    conversation.change(window=0)
    arrived = conversation.receive(conversation.data())
    assert arrived.note is not None
    assert arrived.note.window == 65535


# When we restore it.


@pytest.mark.parametrize("size", [1, 1400])
def test_a_window_below_a_quarter_is_restored_by_data_with_an_update(
    plane: Plane, size: int
) -> None:
    conversation = established(plane)
    for left in (0, 1, W // 4 - 1, W // 4):
        conversation.change(window=left)
        arrived = conversation.receive(conversation.data(bytes(size)))
        assert arrived.kind is Arrival.DELIVERED_AND_ANSWERED
        assert arrived.note is not None
        entry = conversation.entry
        assert (arrived.note.flags, arrived.note.seq) == (ACK, entry.seq)
        assert arrived.note.ack == entry.ack == conversation.peer_seq
        assert arrived.note.window == (W - size) >> 12
        assert entry.window == W - size
    assert plane.counted() == {"rx-data": 4, "tx-window-update": 4}


def test_a_window_from_a_half_on_is_never_restored_by_data(plane: Plane) -> None:
    conversation = established(plane)
    for _ in range(200):
        conversation.change(window=W // 2)
        assert conversation.receive(conversation.data()).kind is Arrival.PASSED
    assert conversation.entry.window == W // 2 - 31


def test_between_them_chance_decides(plane: Plane) -> None:
    conversation = established(plane)
    kinds = []
    for _ in range(200):
        conversation.change(window=W * 3 // 8)
        kinds.append(conversation.receive(conversation.data()).kind)
    # of fair draws fewer than 50 or more than 150 do not happen
    assert 50 < kinds.count(Arrival.DELIVERED_AND_ANSWERED) < 150


# What we take from the peer.


@pytest.mark.parametrize("scale", [0, 7, 12, 14])
def test_the_peers_window_is_taken_scaled_less_what_is_on_the_way(plane: Plane, scale: int) -> None:
    conversation = established(plane)
    conversation.change(peer_wscale=scale)
    for window in (1, 1000, 65535):
        conversation.change(peer_window=W)
        sent = conversation.sent(bytes(1000))
        conversation.receive(conversation.segment(ACK, ack=sent.seq, window=window))
        assert conversation.entry.peer_window == max(0, (window << scale) - 1000)
        conversation.take_all()


def test_old_segments_tell_nothing_of_the_peers_window(plane: Plane) -> None:
    conversation = established(plane)
    before = conversation.entry.peer_window
    for distance in (-1, -2, -1400, -(2**31) + 1):
        seq = conversation.peer_seq + distance
        conversation.receive(conversation.segment(ACK, seq=seq, window=1))
    assert conversation.entry.peer_window == before
    conversation.receive(conversation.segment(ACK, seq=conversation.peer_seq + 9, window=1))
    assert conversation.entry.peer_window == 4096


def test_each_data_segment_lowers_the_peers_window(plane: Plane) -> None:
    conversation = established(plane)
    conversation.sent(bytes(100))
    conversation.sent(bytes(23))
    assert conversation.entry.peer_window == W - 123


# When little is left of it.


def test_the_first_data_goes_with_a_probe(plane: Plane) -> None:
    """After SYN+ACK the peer's window is 65535, unscaled."""
    conversation = talk(plane)
    conversation.open()
    conversation.answer(conversation.syn_ack())
    conversation.peer_seq += 1
    run = conversation.resend(b"first")
    data = decode_packet(plane.clone()[14:])
    probe = conversation.segment_of(run.data)
    assert data is not None
    assert data.checksum_right
    assert (data.flags, data.seq, len(data.payload)) == (ACK | PSH, conversation.peer_ack, 5)
    assert (probe.flags, probe.seq, probe.payload) == (ACK, data.seq + 5, b"\0")
    assert (probe.ack, probe.window) == (data.ack, FULL_FIELD)
    entry = conversation.entry
    assert entry.seq == probe.seq + 1
    # a probe is not deducted
    assert entry.peer_window == 65535 - 5


@pytest.mark.parametrize("padding", [0, 16])
def test_below_a_half_a_probe_follows_data_and_has_no_padding(plane: Plane, padding: int) -> None:
    conversation = talk(plane, settings=FlowSettings(padding=padding))
    conversation.connect()
    conversation.change(peer_window=W // 2)
    assert conversation.sent(b"at a half there is none").flags & PSH
    conversation.change(peer_window=LOW, last_probe_ns=0)
    data, probe = data_and_probe(conversation, b"below it there is")
    assert (probe.seq, probe.payload) == (data.seq + len(data.payload), b"\0")
    assert conversation.entry.peer_window == LOW - len(data.payload)
    assert conversation.entry.flags & ConnFlag.PROBE_OUT


def test_probes_are_at_least_10_ms_apart(plane: Plane) -> None:
    conversation = established(plane)
    conversation.change(peer_window=LOW)
    start_ns = now_ns()
    for _ in range(300):
        assert conversation.send(b"x").result == Departure.SENT
    most = (now_ns() - start_ns) // PROBE_INTERVAL_NS + 1
    counts = plane.counted()
    assert counts["tx-data"] == 300
    assert 1 <= counts["tx-probe"] <= most


def test_what_exceeds_the_window_is_dropped_and_a_probe_takes_its_place(plane: Plane) -> None:
    conversation = established(plane)
    conversation.change(peer_window=100, last_probe_ns=0)
    before = conversation.entry
    probe = conversation.sent(bytes(101))
    assert (probe.flags, probe.seq, probe.payload) == (ACK, before.seq, b"\0")
    assert plane.counted() == {"drop-window": 1, "tx-probe": 1}
    after = conversation.entry
    assert (after.seq, after.peer_window) == (before.seq + 1, 100)
    assert after.drops[3] == before.drops[3] + 1
    assert after.tx_packets == before.tx_packets


def test_between_two_probes_what_exceeds_the_window_is_only_dropped(plane: Plane) -> None:
    conversation = established(plane)
    conversation.change(peer_window=100)
    start_ns = now_ns()
    results = [conversation.send(bytes(101)).result for _ in range(300)]
    most = (now_ns() - start_ns) // PROBE_INTERVAL_NS + 1
    counts = plane.counted()
    assert counts["drop-window"] == 300
    assert results.count(Departure.SENT) == counts["tx-probe"] <= most
    assert results.count(Departure.DROPPED) == 300 - counts["tx-probe"]


def test_an_outstanding_probe_is_repeated_without_consuming(plane: Plane) -> None:
    conversation = established(plane)
    conversation.change(peer_window=100, last_probe_ns=0)
    first = conversation.sent(bytes(101))
    for _ in range(3):
        conversation.change(last_probe_ns=0)
        again = conversation.sent(bytes(101))
        assert (again.flags, again.seq, again.payload) == (ACK, first.seq, b"\0")
    assert conversation.entry.seq == first.seq + 1
    # once it is answered, the next one consumes again
    conversation.receive(conversation.segment(ACK, ack=first.seq + 1, window=0))
    conversation.change(last_probe_ns=0)
    assert conversation.sent(bytes(101)).seq == first.seq + 1


def test_an_answered_probe_opens_the_window_again(plane: Plane) -> None:
    conversation = established(plane)
    conversation.change(peer_window=0, last_probe_ns=0)
    probe = conversation.sent(b"does not fit")
    conversation.receive(conversation.segment(ACK, ack=probe.seq + 1, window=FULL_FIELD))
    data = conversation.sent(b"fits")
    assert (data.flags, data.seq) == (ACK | PSH, probe.seq + 1)


def test_a_burst_after_the_handshake_never_leaves_the_window(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.open()
    conversation.answer(conversation.syn_ack())
    first_seq = conversation.peer_ack
    conversation.drain()
    for _ in range(100):
        conversation.send(bytes(1400))
    counts = plane.counted()
    assert counts["tx-data"] == 1 + (65535 - 31) // 1400
    assert counts["drop-window"] == 100 - (65535 - 31) // 1400
    # probes are the one thing that is not deducted
    assert (conversation.entry.seq - first_seq) % 2**32 <= 65535 + counts["tx-probe"]
