# SPDX-License-Identifier: GPL-2.0-only
"""What no longer fits once it is disguised: told to who sent it, here or behind a forwarder."""

import errno
import socket
from collections.abc import Iterator

import pytest

from tests.matrix.cells import MASQUERADED_PORT, PORT, WITHIN_S, Scene, scene_of
from tests.matrix.links import KINDS
from tests.rig.namespace import Namespace, wait_until
from tests.rig.traffic import open_udp

pytestmark = pytest.mark.root

IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DO, IP_MTU = 10, 0, 2, 14
IPV6_MTU_DISCOVER, IPV6_MTU = 23, 24
MTU_BYTES, DISGUISE_BYTES = 1500, 12


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with scene_of(KINDS["veth"]) as found, found.data_path("none"):
        yield found


def discover(udp: socket.socket, family: int, how: int) -> None:
    if family == 4:
        udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, how)
    else:
        udp.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, how)


def mtu_known_to(udp: socket.socket, family: int) -> int:
    if family == 4:
        return udp.getsockopt(socket.IPPROTO_IP, IP_MTU)
    return udp.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("sender", ["A", "forwarded", "masqueraded"])
def test_the_sender_learns_what_fits(scene: Scene, sender: str, family: int) -> None:
    net = scene.net
    source: Namespace = net.a.namespace if sender == "A" else scene.c
    port = MASQUERADED_PORT if sender == "masqueraded" else PORT
    largest = MTU_BYTES - (28 if family == 4 else 48)
    # what an earlier test has taught
    for word in ("-4", "-6"):
        source.run("ip", word, "route", "flush", "cache")
        net.a.namespace.run("ip", word, "route", "flush", "cache")
    with open_udp(source, family) as near, open_udp(net.b.namespace, family) as far:
        far.bind((net.b.address(family), port))
        discover(near, family, IP_PMTUDISC_DO)
        near.connect((net.b.address(family), port))
        near.send(bytes(largest - DISGUISE_BYTES))
        wait_until(lambda: readable(far), WITHIN_S, "what fits arrives")
        assert not is_refused(near, largest)

        def learned() -> bool:
            return mtu_known_to(near, family) == MTU_BYTES - DISGUISE_BYTES

        wait_until(learned, WITHIN_S, "the sender has learned the MTU")
        assert is_refused(near, largest)
        assert not is_refused(near, largest - DISGUISE_BYTES)
        wait_until(lambda: readable(far), WITHIN_S, "what fits arrives again")


def is_refused(udp: socket.socket, size: int) -> bool:
    """Whether the kernel refuses a datagram of this size as too big."""
    # what an ICMP error told about an earlier one is not about this one
    udp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    try:
        udp.send(bytes(size))
    except OSError as error:
        return error.errno == errno.EMSGSIZE
    return False


def readable(udp: socket.socket) -> bool:
    try:
        return bool(udp.recv(1 << 16))
    except BlockingIOError:
        return False


def test_without_dont_fragment_it_is_dropped_and_what_fits_goes_on(scene: Scene) -> None:
    net = scene.net
    with open_udp(net.a.namespace) as near, open_udp(net.b.namespace) as far:
        far.bind((net.b.address(), PORT))
        discover(near, 4, IP_PMTUDISC_DONT)
        near.connect((net.b.address(), PORT))
        near.send(b"fits")
        near.send(bytes(MTU_BYTES - 28))
        near.send(b"fits too")
        came: list[bytes] = []

        def both() -> bool:
            try:
                came.append(far.recv(1 << 16))
            except BlockingIOError:
                return False
            return came[-1] == b"fits too"

        wait_until(both, WITHIN_S, "what fits arrives")
        assert came == [b"fits", b"fits too"]
