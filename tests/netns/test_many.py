# SPDX-License-Identifier: GPL-2.0-only
"""A thousand connections at once, of which twenty end while the others go on undisturbed."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.netns.disguise import data_segments, handshakes, remote_and_local, wire_capture
from tests.rig.analysis import Analysis, Packet, Report
from tests.rig.daemon import Daemon
from tests.rig.echo import EchoServer, ask_all
from tests.rig.namespace import wait_until
from tests.rig.network import Network, routed
from tests.rig.traffic import Endpoint, endpoint

LASTING_PORT = 51820
STALE_PORT = 51821
LASTING = 980
STALE = 20
STALE_S = 5
FIRST_PORT = 20_000
RESETS = ("R", "RA")
ANSWERED_WITHIN_S = 60.0
CLOSED_WITHIN_S = 120.0
"""A shared machine may be slow; nobody waits longer than needed."""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with routed() as network:
        yield network


@pytest.fixture(scope="module")
def daemons(net: Network) -> Iterator[tuple[Daemon, Daemon]]:
    """The daemon at both hosts; only A gives up what is stale, and only towards one port."""
    lasting, stale = (remote_and_local(net, 4, port) for port in (LASTING_PORT, STALE_PORT))
    with Daemon(net.a) as a, Daemon(net.b) as b:
        run(a, lasting[0], f"{stale[0]},keepalive=0:::{STALE_S}")
        run(b, lasting[1], stale[1])
        yield a, b


def test_twenty_of_a_thousand_connections_grow_stale_while_the_others_carry_data(
    net: Network, daemons: tuple[Daemon, Daemon], tmp_path: Path
) -> None:
    rounds = 0
    with (
        wire_capture(net, tmp_path / "wire.pcap") as capture,
        EchoServer(net.b, LASTING_PORT) as lasting_server,
        EchoServer(net.b, STALE_PORT) as stale_server,
        ExitStack() as stack,
    ):
        clients = [
            stack.enter_context(endpoint(net.a, port=FIRST_PORT + number))
            for number in range(LASTING + STALE)
        ]
        lasting, stale = clients[:LASTING], clients[LASTING:]
        all_answered(lasting, lasting_server)
        assert [established(daemon) for daemon in daemons] == [LASTING] * 2
        all_answered(stale, stale_server)

        def only_the_lasting_are_left() -> bool:
            nonlocal rounds
            rounds += 1
            all_answered(lasting, lasting_server)
            return [established(daemon) for daemon in daemons] == [LASTING] * 2

        wait_until(only_the_lasting_are_left, CLOSED_WITHIN_S, "the stale connections closed")
        all_answered(lasting, lasting_server)
        # No cooldown follows: whoever has something to say again just connects.
        all_answered(stale, stale_server)
        analysis = capture.analysis()
        lasting_reports = reports(analysis, lasting, lasting_server)
        stale_reports = reports(analysis, stale, stale_server)
        stale_ends = {client.text for client in stale}

    assert net.router.firewall.invalid() == 0
    resets = [p for report in stale_reports for p in report.packets if p.flag_letters in RESETS]
    assert {packet.source for packet in resets} == stale_ends
    assert len(resets) == STALE
    first_s, last_s = (edge(packet.time_s for packet in resets) for edge in (min, max))
    for report in stale_reports:
        # All were there at once, before the first one went.
        assert report.packets[3].time_s < first_s
        assert handshakes(report) == ["S", "SA", "S", "SA"]
        assert data_segments(report) == 4
        assert (report.udp, report.bad_checksums) == (0, {})
    for report in lasting_reports:
        assert report.faults() == []
        assert handshakes(report) == ["S", "SA"]
        # Asked and answered: at first, in each round, and at last.
        assert data_segments(report) == 2 * (rounds + 2)
        times = [p.time_s for p in report.packets if "P" in p.flag_letters]
        assert times[0] < first_s
        assert last_s < times[-1]


def run(daemon: Daemon, *filters: str) -> None:
    options = [word for text in filters for word in ("-f", text)]
    daemon.ctl("run", "--detach", *options, daemon.host.interface, check=True)


def all_answered(clients: list[Endpoint], server: EchoServer) -> None:
    """Each client, a connection of its own, asks and gets its answer."""
    answered = ask_all(clients, server.endpoint, within_s=ANSWERED_WITHIN_S)
    assert answered == len(clients)


def established(daemon: Daemon) -> int:
    shown = json.loads(daemon.ctl("show", "--json", check=True).stdout)
    return sum(connection["state"] == "established" for connection in shown["connections"])


def reports(analysis: Analysis, clients: list[Endpoint], server: EchoServer) -> list[Report]:
    """What the wire showed of each client's flow, in one pass over the capture."""
    flows: dict[str, list[Packet]] = {client.text: [] for client in clients}
    server_text = server.endpoint.text
    for packet in analysis.packets:
        if server_text in (packet.source, packet.target):
            client_text = packet.target if packet.source == server_text else packet.source
            flows[client_text].append(packet)
    return [Report(tuple(packets)) for packets in flows.values()]
