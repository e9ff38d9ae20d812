# SPDX-License-Identifier: GPL-2.0-only
"""What a deployed mimic does that is not in the protocol, and how it is met: one note each."""

import random
from contextlib import ExitStack
from dataclasses import replace
from itertools import count

import pytest

from tests.netns.scripted import (
    EACH_QUIRK,
    EACH_WAY,
    FAMILIES,
    IDLE_PORT,
    OUR_PORTS,
    QUIRKS,
    RECOVERY_S,
    Scene,
    chat,
    come,
    filters_of,
    fresh_port,
    is_attempt,
    is_bare_ack,
    is_probe,
    open_by,
    resets,
    shared_endpoint,
)
from tests.netns.talk import heard, say, say_until
from tests.rig.daemon import Foreground
from tests.rig.endpoint import RawEndpoint
from tests.rig.namespace import wait_until
from tests.rig.network import Network
from tests.rig.peer import Quirks, State
from tests.rig.segment import (
    ACK,
    PSH,
    SEQUENCE_SPACE,
    SYN,
    encode_datagram,
    encode_syn_options,
    sequence_after,
)


@EACH_WAY
def test_data_that_overtakes_the_ack_is_delivered_and_the_late_ack_moves_nothing(
    scene: Scene, family: int, padding: int
) -> None:
    with scene.talk(family, padding, Quirks(data_overtakes_ack=True)) as (program, peer):
        peer.connect(b"ahead")
        assert heard(program) == [b"ahead"]
        with peer.changed:
            syn, data, *after = peer.sent
        assert syn.flags == SYN
        assert data.payload
        late = next(segment for segment in after if is_bare_ack(segment))
        assert late.seq == data.seq
        say(program, b"answer")
        assert peer.next_datagram() == b"answer"
        answer = peer.expect(lambda segment: segment.has(PSH))
        assert answer.ack == peer.tcp.seq


def test_a_bare_ack_goes_ahead_of_data_to_a_peer_that_discards_what_establishes(
    scene: Scene,
) -> None:
    with scene.talk(quirks=Quirks(discards_first_data=True)) as (program, peer):
        say(program, b"one", b"two")
        assert peer.next_datagrams(2) == [b"one", b"two"]
        syn, ack, data = peer.received[:3]
        assert syn.flags == SYN
        assert is_bare_ack(ack)
        assert data.has(PSH)


@FAMILIES
def test_a_syn_ack_that_is_repeated_with_the_next_number_is_taken(
    scene: Scene, family: int
) -> None:
    before = scene.invalid()
    with scene.talk(family, quirks=Quirks(growing_syn_ack=True)) as (program, peer):
        lost = scene.net.router.firewall.drop_nth(
            "b", [0], f"tcp flags & (syn | ack) == (syn | ack) tcp sport {peer.local.port}"
        )
        try:
            say(program, b"opens")
            assert peer.next_datagram(20) == b"opens"
        finally:
            assert lost.dropped == 1
            lost.remove()
        first, second = (s for s in peer.sent if s.has(SYN | ACK))
        assert second.seq == first.seq + 1
        chat(program, peer)
    assert scene.invalid() == before


def test_of_two_syn_acks_with_growing_numbers_the_later_counts(direct_network: Network) -> None:
    """Without a firewall: conntrack goes by the first of the two, so that nothing could pass."""
    a, b = direct_network.a, direct_network.b
    our_port, their_port = OUR_PORTS[0], fresh_port()
    options = encode_syn_options(1460, 12)
    with (
        Foreground(a, "run", *filters_of(a), a.interface) as ours,
        RawEndpoint(b, their_port, (a.address(), our_port)) as peer,
        shared_endpoint(a, 4, our_port, (b, their_port)) as program,
    ):
        ours.await_words("attached")
        say(program, b"opens")
        syn = peer.expect(lambda segment: segment.flags == SYN)
        isn = 1 << 31
        for seq in (isn, isn + 1):
            peer.send_segment(SYN | ACK, seq, syn.seq + 1, 0xFFFF, options=options)
        peer.expect(lambda s: is_bare_ack(s) and s.ack == isn + 2, what="ACK of the later one")
        counted_on = encode_datagram(b"counted from the later one", 0, isn + 2, syn.seq + 1)
        peer.send_segment(ACK, isn + 2, syn.seq + 1, 0x3400, counted_on)
        assert heard(program) == [b"counted from the later one"]
        say(program, b"answer")
        answer = peer.expect(lambda s: s.has(PSH) and s.seq != syn.seq + 1)
        assert answer.ack == isn + 2 + len(counted_on)


@pytest.mark.parametrize("passes", [True, False], ids=["that passes", "that the firewall drops"])
def test_a_reset_with_seq_zero_is_believed_and_one_that_is_lost_is_got_over(
    scene: Scene, passes: bool
) -> None:
    """conntrack calls a RST invalid that lies outside the window: most of those with seq 0."""
    before = scene.invalid()
    seed = seed_of_isn(just_below_zero=passes)
    with scene.talk(quirks=Quirks(reset_with_seq_zero=True), seed=seed) as (program, peer):
        open_by("ours", program, peer)
        peer.skip()
        peer.reset()
        assert peer.sent[-1].seq == 0
        if passes:
            scene.ours_says("lower", f"{peer.local} :: the peer reset it")
        say_until(program, b"again", come(peer, b"again"), RECOVERY_S, "it is back")
        next_of_ours = peer.expect(lambda segment: segment.has(SYN) or segment.has(PSH))
        assert next_of_ours.has(SYN) == passes
    from_a, from_b = scene.invalid()
    assert (from_a - before[0], from_b - before[1]) == (0, 0 if passes else 1)


def seed_of_isn(just_below_zero: bool) -> int:
    """A seed with which the peer's ISN lies less than half a window below 2^32, or far from it."""
    isns = ((seed, random.Random(seed).getrandbits(32)) for seed in count())
    wanted = range(-1 << 24, -1 << 16) if just_below_zero else range(1 << 30, 1 << 31)
    return next(seed for seed, isn in isns if isn in wanted or isn - SEQUENCE_SPACE in wanted)


def test_a_keepalive_that_is_taken_for_a_window_update_does_not_end_the_connection(
    scene: Scene,
) -> None:
    """So says a peer that missed our last data, each kind of them; it does answer a probe."""
    before = scene.invalid()
    with ExitStack() as stack:
        talks = {
            name: stack.enter_context(scene.talk(quirks=QUIRKS[name], our_port=IDLE_PORT))
            for name in ("plain", "mimic", "keepalive_is_window_update")
        }
        for program, peer in talks.values():
            say(program, b"first")
            assert peer.next_datagram() == b"first"
        ours = f"tcp sport {IDLE_PORT} tcp flags & psh == psh"
        lost = scene.net.router.firewall.drop_all("a", ours)
        try:
            for program, _ in talks.values():
                say(program, b"lost")
            wait_until(lambda: lost.dropped == len(talks), 5, "the last datagrams are lost")
        finally:
            lost.remove()
        for _, peer in talks.values():
            peer.skip()
        for name, (program, peer) in talks.items():
            # The fourth attempt in a row would be a RST: one of the earlier ones was answered.
            for is_next in (is_bare_ack, is_probe, is_attempt, is_attempt, is_attempt):
                peer.expect(is_next, 20, f"{name}: {is_next.__name__}")
            assert resets(peer.received) == []
            say(program, b"still there")
            assert peer.next_datagram() == b"still there"
    assert scene.invalid() == before


def test_data_without_push_is_told_from_probes_and_window_updates(scene: Scene) -> None:
    with scene.talk(quirks=Quirks(no_push=True)) as (program, peer):
        peer.connect(b"opens")
        assert heard(program) == [b"opens"]
        peer.send(b"", b"1", b"22")
        peer.probe()
        peer.send(b"333")
        assert heard(program, 4) == [b"", b"1", b"22", b"333"]
        pushed = [len(s.payload) for s in peer.sent if s.has(PSH)]
        assert pushed == [0, 1]


def test_a_starved_window_is_not_overrun(scene: Scene) -> None:
    before = scene.invalid()
    with scene.talk(quirks=Quirks(starved_window=True)) as (program, peer):
        # 42 of these fit into 61,440 bytes, which is all that it says before it has data.
        first = [bytes([number]) * 1400 for number in range(42)]
        say(program, *first)
        assert peer.next_datagrams(len(first)) == first
        for round_number in range(10):
            more = [bytes([round_number]) * 1400] * 60
            say(program, *more)
            assert peer.next_datagrams(len(more)) == more
    assert scene.invalid() == before


@EACH_QUIRK
def test_a_peer_that_answers_a_syn_by_reset_is_asked_again_at_once(
    scene: Scene, quirks: Quirks
) -> None:
    """It believes in a connection that ours has lost."""
    with scene.talk(quirks=replace(quirks, resets_unexpected=True, reset_with_seq_zero=True)) as (
        program,
        peer,
    ):
        with peer.changed:
            peer.tcp.state = State.ESTABLISHED
        say(program, b"first")
        assert peer.next_datagram() == b"first"
        syns = [segment for segment in peer.received if segment.flags == SYN]
        assert len(syns) == 2
        assert 0 < sequence_after(syns[1].seq, syns[0].seq) < 1 << 30
        chat(program, peer)
