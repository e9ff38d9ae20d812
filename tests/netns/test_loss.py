# SPDX-License-Identifier: GPL-2.0-only
"""What is lost or disordered on the way is all that is lost or disordered, and nothing stops.

Numbers that wrap belong here too: to the ends it looks as if 4 GiB of segments had been lost.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, pairwise
from pathlib import Path

import pytest

from tests.netns.disguise import (
    data_segments,
    disguised,
    handshakes,
    remote_and_local,
    wire_capture,
)
from tests.netns.talk import heard
from tests.rig.echo import EchoServer, ask_all
from tests.rig.firewall import Point
from tests.rig.network import Network, routed
from tests.rig.peer import RANDOM_PADDING, Peer
from tests.rig.segment import PSH, SEQUENCE_SPACE, TCP_PROTOCOL
from tests.rig.traffic import Endpoint, bulk, burst, endpoint, exchange, flow
from tests.rig.wire import is_transport

PLAIN_PORT = 51820
PADDED_PORT = 51821
PEER_PORT = 51822
PADDED = ",padding=random"
SETTINGS = {PLAIN_PORT: ",handshake=1:3", PADDED_PORT: PADDED}
DATA = "tcp flags & psh == psh"
CONTROL = "meta l4proto tcp tcp flags & psh == 0"
HANDSHAKE = {
    "SYN": ("a", "tcp flags & (syn | ack) == syn"),
    "SYN+ACK": ("b", "tcp flags & (syn | ack) == syn | ack"),
    "ACK": ("a", "tcp flags & (syn | ack | psh) == ack"),
}
POINTS = pytest.mark.parametrize("point", ["before", "after"])
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
FRESH_PORTS = count(20_000)
HEADERS_BYTES = 96

# So many random numbers come within some 10 MB of 2**32.
SHOPPED_CONNECTIONS = 400
CHUNK_BYTES = 1400


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """The router network with a wire, and the data path at both ends."""
    with routed(wire=True) as network:
        filters = [
            remote_and_local(network, family, port, settings)
            for family in (4, 6)
            for port, settings in SETTINGS.items()
        ]
        at_a = [pair[0] for pair in filters]
        at_a += [remote_and_local(network, family, PEER_PORT, PADDED)[0] for family in (4, 6)]
        with disguised(network, at_a, [pair[1] for pair in filters]):
            yield network


@FAMILIES
@POINTS
def test_only_the_datagrams_of_lost_segments_are_lost(
    net: Network, family: int, point: Point, tmp_path: Path
) -> None:
    lost = {"a": (0, 7, 8, 50, 199), "b": (3, 100, 101, 102)}
    with (
        connection_that_lives_on(net, family, tmp_path) as (a, b),
        ExitStack() as losses,
    ):
        for side, ordinals in lost.items():
            loss = net.router.firewall.drop_nth(side, ordinals, DATA, point)
            losses.callback(loss.remove)
        to_b, to_a = exchange(a, b, [300] * 200)
        assert (to_b.missing, to_b.intact) == (lost["a"], True)
        assert (to_a.missing, to_a.intact) == (lost["b"], True)


@FAMILIES
def test_only_the_datagrams_of_swapped_segments_come_late(
    net: Network, family: int, tmp_path: Path
) -> None:
    swapped = (5, 20, 22, 24, 90)
    with connection_that_lives_on(net, family, tmp_path) as (a, b):
        faults = [lane.swap(swapped, is_data) for lane in (net.wire.to_b, net.wire.to_a)]
        verdicts = exchange(a, b, [300] * 100)
        net.wire.to_b.clear()
        net.wire.to_a.clear()
        assert [fault.hits for fault in faults] == [len(swapped)] * 2
        for verdict in verdicts:
            assert (verdict.missing, verdict.late) == ((), len(swapped)), verdict
            assert (verdict.corrupt, verdict.duplicated) == (0, 0)


@FAMILIES
def test_a_lossy_path_takes_no_more_than_it_drops(
    net: Network, family: int, tmp_path: Path
) -> None:
    firewall = net.router.firewall
    with connection_that_lives_on(net, family, tmp_path) as (a, b):
        losses = {side: firewall.drop_random(side, 20, DATA) for side in ("a", "b")}
        others = [firewall.drop_random(side, 200, CONTROL) for side in ("a", "b")]
        to_b, to_a = exchange(a, b, count=3000, largest_bytes=1400, window=400)
        dropped = {side: loss.dropped for side, loss in losses.items()}
        for loss in (*losses.values(), *others):
            loss.remove()
        assert (len(to_b.missing), to_b.intact) == (dropped["a"], True)
        assert (len(to_a.missing), to_a.intact) == (dropped["b"], True)
        assert min(dropped.values()) > 0


@pytest.mark.parametrize("lost", HANDSHAKE)
@POINTS
def test_a_cold_burst_arrives_in_order_though_the_handshake_lost_a_segment(
    net: Network, lost: str, point: Point
) -> None:
    side, match = HANDSHAKE[lost]
    invalid = net.router.firewall.invalid()
    with flow(net.a, net.b, 4, next(FRESH_PORTS), PLAIN_PORT) as (a, b):
        loss = net.router.firewall.drop_nth(side, {0}, match, point)
        verdict = burst(a, b, 32, patience_s=20)
        assert loss.dropped == 1
        loss.remove()
        assert verdict.clean, verdict
        assert all(verdict.clean for verdict in exchange(a, b, [100] * 20))
    assert net.router.firewall.invalid() == invalid


@FAMILIES
def test_sequence_numbers_of_both_ends_wrap_while_data_flows(
    net: Network, family: int, tmp_path: Path
) -> None:
    """Of many connections, take those whose random first numbers are the highest."""
    invalid = net.router.firewall.invalid()
    with wire_capture(net, tmp_path / "open.pcap", HEADERS_BYTES) as capture:
        open_many(net, family)
        opened = capture.analysis().everything()
    for letters, side in (("S", 0), ("SA", 1)):
        highest = max(
            (packet for packet in opened.packets if packet.flag_letters == letters),
            key=lambda packet: packet.seq,
        )
        client_port = int((highest.source, highest.target)[side].rpartition(":")[2])
        to_go_bytes = SEQUENCE_SPACE - highest.seq
        with wire_capture(net, tmp_path / "wrap.pcap", HEADERS_BYTES) as capture:
            with flow(net.a, net.b, family, client_port, PADDED_PORT) as (a, b):
                source, target = ((a, b), (b, a))[side]
                ends = source.text, target.text
                verdict = bulk(source, target, to_go_bytes, datagram_bytes=CHUNK_BYTES)
                assert verdict.clean, verdict
                assert all(verdict.clean for verdict in exchange(a, b, [100] * 100))
            analysis = capture.analysis()
        numbers = [p.seq for p in analysis.direction(*ends).packets if "P" in p.flag_letters]
        (_step,) = (step for step in pairwise(numbers) if step[1] < step[0])
        report = analysis.flow(*ends)
        assert report.faults() == []
        assert handshakes(report) == []
        assert data_segments(report) == verdict.sent + 200
    assert net.router.firewall.invalid() == invalid


@FAMILIES
def test_the_numbers_of_a_peer_wrap_within_the_first_datagrams(net: Network, family: int) -> None:
    invalid = net.router.firewall.invalid()
    data = [bytes([size % 251]) * size for size in range(2, 200)]
    ours, theirs = next(FRESH_PORTS), PEER_PORT
    with (
        endpoint(net.a, family, ours) as program,
        Peer(net.b, theirs, (net.a.address(family), ours), padding=RANDOM_PADDING) as peer,
    ):
        program.socket.connect((net.b.address(family), theirs))
        # The padding of each segment is told by the sum of its numbers, which wraps as well.
        peer.connect(*data, isn=SEQUENCE_SPACE - 1000)
        assert heard(program, len(data)) == data
        assert peer.tcp.seq < SEQUENCE_SPACE // 2
        for datagram in data:
            program.socket.send(datagram)
        assert peer.next_datagrams(len(data)) == data
        peer.reset()
    assert net.router.firewall.invalid() == invalid


@contextmanager
def connection_that_lives_on(
    net: Network, family: int, folder: Path
) -> Iterator[tuple[Endpoint, Endpoint]]:
    """Two ends of a new flow; whatever happens to it, it must still be the same afterwards."""
    invalid = net.router.firewall.invalid()
    with wire_capture(net, folder / "wire.pcap") as capture:
        with flow(net.a, net.b, family, next(FRESH_PORTS), PLAIN_PORT) as (a, b):
            # A lost handshake is another matter, and one that crosses too.
            assert exchange(a, b, [100], both=False)[0].clean
            yield a, b
            assert all(verdict.clean for verdict in exchange(a, b, [100] * 50))
            ends = a.text, b.text
        report = capture.analysis().flow(*ends)
    assert handshakes(report) == ["S", "SA"]
    assert (report.udp, report.resets) == (0, 0)
    assert not report.bad_checksums
    assert net.router.firewall.invalid() == invalid
    assert net.wire.lost() == 0


def open_many(net: Network, family: int) -> None:
    with EchoServer(net.b, PADDED_PORT, family) as server, ExitStack() as stack:
        clients = [
            stack.enter_context(endpoint(net.a, family, next(FRESH_PORTS)))
            for _ in range(SHOPPED_CONNECTIONS)
        ]
        assert ask_all(clients, server.endpoint, within_s=60) == SHOPPED_CONNECTIONS


def is_data(frame: bytes) -> bool:
    """A TCP segment that pushes; the network of the test has no IP options."""
    tcp_at = 34 if frame[12:14] == b"\x08\x00" else 54
    is_tcp = is_transport(frame) and frame[23 if tcp_at == 34 else 20] == TCP_PROTOCOL
    return is_tcp and bool(frame[tcp_at + 13] & PSH)
