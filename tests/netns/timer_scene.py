# SPDX-License-Identifier: GPL-2.0-only
"""A scene for timers in real time: many flows at once, each with settings and a script of its own.

Each flow has a port of its own at B, where a scripted peer is silent, falls silent, or answers; a
program at A says what the flow needs to be told. A capture is what is judged.

A timer may be late on a busy machine, but never early. What follows one another should be two
seconds apart, so that being late does not change what comes next.
"""

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from tests.netns.talk import say
from tests.rig.analysis import ACK, RST, SYN, Packet
from tests.rig.capture import Capture
from tests.rig.daemon import Daemon
from tests.rig.namespace import wait_until
from tests.rig.network import Network, direct
from tests.rig.peer import Peer, State
from tests.rig.segment import encode_syn_options
from tests.rig.traffic import Endpoint, endpoint

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


Scripts = Mapping[str, tuple[str, Callable[[Talk], Script]]]
"""Name of a flow -> settings of its filter, and what happens on it."""


@dataclass(frozen=True)
class Scene:
    """What was captured, by flow; and what the daemon showed in the end."""

    both: dict[str, list[Packet]]
    ours: dict[str, list[Packet]]
    shown: dict[str, str]
    """State in words; a flow without an entry is not there."""


def play_scene(scripts: Scripts, scene_s: float, folder: Path) -> Scene:
    """All the scripts at once, for so long."""
    path = folder / "wire.pcap"
    with direct() as net, Daemon(net.a) as daemon, ExitStack() as stack:
        ports = {name: 7000 + number for number, name in enumerate(scripts)}
        ends = {name: f"{net.b.address()}:{port}" for name, port in ports.items()}
        filters = [f"remote={ends[name]},{scripts[name][0]}" for name in scripts]
        options = [word for text in filters for word in ("-f", text)]
        daemon.ctl("run", "--detach", *options, net.a.interface, check=True)
        talks = {name: stack.enter_context(talk(net, ports[name])) for name in scripts}
        with Capture(net.b.namespace, net.b.interface, path, "tcp or udp") as capture:
            play([scripts[name][1](talks[name]) for name in scripts], scene_s)
        listed = json.loads(daemon.ctl("show", "--json", check=True).stdout)["connections"]
        states = {one["remote"]: one["state"] for one in listed}
        packets = capture.analysis().packets
        both = {name: [p for p in packets if ends[name] in (p.source, p.target)] for name in ends}
        return Scene(
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


def play(scripts: list[Script], scene_s: float) -> None:
    """Let all of them go on, tick by tick, until the scene is over."""
    end_s = time.monotonic() + scene_s

    def tick() -> bool:
        for script in scripts:
            next(script, None)
        return time.monotonic() > end_s

    wait_until(tick, scene_s + 60, "the end of the scene", every_s=TICK_S)


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
    """So many seconds lie between neighbours, and a little more at most.

    Counted from the first, since deadlines are: what follows a late one may come on time.
    """
    words = [f"{packet.time_s - packets[0].time_s:.3f} s: {packet}" for packet in packets]
    assert len(packets) == len(wanted_s) + 1, words
    for number, due_s in enumerate(accumulate(wanted_s), 1):
        after_s = packets[number].time_s - packets[0].time_s
        assert due_s - EARLY_S <= after_s <= due_s + LATE_S * number, words


def after_the_peer_fell_silent(scene: Scene, name: str) -> list[Packet]:
    """The last segment of the peer, and what ours sent more than a second later."""
    ours, both = scene.ours[name], scene.both[name]
    last = [packet for packet in both if packet not in ours][-1]
    return [last, *(packet for packet in ours if packet.time_s > last.time_s + 1)]
