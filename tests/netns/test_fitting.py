# SPDX-License-Identifier: GPL-2.0-only
"""What fits: the MSS of a SYN follows the MTU; fragments and what is too big are counted."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.netns.talk import heard, say
from tests.rig.daemon import Daemon
from tests.rig.namespace import wait_until
from tests.rig.network import Network
from tests.rig.segment import SYN, Segment, decode_packet, decode_syn_options
from tests.rig.traffic import flow

PORT, MTU_BYTES, DISGUISE_BYTES = 51820, 1500, 12
WITHIN_S = 10.0
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DONT = 10, 23, 0
ETH_P_ALL, LINK_BYTES = 3, 14


@contextmanager
def listening(net: Network) -> Iterator[socket.socket]:
    """What arrives at B's interface."""
    with net.b.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((net.b.interface, ETH_P_ALL))
        raw.settimeout(WITHIN_S)
        yield raw


def next_syn(raw: socket.socket, port: int) -> Segment:
    """To that port; an earlier connection may still repeat its own."""
    while True:
        segment = decode_packet(raw.recv(1 << 16)[LINK_BYTES:])
        if segment is not None and (segment.flags, segment.target.port) == (SYN, port):
            return segment


def end_of(net: Network, family: int, port: int = PORT) -> str:
    address = net.b.address(family)
    return f"{address}:{port}" if family == 4 else f"[{address}]:{port}"


@pytest.mark.parametrize("family", [4, 6])
def test_the_mss_of_a_syn_follows_the_mtu(direct_network: Network, family: int) -> None:
    net, headers = direct_network, 40 if family == 4 else 60
    with Daemon(net.a) as daemon, listening(net) as raw:
        filters = [f"remote={end_of(net, family, PORT + turn)}" for turn in range(3)]
        words = [word for one in filters for word in ("-f", one)]
        daemon.ctl("run", "--detach", *words, "eth0", check=True)
        for turn, mtu in enumerate((MTU_BYTES, 1400, 1452)):
            net.a.set_mtu(mtu)
            largest = mtu - headers + 20 - 8 - DISGUISE_BYTES

            def told(largest: int = largest) -> bool:
                return f'max-payload": {largest}' in daemon.ctl("show", "--json", "eth0").stdout

            wait_until(told, WITHIN_S, f"an MTU of {mtu} counts")
            with flow(net.a, net.b, family, port_b=PORT + turn) as (a, _):
                say(a, b"opens")
                options = decode_syn_options(next_syn(raw, PORT + turn).options)
            assert options is not None
            assert options.mss == mtu - headers


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_and_what_is_too_big_are_dropped_and_counted(
    direct_network: Network, family: int
) -> None:
    net = direct_network
    end = end_of(net, family)
    headers = 28 if family == 4 else 48
    with Daemon(net.a) as near, Daemon(net.b) as far:
        far.ctl("run", "--detach", "-f", f"local={end}", "eth0", check=True)
        near.ctl("run", "--detach", "-f", f"remote={end}", "eth0", check=True)
        with flow(net.a, net.b, family, port_b=PORT) as (a, b):
            if family == 4:
                a.socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)
            else:
                a.socket.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DONT)
            say(a, b"fits")
            assert heard(b) == [b"fits"]
            say(a, bytes(3000), bytes(MTU_BYTES - headers), b"fits again")
            assert heard(b) == [b"fits again"]
            assert heard(b, within_s=0.01) == []
        shown = " ".join(near.ctl("show", "eth0", check=True).stdout.split())
        assert "drop-fragment 1 " in f"{shown} "
        assert "drop-too-big 1 " in f"{shown} "
