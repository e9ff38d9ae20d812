# SPDX-License-Identifier: GPL-2.0-only
"""A scripted peer and a program talk through the data path under test, a router between them.

The data path runs at both hosts, A with the lower address and B with the higher one; the peer
stands at the other host. The router's firewall drops what conntrack calls invalid, so a flow that
it cannot follow carries nothing.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from itertools import count

import pytest

from tests.netns.talk import heard, say
from tests.rig.daemon import Foreground
from tests.rig.network import Host, Network, routed
from tests.rig.peer import MIMIC, PLAIN, RANDOM_PADDING, Peer, Quirks
from tests.rig.segment import ACK, RST, Segment
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

SIZES = (*range(40), 500, 1400)
CHATTER = [bytes([(size * 7) % 251]) * size for size in SIZES]
CLOSED_S = 2
"""By default 10; a test need not wait that long."""
RECOVERY_S = 40.0
"""A cooldown is 5 s, or 10 s after the second one."""


@dataclass(frozen=True)
class Scene:
    net: Network
    programs: dict[str, Foreground]

    def ours_says(self, side: str, words: str) -> None:
        """Wait for words in the log of the data path at A ("lower") or B ("higher")."""
        self.programs[side].await_words(words)

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
        their_port = fresh_port()
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


def fresh_port() -> int:
    """One that no test of this process has used yet."""
    return next(_ports)


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


@contextmanager
def scripted_scene(xdp_mode: str) -> Iterator[Scene]:
    with routed() as net, ExitStack() as stack:
        # For so long after a RST conntrack lets only the end open again that did so before.
        net.router.namespace.sysctl({"netfilter/nf_conntrack_tcp_timeout_close": CLOSED_S})
        programs = {
            side: stack.enter_context(
                Foreground(host, "run", "-x", xdp_mode, *filters_of(host), host.interface)
            )
            for side, host in (("lower", net.a), ("higher", net.b))
        }
        for program in programs.values():
            program.await_words("attached")
        yield Scene(net, programs)


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
