# SPDX-License-Identifier: GPL-2.0-only
"""The scripted peer against itself, through conntrack, with all its errors."""

import pytest

from tests.rig.endpoint import RawEndpoint
from tests.rig.namespace import (
    RigError,
    wait_until,
)
from tests.rig.network import Network
from tests.rig.peer import MIMIC, PLAIN, RANDOM_PADDING, Peer, Quirks, State
from tests.rig.segment import ACK, PSH, RST, SYN

FAMILIES = pytest.mark.parametrize("family", [4, 6])


@FAMILIES
@pytest.mark.parametrize("responder", [PLAIN, MIMIC], ids=["to plain", "to mimic"])
@pytest.mark.parametrize("initiator", [PLAIN, MIMIC], ids=["plain", "mimic"])
def test_two_scripted_peers_talk_through_conntrack_with_every_padding(
    routed_network: Network, family: int, initiator: Quirks, responder: Quirks
) -> None:
    net = routed_network
    data = [bytes([size % 251]) * size for size in (*range(2, 40), 500, 1400)]
    for padding in (*range(17), RANDOM_PADDING):
        port = 7000 + padding
        with (
            Peer(
                net.a, port, (net.b.address(family), port), padding=padding, quirks=initiator
            ) as a,
            Peer(
                net.b, port, (net.a.address(family), port), padding=padding, quirks=responder
            ) as b,
        ):
            a.connect(b"opens")
            b.await_state(State.ESTABLISHED)
            a.await_state(State.ESTABLISHED)
            # When mimic's data overtakes its ACK, a mimic at the other end throws it away.
            if not (initiator.data_overtakes_ack and responder.discards_first_data):
                assert b.next_datagram() == b"opens"
            a.send(*data)
            b.send(*data)
            assert b.next_datagrams(len(data)) == data
            assert a.next_datagrams(len(data)) == data
            assert a.wrong_checksums() == b.wrong_checksums() == []
    assert net.router.firewall.invalid() == 0
    assert net.router.firewall.forwarded("tcp") > 18 * 2 * len(data)


@FAMILIES
def test_crossing_syns_of_scripted_peers_establish_through_conntrack(
    routed_network: Network, family: int
) -> None:
    net = routed_network
    with (
        Peer(net.a, 7600, (net.b.address(family), 7600)) as a,
        Peer(net.b, 7600, (net.a.address(family), 7600)) as b,
    ):
        # Neither can act upon the other's SYN before its own is sent.
        with a.changed, b.changed:
            a.connect(b"from a")
            b.connect(b"from b")
        assert (a.next_datagram(), b.next_datagram()) == (b"from b", b"from a")
        assert [segment.flags for segment in a.sent[:2]] == [SYN, SYN | ACK]
        assert [segment.flags for segment in b.sent[:2]] == [SYN, ACK]
    assert net.router.firewall.invalid() == 0


def test_a_scripted_peer_sends_20_mb_one_way_through_conntrack(routed_network: Network) -> None:
    net = routed_network
    with (
        Peer(net.a, 7100, (net.b.address(), 7100)) as a,
        Peer(net.b, 7100, (net.a.address(), 7100)) as b,
    ):
        a.connect()
        # Until B has said its scaled window, no more than 65,535 bytes fit.
        wait_until(lambda: a.tcp.peer_window > 0xFFFF, 3, "the scaled window of B")
        chunk = [bytes(1400)] * 100
        for _ in range(143):
            a.send(*chunk)
            assert b.next_datagrams(len(chunk)) == chunk
        assert a.tcp.window_drops == 0
    assert net.router.firewall.invalid() == 0


def test_the_host_itself_never_answers_for_a_scripted_peer(direct_network: Network) -> None:
    net = direct_network
    with (
        RawEndpoint(net.a, 7200, (net.b.address(), 7200)) as a,
        Peer(net.b, 7200, (net.a.address(), 7200), resets_unknown=False) as b,
    ):
        a.send_segment(ACK | PSH, 1, 1, 100, b"nobody knows this")
        wait_until(lambda: b.received, 3, "the segment at B")
        a.send_segment(SYN, 5, window=100)
        assert a.expect(lambda s: True).flags == SYN | ACK
    with RawEndpoint(net.a, 7201, (net.b.address(), 7201)) as a:
        # Without a peer the kernel does answer: so the test above can fail.
        a.send_segment(ACK | PSH, 1, 1, 100, b"nobody knows this")
        a.expect(lambda s: s.has(RST), what="RST of the kernel")


def test_a_deaf_peer_records_but_does_not_act(direct_network: Network) -> None:
    net = direct_network
    with (
        Peer(net.a, 7300, (net.b.address(), 7300)) as a,
        Peer(net.b, 7300, (net.a.address(), 7300)) as b,
    ):
        b.deafen()
        a.connect()
        b.expect(lambda s: s.flags == SYN)
        assert (a.state, b.state) == (State.SYN_SENT, State.IDLE)
        b.deafen(False)
        a.repeat_syn()
        a.await_state(State.ESTABLISHED)
        a.skip()
        b.reset()
        a.expect(lambda s: s.has(RST))
        a.await_state(State.IDLE)


def test_a_peer_lives_through_a_cable_that_is_out(routed_network: Network) -> None:
    net = routed_network
    with (
        Peer(net.a, 7500, (net.b.address(), 7500)) as a,
        Peer(net.b, 7500, (net.a.address(), 7500)) as b,
    ):
        a.send(b"one")
        assert b.next_datagram() == b"one"
        net.router.unplug("a")
        a.send(b"lost")
        net.router.plug("a")

        def carries() -> bool:
            a.send(b"again")
            return b.tcp.delivered[-1] == b"again"

        wait_until(carries, 5, "the cable carries again", every_s=0.05)
        assert b"lost" not in b.tcp.delivered


def test_what_does_not_come_is_an_error_that_says_what_came(direct_network: Network) -> None:
    net = direct_network
    with (
        RawEndpoint(net.a, 7400, (net.b.address(), 7400)) as a,
        RawEndpoint(net.b, 7400, (net.a.address(), 7400)) as b,
    ):
        with pytest.raises(RigError, match="nothing else came"):
            b.expect(lambda s: True, within_s=0.05, what="a SYN")
        a.send_segment(SYN, 5)
        b.expect_none(lambda s: s.has(RST), for_s=0.05)
        with pytest.raises(RigError, match=r"a RST did not come .* instead: .* S seq=5"):
            b.expect(lambda s: s.has(RST), within_s=0.05, what="a RST")
        with pytest.raises(RigError, match="should not"):
            b.expect_none(lambda s: s.has(SYN), for_s=0.05)
