# SPDX-License-Identifier: GPL-2.0-only
"""One end sends 200 MB and the other never a datagram, through a firewall that minds the window.

Only window updates and the answers to window probes keep such a flow going: they are counted.
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
)
from tests.rig.analysis import Report
from tests.rig.network import Network, routed
from tests.rig.traffic import Endpoint, bulk, exchange, flow

TOTAL_BYTES = 200_000_000
DATAGRAM_BYTES = 1400
HEADERS_BYTES = 96
# W of the protocol: the receiver restores it once no more than a half is left.
WINDOW_BYTES = 0x3400000
PORTS = {"": 51820, ",max_window=1": 51821}
LARGEST_WINDOW_TOTAL_BYTES = 30_000_000
LOSSY_TOTAL_BYTES = 100_000_000
DATA = "tcp flags & psh == psh"
CONTROL = "meta l4proto tcp tcp flags & psh == 0"
SOURCES = pytest.mark.parametrize("source_is", ["opener", "responder"])
# A family has no part in windows, so each direction is watched in one of them.
WATCHED = pytest.mark.parametrize(
    ("family", "source_is"),
    [(4, "opener"), (6, "responder")],
    ids=["IPv4 opener", "IPv6 responder"],
)


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with routed() as network:
        filters = [
            remote_and_local(network, family, port, settings)
            for family in (4, 6)
            for settings, port in PORTS.items()
        ]
        with disguised(network, [pair[0] for pair in filters], [pair[1] for pair in filters]):
            yield network


@WATCHED
def test_200_mb_one_way_pass_the_firewall(
    net: Network, family: int, source_is: str, tmp_path: Path
) -> None:
    report, target = carried_one_way(net, family, PORTS[""], source_is, tmp_path, TOTAL_BYTES)
    restored = [p for p in report.packets if p.source == target and not p.length_bytes]
    assert len(restored) >= TOTAL_BYTES // WINDOW_BYTES


@WATCHED
def test_the_largest_window_is_always_said_where_it_is_asked_for(
    net: Network, family: int, source_is: str, tmp_path: Path
) -> None:
    report, _ = carried_one_way(
        net, family, PORTS[",max_window=1"], source_is, tmp_path, LARGEST_WINDOW_TOTAL_BYTES
    )
    fields = {packet.window for packet in report.packets}
    assert fields == {0xFFFF}


@SOURCES
def test_lost_window_updates_and_probes_stop_nothing(net: Network, source_is: str) -> None:
    firewall = net.router.firewall
    invalid = firewall.invalid()
    with flow(net.a, net.b, port_b=PORTS[""]) as (a, b):
        source, target = (a, b) if source_is == "opener" else (b, a)
        open_from(a, b)
        side = "a" if source is a else "b"
        loss = firewall.drop_random(side, 2, DATA)
        others = [firewall.drop_every(side, 2, CONTROL) for side in ("a", "b")]
        verdict = bulk(
            source, target, LOSSY_TOTAL_BYTES, datagram_bytes=DATAGRAM_BYTES, window=1000
        )
        assert (len(verdict.missing), verdict.intact) == (loss.dropped, True)
        assert loss.dropped > 0
        assert all(other.dropped > 0 for other in others)
        for one in (loss, *others):
            one.remove()
        assert all(verdict.clean for verdict in exchange(a, b, [100] * 50))
    assert firewall.invalid() == invalid


def carried_one_way(
    net: Network, family: int, port: int, source_is: str, folder: Path, total_bytes: int
) -> tuple[Report, str]:
    """What the wire showed of a new connection, and which end was silent on it."""
    invalid = net.router.firewall.invalid()
    with wire_capture(net, folder / "wire.pcap", HEADERS_BYTES) as capture:
        with flow(net.a, net.b, family, port_b=port) as (a, b):
            open_from(a, b)
            source, target = (a, b) if source_is == "opener" else (b, a)
            verdict = bulk(source, target, total_bytes, datagram_bytes=DATAGRAM_BYTES)
            assert verdict.clean, verdict
            ends = source.text, target.text
        report = capture.analysis().flow(*ends)
    assert net.router.firewall.invalid() == invalid
    assert report.faults() == []
    assert handshakes(report) == ["S", "SA"]
    assert data_segments(report) == verdict.sent + 1
    assert verdict.received * DATAGRAM_BYTES >= total_bytes
    return report, ends[1]


def open_from(a: Endpoint, b: Endpoint) -> None:
    """One datagram from A: what comes later finds a connection."""
    assert exchange(a, b, [100], both=False)[0].clean
