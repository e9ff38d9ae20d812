# SPDX-License-Identifier: GPL-2.0-only
"""Plain UDP that comes in: dropped and counted where the filter is strict, else passed."""

import pytest

from mimicd.core.abi import ConfigFlag
from mimicd.core.model import Filter, FlowSettings, Origin, Strict
from tests.bpf.packets import FRAGMENT, UDP, ip_packet, link_header, udp, udp_frame
from tests.bpf.plane import Arrival, Plane
from tests.bpf.talk import HIGHER_REMOTE, LOCAL, talk
from tests.rig.segment import End, end

STRICT = FlowSettings(strict=Strict.RUNNING)


def strict(plane: Plane, version: int, settings: FlowSettings = STRICT) -> tuple[End, End]:
    """(remote, local) of a flow whose filter has these settings."""
    local = LOCAL[version]
    plane.add_filter(Filter(Origin.LOCAL, local.address, local.port, settings))
    plane.configure(flags=ConfigFlag.STRICT)
    return HIGHER_REMOTE[version], local


@pytest.mark.parametrize("version", [4, 6])
def test_plain_udp_to_a_strict_filter_is_dropped_and_counted(plane: Plane, version: int) -> None:
    remote, local = strict(plane, version)
    for size in (0, 1, 1000):
        frame = udp_frame(remote, local, bytes(size), incoming=True)
        assert plane.ingress(frame).kind is Arrival.DROPPED
        assert plane.counted() == {"drop-rx-plain": 1}


@pytest.mark.parametrize("version", [4, 6])
def test_all_other_udp_passes_bit_for_bit(plane: Plane, version: int) -> None:
    remote, local = strict(plane, version)
    elsewhere = end(str(local.address), local.port + 1)
    for source, target in ((remote, elsewhere), (local, remote)):
        frame = udp_frame(source, target, b"plain", incoming=True)
        assert plane.ingress(frame).frame == frame
    # which says no ports
    fragment = (
        ip_packet(remote, local, UDP, bytes(64), fragment=8)
        if version == 4
        else ip_packet(
            *(remote, local, UDP, bytes(64)),
            extensions=bytes([UDP, 0, 0, 64, 0, 0, 0, 1]),
            first_header=FRAGMENT,
        )
    )
    frame = link_header(version, incoming=True) + fragment
    assert plane.ingress(frame).frame == frame
    assert plane.counted() == {}


@pytest.mark.parametrize("version", [4, 6])
def test_a_first_fragment_is_dropped_as_well(plane: Plane, version: int) -> None:
    remote, local = strict(plane, version)
    body = udp(remote, local, bytes(1000))[:520]
    fragment = (
        ip_packet(remote, local, UDP, body, fragment=0x2000)
        if version == 4
        else ip_packet(
            *(remote, local, UDP, body),
            extensions=bytes([UDP, 0, 0, 1, 0, 0, 0, 1]),
            first_header=FRAGMENT,
        )
    )
    frame = link_header(version, incoming=True) + fragment
    assert plane.ingress(frame).kind is Arrival.DROPPED
    assert plane.counted() == {"drop-rx-plain": 1}


def test_the_most_specific_filter_says_whether_it_is_strict(plane: Plane) -> None:
    remote, local = strict(plane, 4)
    plane.add_filter(Filter(Origin.LOCAL, local.address, local.port - 1, last_port=local.port + 1))
    other = Filter(Origin.REMOTE, remote.address, remote.port)
    wide = Filter(Origin.REMOTE, remote.address, 1, STRICT, last_port=65535)
    plane.add_filter(other)
    plane.add_filter(wide)
    second = end(str(local.address), local.port + 1)
    kinds = {
        target.port: plane.ingress(udp_frame(remote, target, b"plain", incoming=True)).kind
        for target in (local, second)
    }
    assert kinds == {local.port: Arrival.DROPPED, second.port: Arrival.PASSED}


def test_what_was_disguised_is_delivered(plane: Plane) -> None:
    conversation = talk(plane, 4, STRICT)
    plane.configure(flags=ConfigFlag.STRICT)
    conversation.connect()
    assert conversation.receive(conversation.data(b"disguised")).kind is Arrival.PASSED
