# SPDX-License-Identifier: GPL-2.0-only
"""Retries, cooldown, keepalive and stale in real time: what a capture shows of short settings.

One scene of 42 s serves all tests. Each flow has a port of its own at B, where a scripted peer is
silent, falls silent, or answers; a program at A says what the flow needs to be told.

A timer may be late on a busy machine, but never early. What follows one another is two seconds
apart here, so that being late does not change what comes next.
"""

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest

from tests.netns.talk import say
from tests.rig.analysis import ACK, RST, SYN, Packet
from tests.rig.capture import Capture
from tests.rig.daemon import Daemon
from tests.rig.namespace import wait_until
from tests.rig.network import Network, direct
from tests.rig.peer import Peer, State
from tests.rig.segment import encode_syn_options, sequence_after
from tests.rig.traffic import Endpoint, endpoint

pytestmark = pytest.mark.slow

SCENE_S = 42.0
TICK_S = 0.05
EARLY_S = 0.02
"""By so much the clocks of capture and kernel may differ."""
LATE_S = 1.9

Script = Generator[None, None, None]
"""What happens on one flow; it goes on once in every tick."""


@dataclass(frozen=True)
class Talk:
    """The program at A and the peer that plays B."""

    program: Endpoint
    peer: Peer

    def count(self, flags: int) -> int:
        """How many segments with just these flags have come to the peer."""
        with self.peer.changed:
            return sum(segment.flags == flags for segment in self.peer.received)

    def open(self) -> Script:
        say(self.program, b"opens")
        while not self.peer.tcp.delivered:
            yield


def never_answered(talk: Talk) -> Script:
    talk.peer.deafen()
    say(talk.program, b"once")
    yield


def never_answered_though_asked_all_the_time(talk: Talk) -> Script:
    talk.peer.deafen()
    while True:
        say(talk.program, b"again")
        yield


def answered_after_the_first_cooldown_then_reset(talk: Talk) -> Script:
    talk.peer.deafen()
    while talk.peer.state is not State.ESTABLISHED:
        if talk.count(RST):
            talk.peer.deafen(False)
        say(talk.program, b"again")
        yield
    talk.peer.reset()
    talk.peer.deafen()
    yield from never_answered_though_asked_all_the_time(talk)


def opened_by_a_peer_that_falls_silent(talk: Talk) -> Script:
    talk.peer.deafen()
    talk.peer.send_segment(SYN, 1000, window=0xFFFF, options=encode_syn_options(1460, 12))
    while not talk.count(SYN | ACK):
        yield
    say(talk.program, b"held")
    while not talk.count(RST) + talk.count(RST | ACK):
        yield
    say(talk.program, b"opens")


def opened_by_the_peer_in_the_middle(talk: Talk) -> Script:
    middle_s = time.monotonic() + SCENE_S / 2
    while time.monotonic() < middle_s:
        say(talk.program, b"too early")
        yield
    talk.peer.connect(b"hello")
    while talk.peer.state is not State.ESTABLISHED:
        yield
    say(talk.program, b"in time")


def answered(talk: Talk) -> Script:
    yield from talk.open()


def falls_silent(talk: Talk) -> Script:
    yield from talk.open()
    talk.peer.deafen()


def says_nothing_of_its_own(talk: Talk) -> Script:
    yield from talk.open()
    while not talk.count(RST | ACK):
        yield
    say(talk.program, b"opens again")


def says_something_now_and_then(talk: Talk) -> Script:
    yield from talk.open()
    while True:
        again_s = time.monotonic() + 3
        while time.monotonic() < again_s:
            yield
        talk.peer.send(b"now and then")


SCRIPTS: dict[str, tuple[str, Callable[[Talk], Script]]] = {
    "no answer": ("handshake=2:2", never_answered),
    "cooldown": ("handshake=1:0", never_answered_though_asked_all_the_time),
    "cleared": ("handshake=1:0", answered_after_the_first_cooldown_then_reset),
    "half open": ("handshake=2:1", opened_by_a_peer_that_falls_silent),
    "passive": ("handshake=0:3", opened_by_the_peer_in_the_middle),
    "alive": ("keepalive=2:2:3:0", answered),
    "dead": ("keepalive=2:2:3:0", falls_silent),
    "no interval": ("keepalive=3:0:3:0", falls_silent),
    "no retry": ("keepalive=2:3:0:0", falls_silent),
    "off": ("keepalive=0:1:1:0", falls_silent),
    "stale": ("keepalive=2:2:3:7", says_nothing_of_its_own),
    "not stale": ("keepalive=2:2:3:7", says_something_now_and_then),
}


@dataclass(frozen=True)
class Scene:
    """What was captured, by flow; and what the daemon showed in the end."""

    both: dict[str, list[Packet]]
    ours: dict[str, list[Packet]]
    shown: dict[str, str]
    """State in words; a flow without an entry is not there."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    path = tmp_path_factory.mktemp("timers") / "wire.pcap"
    with direct() as net, Daemon(net.a) as daemon, ExitStack() as stack:
        ports = {name: 7000 + number for number, name in enumerate(SCRIPTS)}
        ends = {name: f"{net.b.address()}:{port}" for name, port in ports.items()}
        filters = [f"remote={ends[name]},{SCRIPTS[name][0]}" for name in SCRIPTS]
        options = [word for text in filters for word in ("-f", text)]
        daemon.ctl("run", "--detach", *options, net.a.interface, check=True)
        talks = {name: stack.enter_context(talk(net, ports[name])) for name in SCRIPTS}
        with Capture(net.b.namespace, net.b.interface, path, "tcp or udp") as capture:
            play([SCRIPTS[name][1](talks[name]) for name in SCRIPTS])
        listed = json.loads(daemon.ctl("show", "--json", check=True).stdout)["connections"]
        states = {one["remote"]: one["state"] for one in listed}
        packets = capture.analysis().packets
        both = {name: [p for p in packets if ends[name] in (p.source, p.target)] for name in ends}
        yield Scene(
            both=both,
            ours={name: [p for p in both[name] if p.target == ends[name]] for name in ends},
            shown={name: states[end] for name, end in ends.items() if end in states},
        )


@contextmanager
def talk(net: Network, port: int) -> Iterator[Talk]:
    with endpoint(net.a) as program:
        program.socket.connect((net.b.address(), port))
        with Peer(net.b, port, (net.a.address(), program.port)) as peer:
            yield Talk(program, peer)


def play(scripts: list[Script]) -> None:
    """Let all of them go on, tick by tick, until the scene is over."""
    end_s = time.monotonic() + SCENE_S

    def tick() -> bool:
        for script in scripts:
            next(script, None)
        return time.monotonic() > end_s

    wait_until(tick, SCENE_S + 60, "the end of the scene", every_s=TICK_S)


# --- what a segment is ---


def is_syn(packet: Packet) -> bool:
    return packet.flags == SYN


def is_reset(packet: Packet) -> bool:
    return bool(packet.flags & RST)


def is_keepalive(packet: Packet) -> bool:
    return packet.flags == ACK and packet.length_bytes == 0 and "keep_alive" in packet.judgements


def is_probe(packet: Packet) -> bool:
    return packet.flags == ACK and packet.length_bytes == 1


def assert_gaps(packets: list[Packet], *wanted_s: float) -> None:
    """So many seconds lie between neighbours: never less, and a little more at most."""
    gaps_s = [later.time_s - earlier.time_s for earlier, later in pairwise(packets)]
    assert len(gaps_s) == len(wanted_s), [str(packet) for packet in packets]
    for gap_s, least_s in zip(gaps_s, wanted_s, strict=True):
        assert least_s - EARLY_S <= gap_s <= least_s + LATE_S, [str(packet) for packet in packets]


def after_the_peer_fell_silent(scene: Scene, name: str) -> list[Packet]:
    """The last segment of the peer, and what ours sent more than a second later."""
    ours, both = scene.ours[name], scene.both[name]
    last = [packet for packet in both if packet not in ours][-1]
    return [last, *(packet for packet in ours if packet.time_s > last.time_s + 1)]


# --- handshake and cooldown ---


def test_a_syn_is_repeated_at_the_interval_then_reset(scene: Scene) -> None:
    syns, last = scene.ours["no answer"][:-1], scene.ours["no answer"][-1]
    assert [is_syn(packet) for packet in syns] == [True, True, True]
    assert len({packet.seq for packet in syns}) == 1
    assert is_reset(last)
    assert last.seq == (syns[0].seq + 1) % 2**32
    assert_gaps([*syns, last], 2, 2, 2)


def test_the_cooldown_doubles_with_each_attempt_that_fails(scene: Scene) -> None:
    packets = scene.ours["cooldown"]
    assert [is_syn(packet) for packet in packets] == [True, False] * 4
    assert all(is_reset(packet) for packet in packets[1::2])
    assert_gaps(packets, 1, 5, 1, 10, 1, 20, 1)
    for earlier, later in pairwise(packets[::2]):
        # On the same ports a new ISN lies above the last number used.
        assert sequence_after(later.seq, earlier.seq) > 1


def test_the_cooldown_begins_anew_after_a_connection_was_established(scene: Scene) -> None:
    both = scene.both["cleared"]
    (reset_of_peer,) = (p for p in both if is_reset(p) and p not in scene.ours["cleared"])
    syns = [packet for packet in scene.ours["cleared"] if is_syn(packet)]
    before = [packet for packet in syns if packet.time_s < reset_of_peer.time_s]
    after = [packet for packet in syns if packet.time_s > reset_of_peer.time_s]
    assert len(before) == 2
    assert_gaps([reset_of_peer, after[0]], 5)


def test_a_handshake_that_the_peer_does_not_finish_is_reset_without_a_cooldown(
    scene: Scene,
) -> None:
    syn_ack, reset, *next_try = scene.ours["half open"]
    assert syn_ack.flags == SYN | ACK
    assert is_reset(reset)
    assert_gaps([syn_ack, reset], 4)
    assert_gaps([reset, next_try[0]], 0)
    assert is_syn(next_try[0])


def test_a_passive_end_waits_until_the_peer_connects(scene: Scene) -> None:
    first, *rest = scene.both["passive"]
    assert is_syn(first)
    assert first not in scene.ours["passive"]
    assert not any(is_syn(packet) or is_reset(packet) for packet in rest)
    assert [p.length_bytes for p in scene.ours["passive"] if "P" in p.flag_letters] == [7]


# --- keepalive and stale ---


def test_a_silent_connection_is_kept_alive_while_the_peer_answers(scene: Scene) -> None:
    both, ours = scene.both["alive"], scene.ours["alive"]
    at = [number for number, packet in enumerate(both) if is_keepalive(packet)]
    assert len(at) >= 8
    for number in at:
        # The last segment of the peer is what the time counts from.
        last_of_peer = [packet for packet in both[:number] if packet not in ours][-1]
        assert_gaps([last_of_peer, both[number]], 2)
    assert not any(is_reset(packet) for packet in both)
    assert scene.shown["alive"] == "established"


def test_a_peer_that_fell_silent_is_asked_in_two_ways_then_reset(scene: Scene) -> None:
    last, *attempts, reset = after_the_peer_fell_silent(scene, "dead")
    first, probe, third = attempts
    assert is_keepalive(first)
    assert is_probe(probe)
    assert sequence_after(probe.seq, first.seq) == 1
    assert third.length_bytes == 0
    assert third.seq == probe.seq
    assert is_reset(reset)
    assert reset.seq == (probe.seq + 1) % 2**32
    assert_gaps([last, first, probe, third, reset], 2, 2, 2, 2)


def test_keepalive_without_an_interval_resets_at_once(scene: Scene) -> None:
    last, reset = after_the_peer_fell_silent(scene, "no interval")
    assert is_reset(reset)
    assert_gaps([last, reset], 3)


def test_keepalive_without_retries_is_one_attempt(scene: Scene) -> None:
    last, attempt, reset = after_the_peer_fell_silent(scene, "no retry")
    assert is_keepalive(attempt)
    assert is_reset(reset)
    assert_gaps([last, attempt, reset], 2, 3)


def test_keepalive_that_is_off_never_asks(scene: Scene) -> None:
    assert len(after_the_peer_fell_silent(scene, "off")) == 1
    assert scene.shown["off"] == "established"


def test_a_connection_without_data_is_reset_as_stale_and_opens_again_at_once(
    scene: Scene,
) -> None:
    """Keepalives and their answers do not count as life."""
    ours = scene.ours["stale"]
    at = next(number for number, packet in enumerate(ours) if is_reset(packet))
    early = [packet for packet in ours[:at] if not is_keepalive(packet)]
    assert sum(is_keepalive(packet) for packet in ours[:at]) >= 2
    assert_gaps([early[-1], ours[at]], 7)
    assert is_syn(ours[at + 1])
    assert_gaps(ours[at : at + 2], 0)


def test_a_connection_with_data_now_and_then_is_not_stale(scene: Scene) -> None:
    both = scene.both["not stale"]
    assert sum("P" in packet.flag_letters for packet in both) > 8
    assert not any(is_reset(packet) for packet in both)
    assert scene.shown["not stale"] == "established"


def test_what_ended_is_forgotten_after_twice_the_cooldown(scene: Scene) -> None:
    assert not {"no answer", "dead", "no interval", "no retry"} & set(scene.shown)
    assert scene.shown["cooldown"] in ("idle", "syn-sent")
