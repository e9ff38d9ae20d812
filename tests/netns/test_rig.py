# SPDX-License-Identifier: GPL-2.0-only
"""The rig itself: networks carry, impairments do exactly what they say.

Whatever the rig cannot notice, no test that uses it can.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.rig.capture import Capture
from tests.rig.echo import EchoServer, ask, ask_all
from tests.rig.endpoint import RawEndpoint
from tests.rig.firewall import Point
from tests.rig.namespace import (
    wait_until,
)
from tests.rig.network import Network, direct, routed
from tests.rig.segment import ACK, PSH, SYN, encode_syn_options
from tests.rig.traffic import bulk, burst, endpoint, exchange, flow

MakeNetwork = Callable[[], AbstractContextManager[Network]]
LARGEST_BYTES = {4: 1472, 6: 1452}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def routed_by_wire() -> AbstractContextManager[Network]:
    return routed(wire=True)


@FAMILIES
@pytest.mark.parametrize("make", [direct, routed, routed_by_wire])
def test_plain_udp_of_every_size_arrives_both_ways(make: MakeNetwork, family: int) -> None:
    with make() as net, flow(net.a, net.b, family) as (a, b):
        to_b, to_a = exchange(a, b, count=3000, largest_bytes=LARGEST_BYTES[family])
        assert to_b.clean, to_b
        assert to_a.clean, to_a
        assert (to_b.received, to_a.received) == (3000, 3000)
        if net.maybe_wire:
            assert net.wire.lost() == 0


@FAMILIES
@pytest.mark.parametrize(("no_checksum", "bad"), [(True, 0), (False, 50)])
def test_plain_udp_without_checksum_arrives_and_has_none(
    routed_network: Network, family: int, no_checksum: bool, bad: int, tmp_path: Path
) -> None:
    net = routed_network
    with Capture(net.router.namespace, "to-b", tmp_path / "udp.pcap", "udp") as capture:
        with flow(net.a, net.b, family, no_checksum=no_checksum) as (a, b):
            to_b, _ = exchange(a, b, [100] * 50, both=False)
            ends = a.text, b.text
        report = capture.analysis().direction(*ends)
    assert to_b.clean, to_b
    # Of offloaded checksums tshark says that they are bad; of none at all it says nothing.
    assert (report.udp, report.bad_checksums["udp"]) == (50, bad)


def test_a_burst_and_a_bulk_transfer_arrive_whole(routed_network: Network) -> None:
    with flow(routed_network.a, routed_network.b) as (a, b):
        assert burst(a, b, 32).clean
        sent = bulk(a, b, 10_000_000)
    assert sent.clean, sent
    assert sent.received == -(-10_000_000 // 1400)


def test_a_datagram_too_large_to_send_is_refused_not_lost_in_silence(
    direct_network: Network,
) -> None:
    with flow(direct_network.a, direct_network.b) as (a, b):
        to_b, _ = exchange(a, b, [100, 65_508, 100], both=False, patience_s=0.2)
    assert (to_b.sent, to_b.received, len(to_b.refused)) == (2, 2, 1)
    assert not to_b.clean


def test_a_thousand_flows_are_answered_by_one_echo_server(routed_network: Network) -> None:
    net = routed_network
    with EchoServer(net.b, 7) as server, ExitStack() as stack:
        clients = [stack.enter_context(endpoint(net.a)) for _ in range(1000)]
        assert ask_all(clients, server.endpoint) == 1000
        wait_until(lambda: server.echoed == 1000, 3, "the last answer counted")


def test_an_unanswered_question_is_not_counted(direct_network: Network) -> None:
    net = direct_network
    with endpoint(net.a) as client, endpoint(net.b) as silent:
        assert not ask(client, silent, within_s=0.1)


def test_small_mtus_are_set_on_the_way_and_at_the_hosts() -> None:
    with routed(mtu_bytes=1280) as net, flow(net.a, net.b) as (a, b):
        assert exchange(a, b, [1280 - 28], both=False)[0].clean
        net.router.set_mtu("b", 1000)
        too_big, _ = exchange(a, b, [1280 - 28], both=False, patience_s=0.2)
        assert too_big.missing == (0,)
        net.a.set_mtu(1500)


@FAMILIES
@pytest.mark.parametrize("side", ["a", "b"])
def test_a_cable_is_out_until_it_is_in_again(
    routed_network: Network, side: str, family: int
) -> None:
    net = routed_network
    with flow(net.a, net.b, family) as (a, b):
        assert exchange(a, b, [100] * 5)[0].clean
        net.router.unplug(side)
        out, _ = exchange(a, b, [100] * 5, both=False, patience_s=0.2)
        assert out.received == 0
        net.router.plug(side)
        # The link may take a moment to carry again, so ask until it does.
        wait_until(
            lambda: exchange(a, b, [100], both=False, patience_s=0.05)[0].clean, 5, "cable in"
        )
        to_b, to_a = exchange(a, b, [100] * 5)
        assert to_b.clean, to_b
        assert to_a.clean, to_a


@FAMILIES
def test_a_segment_out_of_the_window_is_counted_invalid_and_dropped(
    routed_network: Network, family: int, tmp_path: Path
) -> None:
    net = routed_network
    port = 4000
    firewall = net.router.firewall
    at_a, at_b = net.a.address(family), net.b.address(family)
    with (
        RawEndpoint(net.a, port, (at_b, port)) as a,
        RawEndpoint(net.b, port, (at_a, port)) as b,
        Capture(net.router.namespace, "nflog:5", tmp_path / "invalid.pcap") as invalid,
    ):
        a.send_segment(SYN, 1000, window=0xFFFF, options=encode_syn_options(1400, 7))
        b.expect(lambda s: s.flags == SYN, what="SYN")
        b.send_segment(SYN | ACK, 5000, 1001, 0xFFFF, options=encode_syn_options(1400, 7))
        a.expect(lambda s: s.has(SYN | ACK), what="SYN+ACK")
        a.send_segment(ACK, 1001, 5001, 500)
        b.expect(lambda s: s.flags == ACK, what="ACK")
        assert firewall.invalid() == 0
        a.send_segment(ACK | PSH, 1001 + (1 << 30), 5001, 500, b"far outside")
        a.send_segment(ACK | PSH, 1001, 5001, 500, b"inside")
        assert b.expect(lambda s: bool(s.payload), what="data").payload == b"inside"
        assert (firewall.invalid_from("a"), firewall.invalid_from("b")) == (1, 0)
        # NFLOG is a queue of its own, so the log may come later than the next packet.
        wait_until(lambda: invalid.path.stat().st_size > 24, 5, "the invalid segment logged")
        (logged,) = invalid.analysis(payloads=True).packets
    assert logged.payload == b"far outside"


def test_a_segment_with_a_wrong_checksum_is_invalid_to_the_firewall(
    routed_network: Network,
) -> None:
    net = routed_network
    with (
        RawEndpoint(net.a, 4001, (net.b.address(), 4001)) as a,
        RawEndpoint(net.b, 4001, (net.a.address(), 4001)) as b,
    ):
        a.send_segment(SYN, 1, window=100, wrong_checksum=True)
        a.send_segment(SYN, 2, window=100)
        assert b.expect(lambda s: s.has(SYN)).seq == 2
    assert net.router.firewall.invalid_from("a") == 1


def test_a_strict_firewall_calls_a_connection_it_has_not_seen_begin_invalid() -> None:
    for loose in (True, False):
        with (
            routed(tcp_loose=loose) as net,
            RawEndpoint(net.a, 4002, (net.b.address(), 4002)) as a,
            RawEndpoint(net.b, 4002, (net.a.address(), 4002)) as b,
        ):
            a.send_segment(ACK | PSH, 1, 1, 100, b"from nowhere")
            a.send_segment(SYN, 7, window=100)
            came = [b.expect(lambda s: True).flags]
            assert came == [ACK | PSH if loose else SYN]
            assert net.router.firewall.invalid() == (0 if loose else 1)


@pytest.mark.parametrize("point", ["before", "after"])
@pytest.mark.parametrize("side", ["a", "b"])
def test_the_firewall_loses_exactly_the_chosen_packets(
    routed_network: Network, side: str, point: Point
) -> None:
    net = routed_network
    with flow(net.a, net.b) as (a, b):
        loss = net.router.firewall.drop_nth(side, {0, 7, 8}, "udp length > 100", point)
        # 20 small ones are not counted by the match.
        to_b, to_a = exchange(a, b, [50] * 20 + [200] * 20, patience_s=0.2)
        lossy, whole = (to_b, to_a) if side == "a" else (to_a, to_b)
        assert lossy.missing == (20, 27, 28)
        assert lossy.intact
        assert whole.clean, whole
        assert loss.dropped == 3
        loss.remove()
        assert exchange(a, b, [200] * 20)[0].clean


def test_the_firewall_loses_every_tenth_or_all_or_some_by_chance(routed_network: Network) -> None:
    net = routed_network
    firewall = net.router.firewall
    with flow(net.a, net.b) as (a, b):
        tenth = firewall.drop_every("a", 10)
        to_b, _ = exchange(a, b, [100] * 50, both=False, patience_s=0.2)
        assert to_b.missing == (9, 19, 29, 39, 49)
        tenth.remove()

        hole = firewall.drop_all("b")
        to_b, to_a = exchange(a, b, [100] * 10, patience_s=0.2)
        assert to_b.clean, to_b
        assert (to_a.received, hole.dropped) == (0, 10)
        hole.remove()

        chance = firewall.drop_random("a", 300)
        to_b, _ = exchange(a, b, [100] * 1000, window=1000, both=False, patience_s=0.2)
        # 300 expected; the bounds are 10 standard deviations away.
        assert 150 < len(to_b.missing) < 450
        assert len(to_b.missing) == chance.dropped


@pytest.mark.parametrize("side", ["a", "b"])
def test_the_wire_loses_swaps_and_delays_exactly_the_chosen_frames(
    wired_network: Network, side: str
) -> None:
    net = wired_network
    lane = net.wire.to_b if side == "a" else net.wire.to_a
    with flow(net.a, net.b) as (a, b):
        source, target = (a, b) if side == "a" else (b, a)
        lost = lane.drop({2, 30})
        verdict, _ = exchange(source, target, [100] * 40, both=False, patience_s=0.2)
        assert (verdict.missing, verdict.intact, lost.hits) == ((2, 30), True, 2)
        lane.clear()

        swapped = lane.swap({3, 10})
        verdict, _ = exchange(source, target, [100] * 40, both=False)
        assert (verdict.missing, verdict.late, swapped.hits) == ((), 2, 2)
        lane.clear()

        lane.delay({0}, by_frames=5)
        verdict, _ = exchange(source, target, [100] * 40, both=False)
        assert (verdict.missing, verdict.late) == ((), 1)
        lane.clear()

        assert exchange(source, target, [100] * 40, both=False)[0].clean


def test_the_wire_carries_superpackets_and_unfinished_checksums(wired_network: Network) -> None:
    # The kernel's own TCP with all offload on; it checks and acknowledges every byte itself.
    assert carried_by_tcp(wired_network, 3_000_000) == 3_000_000


def carried_by_tcp(net: Network, total_bytes: int) -> int:
    """Bytes that arrive at B over a kernel TCP connection from A."""
    with (
        net.b.namespace.socket(kind=socket.SOCK_STREAM) as listener,
        net.a.namespace.socket(kind=socket.SOCK_STREAM) as client,
    ):
        for end in (listener, client):
            end.settimeout(10)
        listener.bind((net.b.address(), 5300))
        listener.listen()
        client.connect((net.b.address(), 5300))
        accepted, _ = listener.accept()
        sender = threading.Thread(target=send_all, args=(client, total_bytes))
        sender.start()
        received = 0
        with accepted:
            accepted.settimeout(10)
            while data := accepted.recv(1 << 16):
                received += len(data)
        sender.join()
    return received


def send_all(client: socket.socket, total_bytes: int) -> None:
    client.sendall(bytes(total_bytes))
    client.shutdown(socket.SHUT_WR)
