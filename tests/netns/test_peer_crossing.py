# SPDX-License-Identifier: GPL-2.0-only
"""SYNs that cross make one connection, also with a peer that answers a SYN by a bare ACK."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.netns.scripted import (
    FAMILIES,
    OUR_PORTS,
    RECOVERY_S,
    Scene,
    chat,
    come,
    filters_of,
    fresh_port,
    resets,
    shared_endpoint,
)
from tests.netns.talk import heard, say, say_until
from tests.rig.daemon import Foreground
from tests.rig.namespace import wait_until
from tests.rig.network import Network
from tests.rig.peer import MIMIC, PLAIN, Peer, Quirks
from tests.rig.segment import ACK, SYN
from tests.rig.traffic import Endpoint

SIDES = pytest.mark.parametrize("side", ["lower", "higher"])


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
            wait_until(lambda: resets(peer.sent), 3, "its RST")
            say_until(program, b"again", come(peer, b"again"), RECOVERY_S, "it is back")
            peer.send(b"answer")
            assert heard(program) == [b"answer"]
            assert scene.invalid()[0] == before[0]


def test_a_mimic_whose_syn_the_firewall_saw_first_is_asked_for_a_handshake(
    wired_network: Network,
) -> None:
    """conntrack refuses its ACK then; the next SYN of ours brings a SYN+ACK instead."""
    net = wired_network
    firewall = net.router.firewall
    port = fresh_port()
    with (
        Foreground(net.b, "run", *filters_of(net.b), net.b.interface) as ours,
        shared_endpoint(net.b, 4, OUR_PORTS[0], (net.a, port)) as program,
        Peer(net.a, port, (net.b.address(), OUR_PORTS[0]), quirks=MIMIC) as peer,
    ):
        ours.await_words("attached")
        late = net.wire.to_b.delay([0])
        peer.connect(b"from the peer")
        wait_until(lambda: late.hits, 5, "the peer's SYN held behind the firewall")
        say(program, b"from ours")
        assert peer.next_datagram(20) == b"from ours"
        assert heard(program) == [b"from the peer"]
        chat(program, peer)
        assert [segment.flags for segment in peer.sent[:3]] == [SYN, ACK, SYN | ACK]
        assert resets(peer.received) == []
    assert (firewall.invalid_from("a"), firewall.invalid_from("b")) == (1, 0)
