# SPDX-License-Identifier: GPL-2.0-only
"""Every datagram crosses as TCP, unharmed, and the wire looks like TCP to those who look closely.

Both families, every padding, every size, both ways XDP can be attached, checksum offload on. The
wire is read with a decoder of its own, so both ends of the code under test cannot err alike.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.disguise import (
    data_segments,
    disguised,
    handshakes,
    remote_and_local,
    wire_capture,
    xdp_modes,
)
from tests.rig.analysis import Packet
from tests.rig.datagrams import Stream, seeded_sizes
from tests.rig.namespace import Namespace
from tests.rig.network import Network, routed
from tests.rig.segment import RANDOM_PADDING, decode_datagram
from tests.rig.traffic import exchange, flow

COUNT = 10_000
MTU_BYTES = 1500
HEADER_BYTES = {4: 20, 6: 40}
TCP_HEADER_BYTES = 20
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
PADDINGS = pytest.mark.parametrize("padding", ["0", "7", "16", "random"])
LARGEST_RANDOM_PADDING_BYTES = 10
PORTS = {
    (family, padding): 51820 + index
    for index, (family, padding) in enumerate(
        (family, padding) for family in (4, 6) for padding in ("0", "7", "16", "random")
    )
}
XDP_NAMES = {"native": "native", "skb": "generic"}


@pytest.fixture(scope="module", params=XDP_NAMES)
def disguised_network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """The router network with the data path at both ends: one filter for each cell."""
    mode = str(request.param)
    with routed(MTU_BYTES) as net:
        filters = [
            remote_and_local(net, family, port, f",padding={padding}")
            for (family, padding), port in PORTS.items()
        ]
        at_a, at_b = ([pair[side] for pair in filters] for side in (0, 1))
        with disguised(net, at_a, at_b, mode):
            assert xdp_modes(net.a) == xdp_modes(net.b) == {XDP_NAMES[mode]}
            yield net


@FAMILIES
@PADDINGS
def test_every_datagram_of_every_size_arrives_and_the_wire_shows_flawless_tcp(
    disguised_network: Network, family: int, padding: str, tmp_path: Path
) -> None:
    net = disguised_network
    ends = [(host.namespace, host.interface) for host in (net.a, net.b)]
    ends += [(net.router.namespace, net.router.interface(side)) for side in ("a", "b")]
    assert all(checksum_offload_is_on(*end) for end in ends)
    carry(net, family, padding, COUNT, tmp_path)


@PADDINGS
def test_datagrams_without_udp_checksum_get_a_right_tcp_checksum(
    disguised_network: Network, padding: str, tmp_path: Path
) -> None:
    carry(disguised_network, 4, padding, 3000, tmp_path, no_checksum=True)


@FAMILIES
@PADDINGS
def test_datagrams_whose_checksum_is_already_finished_arrive_as_well(
    disguised_network: Network, family: int, padding: str, tmp_path: Path
) -> None:
    net = disguised_network
    hosts = (net.a, net.b)
    for host in hosts:
        host.set_offload(tx=False)
    try:
        assert not any(checksum_offload_is_on(host.namespace, host.interface) for host in hosts)
        carry(net, family, padding, 3000, tmp_path)
    finally:
        for host in hosts:
            host.set_offload(tx=True)


def carry(
    net: Network,
    family: int,
    padding: str,
    count: int,
    folder: Path,
    no_checksum: bool = False,
) -> None:
    """Exchange datagrams of every size over a new connection and check all that can be seen."""
    largest = largest_datagram_bytes(family, padding)
    port = PORTS[family, padding]
    seed = port
    invalid_before = net.router.firewall.invalid()
    with wire_capture(net, folder / "wire.pcap") as capture:
        with flow(net.a, net.b, family, port_b=port, no_checksum=no_checksum) as (a, b):
            to_b, to_a = exchange(a, b, count=count, largest_bytes=largest, seed=seed)
            ends = a.text, b.text
        analysis = capture.analysis(payloads=True)
    assert to_b.clean, to_b
    assert to_a.clean, to_a
    assert (to_b.received, to_a.received) == (count, count)

    assert net.router.firewall.invalid() == invalid_before
    report = analysis.flow(*ends)
    assert report.faults() == []
    assert (report.udp, report.resets, data_segments(report)) == (0, 0, 2 * count)
    assert handshakes(report) == ["S", "SA"]
    for direction, direction_seed in ((ends, seed), (ends[::-1], seed + 1)):
        packets = analysis.direction(*direction).packets
        sent = Stream(seeded_sizes(count, largest, direction_seed), direction_seed)
        on_wire = [decoded(packet, padding) for packet in packets if "P" in packet.flag_letters]
        assert len(on_wire) == count
        differing = [n for n, data in enumerate(on_wire) if data != sent.datagram(n)]
        assert differing == []


def largest_datagram_bytes(family: int, padding: str) -> int:
    """What the MTU leaves when the padding is as long as it can be."""
    longest = LARGEST_RANDOM_PADDING_BYTES if padding == "random" else int(padding)
    return MTU_BYTES - HEADER_BYTES[family] - TCP_HEADER_BYTES - longest


def decoded(packet: Packet, padding: str) -> bytes | None:
    """The datagram in a captured data segment."""
    number = RANDOM_PADDING if padding == "random" else int(padding)
    return decode_datagram(packet.payload, number, packet.seq, packet.ack)


def checksum_offload_is_on(namespace: Namespace, interface: str) -> bool:
    features = namespace.run("ethtool", "-k", interface).stdout
    return "tx-checksumming: on" in features
