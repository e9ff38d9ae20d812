# SPDX-License-Identifier: GPL-2.0-only
"""A peer that errs as a deployed mimic does is talked to all the same, whoever opened.

The data path runs at both hosts, A with the lower address and B with the higher one; the scripted
peer stands at the other host. Between them is a router whose firewall drops what conntrack calls
invalid, so a flow that it cannot follow carries nothing.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from itertools import count

import pytest

from tests.netns.talk import heard, say, say_until
from tests.rig.daemon import Foreground
from tests.rig.endpoint import RawEndpoint
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network, routed
from tests.rig.peer import MIMIC, PLAIN, RANDOM_PADDING, Peer, Quirks, State
from tests.rig.segment import (
    ACK,
    PSH,
    RST,
    SYN,
    Segment,
    encode_datagram,
    encode_syn_options,
    sequence_after,
)
from tests.rig.traffic import Endpoint, open_udp

QUIRKS = {
    "plain": PLAIN,
    **{field.name: Quirks(**{field.name: True}) for field in fields(Quirks)},
    "mimic": MIMIC,
}
EACH_QUIRK = pytest.mark.parametrize("quirks", QUIRKS.values(), ids=QUIRKS)

PADDINGS = {0: "0", 7: "7", RANDOM_PADDING: "random"}
OUR_PORTS = {0: 5000, 7: 5007, RANDOM_PADDING: 5011}
IDLE_PORT = 5020
SETTINGS = "handshake=1:3"
IDLE_SETTINGS = "handshake=1:3,keepalive=1:1:3:0"

WAYS = [(4, 0), (4, 7), (4, RANDOM_PADDING), (6, RANDOM_PADDING)]
EACH_WAY = pytest.mark.parametrize(
    ("family", "padding"), WAYS, ids=[f"IPv{f} padding {PADDINGS[p]}" for f, p in WAYS]
)
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
SIDES = pytest.mark.parametrize("side", ["lower", "higher"])

SIZES = (*range(40), 500, 1400)
CHATTER = [bytes([(size * 7) % 251]) * size for size in SIZES]
RECOVERY_S = 40.0
"""A cooldown is 5 s, or 10 s after the second one; a firewall forgets a closed connection in 10."""


@dataclass(frozen=True)
class Scene:
    net: Network

    def ours(self, side: str) -> Host:
        return self.net.a if side == "lower" else self.net.b

    @contextmanager
    def talk(
        self,
        family: int = 4,
        padding: int = 0,
        quirks: Quirks = PLAIN,
        side: str = "lower",
        our_port: int = 0,
        seed: int | None = None,
    ) -> Iterator[tuple[Endpoint, Peer]]:
        """A program at ours and a peer at the other host, on a port that nobody has used yet."""
        host = self.ours(side)
        their_port = next(_ports)
        our_port = our_port or OUR_PORTS[padding]
        with (
            shared_endpoint(host, family, our_port, (self.net.other(host), their_port)) as program,
            Peer(
                self.net.other(host),
                their_port,
                (host.address(family), our_port),
                padding=padding,
                quirks=quirks,
                seed=seed,
            ) as peer,
        ):
            yield program, peer

    def invalid(self) -> tuple[int, int]:
        """Packets that the firewall called invalid: from A, from B."""
        firewall = self.net.router.firewall
        return firewall.invalid_from("a"), firewall.invalid_from("b")


_ports = count(20000)


@contextmanager
def shared_endpoint(
    host: Host, family: int, port: int, other: tuple[Host, int]
) -> Iterator[Endpoint]:
    """A connected socket on a port that other connected sockets use too."""
    with open_udp(host.namespace, family) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.bind((host.address(family), port))
        udp.connect((other[0].address(family), other[1]))
        yield Endpoint(host, family, udp)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with routed() as net, ExitStack() as stack:
        programs = [
            stack.enter_context(Foreground(host, "run", *filters_of(host), host.interface))
            for host in (net.a, net.b)
        ]
        for program in programs:
            program.await_words("attached")
        yield Scene(net)


def filters_of(host: Host) -> list[str]:
    ends = []
    for address in (host.address(4), f"[{host.address(6)}]"):
        for padding, port in OUR_PORTS.items():
            ends.append(f"{address}:{port},padding={PADDINGS[padding]},{SETTINGS}")
        ends.append(f"{address}:{IDLE_PORT},{IDLE_SETTINGS}")
    return [word for end in ends for word in ("-f", f"local={end}")]


def chat(program: Endpoint, peer: Peer) -> None:
    """Every datagram arrives, both ways, in order, byte for byte."""
    say(program, *CHATTER)
    assert peer.next_datagrams(len(CHATTER)) == CHATTER
    peer.send(*CHATTER)
    assert heard(program, len(CHATTER)) == CHATTER
    assert peer.wrong_checksums() == []


def open_by(opener: str, program: Endpoint, peer: Peer) -> None:
    if opener == "ours":
        say(program, b"first")
        assert peer.next_datagram() == b"first"
    else:
        peer.connect(b"first")
        assert heard(program) == [b"first"]


def come(peer: Peer, datagram: bytes) -> Callable[[], bool]:
    return lambda: datagram in peer.tcp.delivered


def resets(segments: list[Segment]) -> list[Segment]:
    return [segment for segment in segments if segment.has(RST)]


def is_bare_ack(segment: Segment) -> bool:
    return segment.flags == ACK and not segment.payload


def is_probe(segment: Segment) -> bool:
    return segment.flags == ACK and segment.payload == b"\0"


def is_attempt(segment: Segment) -> bool:
    return is_bare_ack(segment) or is_probe(segment)


# --- every error by itself, and all together ---


@EACH_WAY
@EACH_QUIRK
def test_what_ours_opens_carries_data_both_ways(
    scene: Scene, quirks: Quirks, family: int, padding: int
) -> None:
    before = scene.invalid()
    with scene.talk(family, padding, quirks) as (program, peer):
        say(program, b"opens")
        assert peer.next_datagram() == b"opens"
        chat(program, peer)
        assert resets(peer.received) == []
    assert scene.invalid() == before


@EACH_WAY
@EACH_QUIRK
def test_what_the_peer_opens_carries_data_both_ways(
    scene: Scene, quirks: Quirks, family: int, padding: int
) -> None:
    before = scene.invalid()
    with scene.talk(family, padding, quirks) as (program, peer):
        peer.connect(b"opens")
        assert heard(program) == [b"opens"]
        chat(program, peer)
        assert resets(peer.received) == []
    assert scene.invalid() == before


@FAMILIES
@pytest.mark.parametrize("leave", [Peer.reset, Peer.forget], ids=["a reset", "a silent restart"])
def test_after_the_peer_has_left_the_next_datagrams_open_it_again(
    scene: Scene, leave: Callable[[Peer], None], family: int
) -> None:
    with ExitStack() as stack:
        talks = {
            f"{name}, opened by {opener}": stack.enter_context(scene.talk(family, quirks=quirks))
            for name, quirks in QUIRKS.items()
            for opener in ("ours", "the peer")
        }
        for name, (program, peer) in talks.items():
            open_by(name.split()[-1], program, peer)
        from_ours = scene.invalid()[0]
        for _, peer in talks.values():
            peer.skip()
            leave(peer)
        for name, (program, peer) in talks.items():
            say_until(program, b"again", come(peer, b"again"), RECOVERY_S, f"{name}: it is back")
            peer.expect(lambda segment: segment.flags == SYN, what=f"{name}: a handshake of ours")
            peer.send(b"answer")
            assert heard(program) == [b"answer"], name
        assert scene.invalid()[0] == from_ours


@EACH_QUIRK
def test_a_peer_that_opened_restarted_and_opens_again_is_let_in_at_once(
    scene: Scene, quirks: Quirks
) -> None:
    before = scene.invalid()
    with scene.talk(quirks=quirks) as (program, peer):
        open_by("peer", program, peer)
        peer.forget()
        peer.skip()
        peer.connect(b"anew")
        assert heard(program) == [b"anew"]
        assert peer.expect(lambda segment: segment.has(SYN)).flags == SYN | ACK
        chat(program, peer)
        assert resets(peer.received) == []
    assert scene.invalid() == before


# --- one note of the protocol each ---


@EACH_WAY
def test_data_that_overtakes_the_ack_is_delivered_and_the_late_ack_moves_nothing(
    scene: Scene, family: int, padding: int
) -> None:
    with scene.talk(family, padding, Quirks(data_overtakes_ack=True)) as (program, peer):
        peer.connect(b"ahead")
        assert heard(program) == [b"ahead"]
        syn, data, late = peer.sent[:3]
        assert syn.flags == SYN
        assert data.payload
        assert is_bare_ack(late)
        assert late.seq != peer.tcp.seq
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


def test_of_two_syn_acks_with_growing_numbers_the_later_counts(scene: Scene) -> None:
    our_port, their_port = OUR_PORTS[0], next(_ports)
    a, b = scene.net.a, scene.net.b
    options = encode_syn_options(1460, 12)
    before = scene.invalid()
    with (
        RawEndpoint(b, their_port, (a.address(), our_port)) as peer,
        shared_endpoint(a, 4, our_port, (b, their_port)) as program,
    ):
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
    assert scene.invalid() == before


@pytest.mark.parametrize(
    ("isn", "passes"), [(0x90000000, True), (0x10000000, False)], ids=["passes", "is filtered"]
)
def test_a_reset_with_seq_zero_ends_the_connection_where_the_firewall_lets_it_through(
    scene: Scene, isn: int, passes: bool
) -> None:
    """conntrack calls a RST invalid that lies before what was acknowledged."""
    before = scene.invalid()
    with scene.talk(quirks=Quirks(reset_with_seq_zero=True)) as (program, peer):
        peer.connect(b"first", isn=isn)
        assert heard(program) == [b"first"]
        peer.skip()
        peer.reset()
        assert peer.sent[-1].seq == 0
        say_until(program, b"again", come(peer, b"again"), RECOVERY_S, "it is back")
        answer_to_the_next = peer.expect(lambda segment: segment.has(SYN) or segment.has(PSH))
        assert answer_to_the_next.has(SYN) == passes
    from_a, from_b = scene.invalid()
    assert (from_a - before[0], from_b - before[1]) == (0, 0 if passes else 1)


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


# --- SYNs that cross ---


@contextmanager
def crossing(peer: Peer) -> Iterator[None]:
    """The peer's SYN leaves before it looks at what came: say what ours is to send inside."""
    with peer.changed:
        yield
        peer.connect(b"from the peer")


def await_syns(peer: Peer, program: Endpoint) -> None:
    peer.expect(lambda segment: segment.flags == SYN, what="our SYN")
    assert heard(program) == [b"from the peer"]


@FAMILIES
@SIDES
@pytest.mark.parametrize("quirks", [PLAIN, Quirks(ack_to_crossing_syn=True)], ids=["plain", "ack"])
def test_crossing_syns_make_one_connection(
    scene: Scene, quirks: Quirks, side: str, family: int
) -> None:
    before = scene.invalid()
    with scene.talk(family, quirks=quirks, side=side) as (program, peer):
        with crossing(peer):
            say(program, b"from ours")
        await_syns(peer, program)
        assert peer.next_datagram() == b"from ours"
        chat(program, peer)
        assert resets(peer.received) == []
    assert scene.invalid() == before


@FAMILIES
@SIDES
def test_crossing_syns_with_a_mimic_end_in_a_connection(
    scene: Scene, side: str, family: int
) -> None:
    """To the higher end it is one round trip more; the lower one meets a RST and tries again."""
    before = scene.invalid()
    with scene.talk(family, quirks=MIMIC, side=side) as (program, peer):
        with crossing(peer):
            say(program, b"from ours")
        if side == "higher":
            await_syns(peer, program)
            assert peer.next_datagram() == b"from ours"
            assert scene.invalid() == before
        else:
            peer.expect(lambda segment: segment.flags == SYN | ACK, what="our SYN+ACK")
            peer.await_state(State.IDLE)
            say_until(program, b"again", come(peer, b"again"), RECOVERY_S, "it is back")
            peer.send(b"answer")
            assert heard(program) == [b"answer"]
            assert scene.invalid()[0] == before[0]
