# SPDX-License-Identifier: GPL-2.0-only
"""A router on the way has less room than the interface: the sender of the datagrams learns it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netns.disguise import data_segments
from tests.netns.talk import heard, say
from tests.rig.capture import Capture
from tests.rig.daemon import Daemon
from tests.rig.namespace import wait_until
from tests.rig.network import Network, routed
from tests.rig.traffic import Endpoint, flow

PORT, ROUTER_MTU_BYTES, PADDING = 51820, 1400, 5
DISGUISE_BYTES = 12 + PADDING
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU = 10, 2, 14
IPV6_MTU_DISCOVER, IPV6_MTU = 23, 24
WITHIN_S = 10.0


@pytest.fixture(scope="module", params=["native", "none"])
def disguised(request: pytest.FixtureRequest) -> Iterator[Network]:
    with routed() as net, Daemon(net.a) as a, Daemon(net.b) as b:
        net.router.set_mtu("b", ROUTER_MTU_BYTES)
        settings = ("-p", str(PADDING), "-x", request.param)
        remotes = (f"remote={net.b.address(4)}:{PORT}", f"remote=[{net.b.address(6)}]:{PORT}")
        locals_ = (f"local=0.0.0.0:{PORT}", f"local=[::]:{PORT}")
        for daemon, filters in ((a, remotes), (b, locals_)):
            words = [word for one in filters for word in ("-f", one)]
            daemon.ctl("run", "--detach", *settings, *words, "eth0", check=True)
        yield net
        shown = a.ctl("show", "--json", "eth0", check=True).stdout
        assert '"rx-path-mtu": ' in shown


@contextmanager
def discovering(net: Network, family: int) -> Iterator[tuple[Endpoint, Endpoint]]:
    with flow(net.a, net.b, family, port_b=PORT) as (near, far):
        level, option = (
            (socket.IPPROTO_IP, IP_MTU_DISCOVER)
            if family == 4
            else (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER)
        )
        near.socket.setsockopt(level, option, IP_PMTUDISC_DO)
        yield near, far


def known_mtu(near: Endpoint, family: int) -> int:
    if family == 4:
        return near.socket.getsockopt(socket.IPPROTO_IP, IP_MTU)
    return near.socket.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)


@pytest.mark.parametrize("family", [4, 6])
def test_the_sender_learns_the_mtu_of_the_path(
    disguised: Network, family: int, tmp_path: Path
) -> None:
    net = disguised
    fits = ROUTER_MTU_BYTES - DISGUISE_BYTES - (28 if family == 4 else 48)
    with (
        discovering(net, family) as (near, far),
        Capture(net.a.namespace, "eth0", tmp_path / "a.pcap", "tcp or udp") as wire,
    ):
        say(near, b"small")
        assert heard(far) == [b"small"]
        near.socket.send(bytes(fits + 1))
        wait_until(
            lambda: known_mtu(near, family) == ROUTER_MTU_BYTES - DISGUISE_BYTES,
            WITHIN_S,
            "the sender has learned it",
        )
        # the error that taught it is told to the socket, once
        near.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        with pytest.raises(OSError, match="Message too long"):
            near.socket.send(bytes(fits + 1))
        say(near, b"x" * fits)
        assert heard(far) == [b"x" * fits]
    report = wire.analysis().everything()
    assert report.udp == 0
    assert data_segments(report) == 3
