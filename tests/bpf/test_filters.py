# SPDX-License-Identifier: GPL-2.0-only
"""Which filter a flow falls under: the most specific one, the same in both directions."""

from ipaddress import ip_address

import pytest

from mimicd.core.connection import State
from mimicd.core.model import Filter, FlowSettings, Handshake, Origin
from mimicd.core.rules import RuleBook
from tests.bpf.plane import Arrival, Departure, Plane
from tests.bpf.talk import HIGHER_REMOTE, LOCAL, Talk
from tests.rig.segment import ACK


def load(plane: Plane, *filters: Filter) -> None:
    """As the daemon does, for an interface with our addresses."""
    book = RuleBook({}).renumbered(filters)
    for number, settings in book.settings.items():
        plane.set_rule(number, settings)
    own = [end.address for end in LOCAL.values()]
    for key, value in book.filter_entries(own).items():
        plane.maps["filters"].update(key, value)


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
