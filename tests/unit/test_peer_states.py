# SPDX-License-Identifier: GPL-2.0-only
"""The scripted peer's connection: what it does with no quirk, and what each quirk changes."""

import random
from dataclasses import replace

from tests.rig.fake_tcp import FULL_WINDOW_BYTES, MIMIC, PLAIN, FakeTcp, Quirks, State
from tests.rig.segment import ACK, FIN, PSH, RST, SYN, Segment, end

LOW, HIGH = end("192.0.2.1", 1000), end("192.0.2.2", 1000)
SYN_ACK = SYN | ACK


def pair(low: Quirks = PLAIN, high: Quirks = PLAIN, padding: int = 0) -> tuple[FakeTcp, FakeTcp]:
    return (
        FakeTcp(LOW, HIGH, padding=padding, quirks=low, chance=random.Random(1)),
        FakeTcp(HIGH, LOW, padding=padding, quirks=high, chance=random.Random(2)),
    )


def carry(segments: list[Segment], source: FakeTcp, target: FakeTcp, now_s: float = 0.0) -> int:
    """Pass segments on, and the answers back and forth, until both are silent; how many."""
    count = 0
    while segments:
        count += len(segments)
        assert count < 1000, "they talk without end"
        answers = [out for segment in segments for out in target.receive(segment, now_s)]
        segments, source, target = answers, target, source
    return count


def established(
    low: Quirks = PLAIN, high: Quirks = PLAIN, padding: int = 0, isn: int | None = None
) -> tuple[FakeTcp, FakeTcp]:
    """A pair connected by the lower end."""
    a, b = pair(low, high, padding)
    carry(a.connect(isn=isn), a, b)
    assert (a.state, b.state) == (State.ESTABLISHED, State.ESTABLISHED)
    return a, b


def test_the_handshake_is_syn_synack_ack_and_a_window_from_the_responder() -> None:
    a, b = pair()
    (syn,) = a.connect(isn=0xFFFFFFFF)
    (syn_ack,) = b.receive(syn, 0)
    (ack,) = a.receive(syn_ack, 0)
    (update,) = b.receive(ack, 0)
    assert (syn.flags, syn.seq, syn.window, len(syn.options)) == (SYN, 0xFFFFFFFF, 0xFFFF, 12)
    assert (syn_ack.flags, syn_ack.ack, syn_ack.window) == (SYN_ACK, 0, 0xFFFF)
    assert (ack.flags, ack.seq, ack.ack, ack.window) == (ACK, 0, syn_ack.seq + 1, 0x3400)
    assert (update.flags, update.seq, update.ack, update.window) == (ACK, ack.ack, 0, 0x3400)
    assert a.receive(update, 0) == []
    assert (a.state, b.state) == (State.ESTABLISHED, State.ESTABLISHED)


def test_datagrams_cross_the_wrap_of_the_sequence_numbers_in_both_directions() -> None:
    a, b = established(padding=5, isn=0xFFFFFFF0)
    sent = [bytes([i]) * i for i in range(60)]
    for datagram in sent:
        carry(a.send(datagram, 0), a, b)
        carry(b.send(datagram, 0), b, a)
    assert b.delivered == sent
    assert a.delivered == sent
    assert a.seq < 0xFFFFFFF0


def test_data_segments_have_push_and_control_segments_have_none() -> None:
    a, b = established()
    (data,) = [s for s in b.send(b"data", 0) if s.payload == b"data"]
    assert data.flags == ACK | PSH
    assert a.probe(0).flags == ACK
    assert a.keepalive().flags == ACK


def test_a_window_probe_consumes_a_number_and_is_answered() -> None:
    a, b = established()
    before = a.seq
    probe = a.probe(0)
    (answer,) = b.receive(probe, 0)
    assert (probe.payload, probe.seq, a.seq) == (b"\0", before, before + 1)
    assert (answer.flags, answer.ack, answer.payload) == (ACK, before + 1, b"")
    assert b.delivered == []


def test_a_keepalive_is_one_number_back_and_is_answered() -> None:
    a, b = established()
    (answer,) = b.receive(a.keepalive(), 0)
    assert (answer.flags, answer.seq, answer.ack) == (ACK, b.seq, a.seq)
    assert a.receive(answer, 0) == []


def test_the_first_data_of_an_initiator_goes_with_a_probe() -> None:
    a, b = pair()
    (syn,) = a.connect((b"data",))
    out = a.receive(b.receive(syn, 0)[0], 0)
    assert [(s.flags, len(s.payload)) for s in out] == [(ACK, 0), (ACK | PSH, 4), (ACK, 1)]


def test_a_datagram_larger_than_the_peers_window_is_dropped_and_probed_for() -> None:
    a, _b = established()
    a.peer_window = 100
    (probe,) = a.send(bytes(101), 0)
    assert (probe.payload, a.window_drops) == (b"\0", 1)
    assert a.send(bytes(101), 0.005) == []
    (again,) = a.send(bytes(101), 0.011)
    assert (again.seq, again.payload) == (probe.seq, b"\0")


def test_a_one_way_stream_restores_the_window_before_it_is_used_up() -> None:
    a, b = established()
    updates = 0
    for _ in range(2 * FULL_WINDOW_BYTES // 60_000):
        updates += carry(a.send(bytes(60_000), 0), a, b) - 1
    assert a.window_drops == 0
    assert 1 <= updates <= 10


def test_crossing_syns_establish_with_one_synack_from_the_lower_end() -> None:
    a, b = pair()
    (from_a,), (from_b,) = a.connect(), b.connect()
    (syn_ack,) = a.receive(from_b, 0)
    assert b.receive(from_a, 0) == []
    carry([syn_ack], a, b)
    assert (a.state, b.state) == (State.ESTABLISHED, State.ESTABLISHED)
    assert (a.seq, a.ack) == (b.ack, b.seq)


def test_as_mimic_both_ends_answer_a_crossing_syn_with_ack() -> None:
    a, b = pair(MIMIC, MIMIC)
    (from_a,), (from_b,) = a.connect(), b.connect()
    (ack_a,), (ack_b,) = a.receive(from_b, 0), b.receive(from_a, 0)
    assert (ack_a.flags, ack_b.flags) == (ACK, ACK)
    assert (a.receive(ack_b, 0), b.receive(ack_a, 0)) == ([], [])
    assert (a.state, b.state) == (State.ESTABLISHED, State.ESTABLISHED)


def test_as_mimic_it_resets_when_its_ack_to_a_crossing_syn_meets_a_synack() -> None:
    a, b = pair(PLAIN, MIMIC)
    (from_a,), (from_b,) = a.connect(), b.connect()
    (syn_ack,) = a.receive(from_b, 0)
    b.receive(from_a, 0)
    (reset,) = b.receive(syn_ack, 0)
    assert (syn_ack.flags, reset.flags, reset.seq) == (SYN_ACK, RST, 0)
    assert b.state is State.IDLE


def test_a_crossing_syn_answered_by_ack_establishes_the_end_that_waits() -> None:
    a, b = pair(MIMIC, PLAIN)
    (from_a,), (from_b,) = a.connect(), b.connect()
    (ack_a,) = a.receive(from_b, 0)
    assert b.receive(from_a, 0) == []
    carry([ack_a], a, b)
    assert (a.state, b.state) == (State.ESTABLISHED, State.ESTABLISHED)


def test_a_repeated_syn_gets_the_identical_answer_or_as_mimic_a_growing_one() -> None:
    for quirks, growth in ((PLAIN, 0), (MIMIC, 1)):
        a, b = pair(high=quirks)
        (syn,) = a.connect()
        answers = [b.receive(syn, 0)[0] for _ in range(3)]
        isn = answers[0].seq
        assert [answer.seq for answer in answers] == [isn, isn + growth, isn + 2 * growth]
        assert b.seq == isn + 2 * growth + 1
        carry([answers[-1]], b, a)
        assert (a.state, a.ack, b.state) == (State.ESTABLISHED, b.seq, State.ESTABLISHED)


def test_as_mimic_its_data_overtakes_the_ack_that_establishes() -> None:
    a, b = pair(MIMIC)
    (syn,) = a.connect((b"data",))
    out = a.receive(b.receive(syn, 0)[0], 0)
    assert [len(segment.payload) for segment in out] == [4, 1, 0]
    carry(out, a, b)
    assert b.delivered == [b"data"]


def test_as_mimic_it_throws_away_the_data_that_establishes_but_counts_it() -> None:
    for quirks, delivered in ((PLAIN, [b"first", b"second"]), (MIMIC, [b"second"])):
        a, b = pair(MIMIC, quirks)
        (syn,) = a.connect((b"first", b"second"))
        out = a.receive(b.receive(syn, 0)[0], 0)
        carry(out, a, b)
        assert b.delivered == delivered
        assert b.ack == a.seq


def test_as_mimic_data_has_no_push_from_2_bytes_on() -> None:
    a, _b = established(MIMIC)
    flags = [a.send(bytes(size), 0)[0].flags for size in (0, 1, 2, 1000)]
    assert flags == [ACK | PSH, ACK | PSH, ACK, ACK]


def test_as_mimic_a_responders_window_is_15_until_it_receives_data() -> None:
    a, b = established(high=MIMIC)
    before = b.send(b"x" * 10, 0)[0].window
    b.receive(a.probe(0), 0)
    probed = b.send(b"x" * 10, 0)[0].window
    (update,) = b.receive(a.send(b"data", 0)[0], 0)
    after = b.send(b"x" * 10, 0)[0].window
    assert (before, probed, update.window, after) == (15, 15, 0x33FF, 0x33FF)


def test_as_mimic_an_empty_datagram_that_looks_like_a_keepalive_is_swallowed() -> None:
    for quirks, delivered in ((PLAIN, [b""]), (replace(PLAIN, keepalive_before_push=True), [])):
        a, b = established(high=quirks)
        looks_alive = Segment(LOW, HIGH, ACK | PSH, a.seq - 1, a.ack, 0x3400)
        b.receive(looks_alive, 0)
        assert b.delivered == delivered


def test_a_keepalive_taken_for_a_window_update_gets_no_answer_but_a_probe_does() -> None:
    a, b = established(high=replace(MIMIC, keepalive_is_window_update=True))
    assert b.receive(a.keepalive(), 0) == []
    assert len(b.receive(a.probe(0), 0)) == 1


def test_after_lost_data_a_keepalive_looks_like_a_window_update_to_anyone() -> None:
    a, b = established()
    a.send(b"this one is lost", 0)
    assert b.receive(a.keepalive(), 0) == []


def test_as_mimic_its_reset_has_seq_0_and_otherwise_the_next_number() -> None:
    a, _b = established(MIMIC)
    plain, _ = established()
    expected = plain.seq
    assert a.reset().seq == 0
    assert plain.reset().seq == expected
    assert plain.state is State.IDLE


def test_unknown_segments_are_answered_by_reset_unless_told_otherwise() -> None:
    a, b = pair()
    stray = Segment(HIGH, LOW, ACK | PSH, 100, 200, 0x3400, b"data")
    (reset,) = a.receive(stray, 0)
    assert (reset.flags, reset.seq) == (RST, 200)
    assert a.receive(replace(stray, flags=RST), 0) == []
    assert a.receive(replace(stray, flags=FIN | ACK), 0) == []
    b.resets_unknown = False
    assert b.receive(stray, 0) == []


def test_a_restarted_peer_gets_in_at_once_or_as_mimic_after_a_reset() -> None:
    for quirks, first_answer in ((PLAIN, SYN_ACK), (MIMIC, RST)):
        a, b = established(high=quirks)
        a.forget()
        (answer,) = b.receive(a.connect(isn=5)[0], 0)
        assert answer.flags == first_answer
        carry([answer], b, a)
        assert (a.state, b.state) == (State.ESTABLISHED, State.ESTABLISHED)


def test_a_reset_while_connecting_is_retried_once_and_as_mimic_never() -> None:
    for quirks, retries in ((PLAIN, 1), (MIMIC, 0)):
        a, _b = pair(quirks)
        a.connect((b"data",))
        reset = Segment(HIGH, LOW, RST, 0, 0)
        assert [s.flags for s in a.receive(reset, 0)] == [SYN] * retries
        assert a.receive(reset, 0) == []
        assert a.state is State.IDLE


def test_a_fin_is_answered_by_reset() -> None:
    a, b = established()
    (reset,) = b.receive(Segment(LOW, HIGH, FIN | ACK, a.seq, a.ack, 0), 0)
    assert reset.flags == RST
    assert b.state is State.IDLE


def test_a_data_segment_shorter_than_the_padding_is_counted_not_delivered() -> None:
    a, b = established(padding=9)
    b.receive(Segment(LOW, HIGH, ACK | PSH, a.seq, a.ack, 0x3400, bytes(8)), 0)
    assert (b.malformed, b.delivered) == (1, [])


def test_with_max_window_the_field_is_always_full_and_the_scale_14() -> None:
    a = FakeTcp(LOW, HIGH, max_window=True)
    b = FakeTcp(HIGH, LOW)
    (syn,) = a.connect()
    assert syn.options[7] == 14
    carry([syn], a, b)
    assert a.send(b"data", 0)[0].window == 0xFFFF
    assert b.peer_window == 0xFFFF << 14
