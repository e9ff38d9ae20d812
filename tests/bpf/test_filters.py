# SPDX-License-Identifier: GPL-2.0-only
"""Which filter a flow falls under: the most specific one, the same in both directions."""

from ipaddress import ip_address, ip_network

import pytest

from mimicd.core.connection import State
from mimicd.core.model import Filter, FlowSettings, Handshake, Origin
from mimicd.core.rules import RuleBook
from tests.bpf.plane import Arrival, Departure, Plane
from tests.bpf.talk import HIGHER_REMOTE, LOCAL, Talk
from tests.rig.segment import ACK


def load(plane: Plane, *filters: Filter) -> None:
    """For an interface with our addresses."""
    own = [end.address for end in LOCAL.values()]
    plane.set_filters(RuleBook({}).renumbered(filters).filters, own)


def conversation(plane: Plane, version: int = 4) -> Talk:
    return Talk(plane, LOCAL[version], HIGHER_REMOTE[version], FlowSettings())


def exact(origin: Origin, version: int = 4) -> Filter:
    end = LOCAL[version] if origin is Origin.LOCAL else HIGHER_REMOTE[version]
    return Filter(origin, end.address, end.port)


def wildcard(version: int = 4, port: int = LOCAL[4].port) -> Filter:
    return Filter(Origin.LOCAL, ip_address("0.0.0.0" if version == 4 else "::"), port)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["local", "remote", "wildcard"])
def test_any_filter_catches_both_directions(plane: Plane, version: int, kind: str) -> None:
    filter_ = wildcard(version) if kind == "wildcard" else exact(Origin(kind), version)
    load(plane, filter_)
    outgoing = conversation(plane, version)
    outgoing.open()
    assert outgoing.state() is State.SYN_SENT
    plane.maps["conns"].delete(outgoing.key)
    outgoing.accept()
    assert outgoing.state() is State.ESTABLISHED


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("order", [1, -1])
def test_the_most_specific_filter_counts_in_both_directions(
    plane: Plane, version: int, order: int
) -> None:
    both = [
        (exact(Origin.LOCAL, version), exact(Origin.REMOTE, version)),
        (exact(Origin.LOCAL, version), wildcard(version)),
        (exact(Origin.REMOTE, version), wildcard(version)),
    ]
    for better, worse in both:
        plane.reset()
        load(plane, *(better, worse)[::order])
        number = 1 if order == 1 else 2
        outgoing = conversation(plane, version)
        outgoing.open()
        assert outgoing.entry.rule == number, f"{better.text()} against {worse.text()}"
        plane.maps["conns"].delete(outgoing.key)
        outgoing.accept()
        assert outgoing.entry.rule == number, f"{better.text()} against {worse.text()}"


def test_a_wildcard_is_of_one_family(plane: Plane) -> None:
    load(plane, wildcard(6))
    assert conversation(plane, 4).send().result == Departure.SENT
    assert plane.counted() == {}
    conversation(plane, 6).open()
    assert plane.counted() == {"held": 1, "tx-syn": 1}


def test_a_filter_of_a_port_catches_no_other(plane: Plane) -> None:
    load(plane, wildcard(port=51821), Filter(Origin.REMOTE, HIGHER_REMOTE[4].address, 40001))
    silent = conversation(plane)
    assert silent.send().result == Departure.SENT
    assert silent.receive(silent.segment(ACK)).kind is Arrival.PASSED
    assert plane.counted() == {}


def test_a_living_connection_keeps_its_filter_and_follows_its_settings(plane: Plane) -> None:
    load(plane, exact(Origin.REMOTE))
    living = conversation(plane)
    living.connect()
    load(plane, exact(Origin.REMOTE), exact(Origin.LOCAL))
    assert living.sent(b"xy").payload == b"xy"
    assert living.entry.rule == 1
    plane.set_rule(1, FlowSettings(padding=3))
    assert living.sent(b"xy").payload[3:] == b"xy"


def test_a_passive_filter_never_opens(plane: Plane) -> None:
    passive = FlowSettings(handshake=Handshake(interval_s=0))
    end = LOCAL[4]
    load(plane, Filter(Origin.LOCAL, end.address, end.port, passive))
    silent = conversation(plane)
    for _ in range(3):
        assert silent.send().result == Departure.DROPPED
    assert plane.counted() == {"drop-passive": 3}
    # nor does it keep anything for peers that it has not heard of
    assert plane.entry(silent.key) is None


def ends_from_the_most_specific_on(version: int) -> list[Filter]:
    """All match packets between our two ends."""
    local, remote = LOCAL[version], HIGHER_REMOTE[version]
    width = local.address.max_prefixlen
    origins = {Origin.LOCAL: local, Origin.REMOTE: remote}
    ordered = []
    for less in (0, 1, 8, width):
        for around in (0, 1, 65535):
            for origin, end in origins.items():
                first, last = max(1, end.port - around), min(65535, end.port + around)
                network = ip_network((end.address, width - less), strict=False)
                ordered.append(
                    Filter(
                        origin,
                        network.network_address,
                        first,
                        last_port=last,
                        prefix_bits=width - less,
                    )
                )
    return ordered


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("order", [1, -1])
def test_address_comes_before_ports_and_ports_before_end(
    plane: Plane, version: int, order: int
) -> None:
    ordered = ends_from_the_most_specific_on(version)
    for first in range(len(ordered)):
        plane.reset()
        given = ordered[first:][::order]
        load(plane, *given)
        talk = conversation(plane, version)
        talk.open()
        assert given[talk.entry.rule - 1] == ordered[first], ordered[first].text()
        plane.maps["conns"].delete(talk.key)
        talk.accept()
        assert given[talk.entry.rule - 1] == ordered[first], ordered[first].text()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("origin", Origin)
def test_a_network_and_a_range_catch_what_is_inside_of_them(
    plane: Plane, version: int, origin: Origin
) -> None:
    end = LOCAL[version] if origin is Origin.LOCAL else HIGHER_REMOTE[version]
    width = end.address.max_prefixlen
    network = ip_network((end.address, width - 4), strict=False)
    beside = ip_network((int(network.network_address) ^ (1 << 4), width - 4))
    for where, first, last, inside in (
        (network, end.port, end.port + 100, True),
        (network, end.port - 100, end.port, True),
        (network, 1, 65535, True),
        (network, end.port + 1, 65535, False),
        (network, 1, end.port - 1, False),
        (beside, 1, 65535, False),
    ):
        plane.reset()
        load(
            plane,
            Filter(
                origin, where.network_address, first, last_port=last, prefix_bits=where.prefixlen
            ),
        )
        talk = conversation(plane, version)
        talk.send()
        assert (plane.entry(talk.key) is not None) is inside, (where, first, last)


def test_filters_change_under_a_living_connection(plane: Plane) -> None:
    """Classes of ports are made anew around it."""
    load(plane, exact(Origin.REMOTE))
    living = conversation(plane)
    living.connect()
    remote = HIGHER_REMOTE[4]
    load(
        plane,
        exact(Origin.REMOTE),
        Filter(Origin.REMOTE, remote.address, 1, last_port=65535),
        Filter(Origin.REMOTE, remote.address, remote.port - 9, last_port=remote.port + 9),
    )
    assert living.sent(b"xy").payload == b"xy"
    assert living.entry.rule == 1
    plane.maps["conns"].delete(living.key)
    living.open()
    assert living.entry.rule == 1
