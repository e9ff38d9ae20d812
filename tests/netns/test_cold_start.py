# SPDX-License-Identifier: GPL-2.0-only
"""What is sent before there is a connection arrives in the order it was sent, whoever opens it.

Every round has ports of its own, so each one starts cold.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

import pytest

from tests.netns.disguise import (
    data_segments,
    disguised,
    handshakes,
    remote_and_local,
    wire_capture,
)
from tests.netns.talk import heard, say
from tests.rig.analysis import Analysis, Packet, Report
from tests.rig.network import Host, Network, routed
from tests.rig.traffic import Endpoint, burst, exchange, flow

PORT = 51820
SETTINGS = ",handshake=1:3"
ROUNDS = 50
BURST = 32
CROSSINGS = 25
RACES = 100
WITHIN_S = 30.0
# Not ports that the kernel picks: it may pick one again, whose connection is not cold.
FRESH_PORTS = itertools.count(20_000)
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


EACH_ORDER = (pytest.param(True, id="B above A"), pytest.param(False, id="A above B"))
"""Which end has the higher address decides who answers a crossing."""


@pytest.fixture(scope="module", params=EACH_ORDER)
def crossing_network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A network with a wire."""
    with ordered_network(b_is_higher=request.param, wire=True) as net:
        yield net


@pytest.fixture(scope="module", params=EACH_ORDER)
def free_network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """One where nothing holds packets up."""
    with ordered_network(b_is_higher=request.param) as net:
        yield net


@contextmanager
def ordered_network(b_is_higher: bool, wire: bool = False) -> Iterator[Network]:
    with routed(wire=wire) as plain:
        net = plain if b_is_higher else with_high_addresses_at_a(plain)
        with both_families(net):
            yield net


@pytest.fixture(scope="module")
def quick_network() -> Iterator[Network]:
    with routed() as net, both_families(net):
        yield net


@contextmanager
def both_families(net: Network) -> Iterator[None]:
    """The data path at both ends, for the flows to one port of B."""
    pairs = [remote_and_local(net, family, PORT, SETTINGS) for family in (4, 6)]
    with disguised(net, [pair[0] for pair in pairs], [pair[1] for pair in pairs]):
        yield


def with_high_addresses_at_a(net: Network) -> Network:
    """The same network, but A talks from addresses that are above those of B."""
    ipv4, ipv6 = IPv4Interface("203.0.113.2/32"), IPv6Interface("2001:db8:c::2/128")
    towards_a = ("via", str(net.a.ipv4.ip)), ("via", str(net.a.ipv6.ip))
    for address, via in zip((ipv4, ipv6), towards_a, strict=True):
        net.a.namespace.run("ip", "address", "add", str(address), "dev", net.a.interface)
        net.router.namespace.run("ip", "route", "add", str(address), *via)
    return replace(net, a=replace(net.a, ipv4=ipv4, ipv6=ipv6))


@FAMILIES
def test_32_datagrams_back_to_back_on_a_cold_connection_arrive_in_order_50_times_of_50(
    quick_network: Network, family: int, tmp_path: Path
) -> None:
    net = quick_network
    invalid = net.router.firewall.invalid()
    ends = []
    with wire_capture(net, tmp_path / "wire.pcap") as capture:
        for number in range(ROUNDS):
            with flow(net.a, net.b, family, next(FRESH_PORTS), PORT) as (a, b):
                # From tiny to as much as the window of a SYN lets through at once.
                verdict = burst(a, b, BURST, datagram_bytes=8 + number * 28, seed=number)
                assert verdict.clean, f"round {number}: {verdict}"
                assert verdict.received == BURST
                ends.append((a.text, b.text))
        analysis = capture.analysis()
    assert net.router.firewall.invalid() == invalid
    for pair in ends:
        report = analysis.flow(*pair)
        assert report.faults() == []
        assert handshakes(report) == ["S", "SA"]
        assert data_segments(report) == BURST


@FAMILIES
def test_what_follows_a_cold_burst_does_not_overtake_it(
    quick_network: Network, family: int
) -> None:
    net = quick_network
    invalid = net.router.firewall.invalid()
    for number in range(ROUNDS):
        with flow(net.a, net.b, family, next(FRESH_PORTS), PORT) as (a, b):
            # More than are held: sending goes on while user space hands back the first ones.
            to_b, _ = exchange(a, b, [600] * 300, seed=number, both=False)
            assert to_b.clean, f"round {number}: {to_b}"
            assert to_b.received == 300
            to_b, to_a = exchange(a, b, [100] * 50, seed=number)
            assert (to_b.clean, to_a.clean) == (True, True)
    assert net.router.firewall.invalid() == invalid


@FAMILIES
def test_syns_that_cross_make_one_connection_that_carries_both_ways(
    crossing_network: Network, family: int, tmp_path: Path
) -> None:
    net = crossing_network
    invalid = net.router.firewall.invalid()
    ends = []
    with wire_capture(net, tmp_path / "wire.pcap") as capture:
        for number in range(CROSSINGS):
            with flow(net.a, net.b, family, next(FRESH_PORTS), PORT) as (a, b):
                with standing_still(net):
                    for source in (a, b):
                        say(source, *words_of(source, BURST))
                await_burst(a, b)
                await_burst(b, a)
                after = exchange(a, b, [100] * 20, seed=number)
                assert after[0].clean, f"round {number}: {after[0]}"
                assert after[1].clean, f"round {number}: {after[1]}"
                ends.append((a.text, b.text))
        analysis = capture.analysis()
    assert net.router.firewall.invalid() == invalid
    assert net.wire.lost() == 0
    for pair in ends:
        assert_crossed(analysis, *pair, answerer=lower(net, *pair, family))


@FAMILIES
def test_first_datagrams_sent_at_the_same_moment_always_arrive(
    free_network: Network, family: int, tmp_path: Path
) -> None:
    """However the two openings interleave: here nothing but the machine decides.

    Within some microseconds they may meet inside the router, on different CPUs. It may take only
    one of two SYNs then, and that is all that it keeps back; nothing is out of order to it.
    """
    net = free_network
    invalid = net.router.firewall.invalid()
    ends = []
    with (
        wire_capture(net, tmp_path / "at a.pcap") as at_a,
        wire_capture(net, tmp_path / "at b.pcap", side="b") as at_b,
    ):
        for _ in range(RACES):
            with flow(net.a, net.b, family, next(FRESH_PORTS), PORT) as (a, b):
                send_at_once(a, b)
                assert heard(a, 1, WITHIN_S) == words_of(b)
                assert heard(b, 1, WITHIN_S) == words_of(a)
                ends.append((a.text, b.text))
        seen_at_a, seen_at_b = at_a.analysis(), at_b.analysis()
    assert net.router.firewall.invalid() == invalid
    for end_a, end_b in ends:
        report = seen_at_a.flow(end_a, end_b)
        assert (report.udp, report.resets, data_segments(report)) == (0, 0, 2)
        assert report.bad_checksums == {}
        for end, other, near, far in (
            (end_a, end_b, seen_at_a, seen_at_b),
            (end_b, end_a, seen_at_b, seen_at_a),
        ):
            sent, passed = (seen.direction(end, other).packets for seen in (near, far))
            assert len({p.seq for p in sent if "S" in p.flag_letters}) <= 1
            kept_back = Counter(map(what, sent)) - Counter(map(what, passed))
            assert {letters for letters, *_ in kept_back} <= {"S"}


@contextmanager
def standing_still(net: Network) -> Iterator[None]:
    """Whatever B sends or should get waits in the wire meanwhile."""
    go_on = threading.Event()

    def wait(_frame: bytes) -> bool:
        go_on.wait(10)
        return False

    net.wire.to_b.drop((), wait)
    net.wire.to_a.drop((), wait)
    try:
        yield
    finally:
        go_on.set()
        net.wire.to_b.clear()
        net.wire.to_a.clear()


def assert_crossed(analysis: Analysis, end_a: str, end_b: str, answerer: str) -> None:
    """Both ends sent a SYN before either heard of the other's, and one of them answered."""
    report = analysis.flow(end_a, end_b)
    opening = [(packet.source, packet.flag_letters) for packet in report.packets[:4]]
    (other,) = {end_a, end_b} - {answerer}
    assert sorted(opening[:2]) == sorted([(end_a, "S"), (end_b, "S")])
    assert opening[2:] == [(answerer, "SA"), (other, "A")]
    assert without_crossing_answer(report).faults() == []
    assert data_segments(report) == 2 * BURST + 40


def without_crossing_answer(report: Report) -> Report:
    """Less the SYN+ACK of an end whose own SYN it repeats (RFC 9293 figure 8).

    tshark calls that one a retransmission, which to a firewall it is not.
    """
    opened: set[str] = set()
    rest = []
    for packet in report.packets:
        if packet.flag_letters == "SA" and packet.source in opened:
            assert (packet.bad_checksums, packet.judgements) == ((), ("retransmission",))
            continue
        opened |= {packet.source} if packet.flag_letters == "S" else set()
        rest.append(packet)
    return Report(tuple(rest))


def what(packet: Packet) -> tuple[str, int, int]:
    """What makes a packet the same one on either side of the router."""
    return packet.flag_letters, packet.seq, packet.ack


def await_burst(source: Endpoint, target: Endpoint) -> None:
    assert heard(target, BURST, WITHIN_S) == words_of(source, BURST)


def words_of(source: Endpoint, count: int = 1) -> list[bytes]:
    return [b"%d of %s" % (ordinal, source.text.encode()) for ordinal in range(count)]


def send_at_once(a: Endpoint, b: Endpoint) -> None:
    barrier = threading.Barrier(2)

    def send(source: Endpoint) -> None:
        barrier.wait(5)
        say(source, *words_of(source))

    threads = [threading.Thread(target=send, args=(end,)) for end in (a, b)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def lower(net: Network, end_a: str, end_b: str, family: int) -> str:
    """The end with the numerically lower address: it answers a crossing SYN."""

    def packed(host: Host) -> bytes:
        return (host.ipv4 if family == 4 else host.ipv6).packed

    return end_a if packed(net.a) < packed(net.b) else end_b
