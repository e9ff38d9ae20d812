# SPDX-License-Identifier: GPL-2.0-only
"""A flood of SYNs from addresses that nobody has: it costs no memory, and nobody notices it.

But for the cable: where the machine is slow its queue overflows now and then, and what that drops
counts as lost by the cable.
"""

import json
from contextlib import ExitStack
from typing import Any

import pytest

from tests.netns.disguise import remote_and_local
from tests.rig.daemon import Daemon
from tests.rig.echo import EchoServer, ask, ask_all
from tests.rig.flood import SynFlood
from tests.rig.network import Network
from tests.rig.traffic import Endpoint, endpoint, exchange, flow

PORT, OTHER_PORT = 51820, 51821
LIVING = 20
NEWCOMERS = 3
GROWTH_MAX_KIB = 512
NEWCOMER_MAX_KIB = 2
"""What one of them may cost the daemon, with its line in the list that is asked for."""
ENTRY_MAX_BYTES = 512
"""What the kernel's map takes for one of those who got in meanwhile."""
NEWCOMER_TRIES = 10
SHORT, LONG = 100_000, 1_000_000


def run(daemon: Daemon, *filters: str, xdp_mode: str) -> None:
    options = [word for text in filters for word in ("-f", text)]
    daemon.ctl("run", "--detach", "-x", xdp_mode, *options, daemon.host.interface, check=True)


def shown(daemon: Daemon) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(daemon.ctl("show", "--json", check=True).stdout)
    return facts


def dropped_by_cable(net: Network) -> int:
    """Frames that the queue of either end did not take."""
    total = 0
    for host in (net.a, net.b):
        answer = host.namespace.run("ip", "-s", "-j", "link", "show", "dev", host.interface)
        (facts,) = json.loads(answer.stdout)
        total += facts["stats64"]["tx"]["dropped"]
    return total


def tries_to_get_in(newcomer: Endpoint, server: Endpoint) -> int:
    """How often it has to ask until it is answered."""
    for number in range(1, NEWCOMER_TRIES + 1):
        if ask(newcomer, server, within_s=2.0):
            return number
    raise AssertionError("a newcomer does not get in")


def is_weathered(net: Network, count: int, xdp_mode: str) -> None:
    one, other = (remote_and_local(net, 4, port) for port in (PORT, OTHER_PORT))
    with ExitStack() as stack:
        a, b = stack.enter_context(Daemon(net.a)), stack.enter_context(Daemon(net.b))
        run(a, one[0], other[0], xdp_mode=xdp_mode)
        run(b, one[1], other[1], xdp_mode=xdp_mode)
        server = stack.enter_context(EchoServer(net.b, PORT))
        clients = [stack.enter_context(endpoint(net.a)) for _ in range(LIVING)]
        assert ask_all(clients, server.endpoint) == LIVING
        ends = stack.enter_context(flow(net.a, net.b, port_b=OTHER_PORT))
        assert all(verdict.clean for verdict in exchange(*ends, [100] * 100))
        assert len(shown(b)["connections"]) == LIVING + 1
        before_kib, maps_kib, rounds, newcomers = b.resident_kib(), b.maps_kib(), 0, 0
        lost, dropped = 0, dropped_by_cable(net)
        with SynFlood(net.a, (net.b.address(), PORT), count) as flood:
            while flood.goes_on or newcomers < NEWCOMERS:
                # every datagram of those that are there arrives, and whoever is new gets in
                for verdict in exchange(*ends, [100, 1400] * 250, seed=rounds):
                    assert (verdict.corrupt, verdict.duplicated, verdict.late) == (0, 0, 0)
                    lost += verdict.sent - verdict.received
                lost += LIVING - ask_all(clients, server.endpoint, within_s=2.0)
                newcomer = stack.enter_context(endpoint(net.a))
                lost += tries_to_get_in(newcomer, server.endpoint) - 1
                rounds, newcomers = rounds + 1, newcomers + 1
        assert flood.sent >= count
        lost_by_cable = dropped_by_cable(net) - dropped - flood.refused
        after = shown(b)
        growth_kib = b.resident_kib() - before_kib
        maps_growth_kib = b.maps_kib() - maps_kib
    counters = after["interfaces"][0]["counters"]
    print(
        f"{flood.sent} SYNs, {counters['rx-syn']} answered, {rounds} rounds, {newcomers} newcomers,"
        f" daemon grew by {growth_kib} KiB, its maps by {maps_growth_kib} KiB;"
        f" {lost} datagrams lost, {lost_by_cable} frames by the cable"
    )
    assert len(after["connections"]) == LIVING + 1 + newcomers
    assert {entry["state"] for entry in after["connections"]} == {"established"}
    assert lost <= lost_by_cable
    # nearly all of it came through, and each that did was answered
    assert counters["rx-syn"] >= 0.9 * flood.sent
    assert counters["tx-syn-ack"] == counters["rx-syn"]
    assert not [name for name in counters if name.endswith("-full")]
    assert growth_kib <= GROWTH_MAX_KIB + newcomers * NEWCOMER_MAX_KIB
    assert maps_growth_kib <= 1 + newcomers * ENTRY_MAX_BYTES // 1024


def test_a_hundred_thousand_forged_syns_are_not_felt(direct_network: Network) -> None:
    is_weathered(direct_network, SHORT, "auto")


@pytest.mark.slow
@pytest.mark.parametrize("xdp_mode", ["none", "native"])
def test_a_million_forged_syns_are_not_felt(direct_network: Network, xdp_mode: str) -> None:
    is_weathered(direct_network, LONG, xdp_mode)
