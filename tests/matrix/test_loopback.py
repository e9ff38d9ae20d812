# SPDX-License-Identifier: GPL-2.0-only
"""Both ends on one host: what is sent on the loopback interface is disguised and restored there."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.matrix.cells import WITHIN_S, received
from tests.matrix.senders import SENDERS
from tests.matrix.tap import tap
from tests.rig.daemon import Foreground
from tests.rig.network import Host, Network, direct
from tests.rig.traffic import open_udp

pytestmark = pytest.mark.root

PORT, LARGEST_BYTES, LO_MTU_BYTES = 51820, 1400, 65536
# all but superpackets: docs/links.md
NAMES = ("plain", "sendfile", "MSG_MORE", "no checksum")


@contextmanager
def looped(net: Network) -> Iterator[Host]:
    host = Host(net.a.namespace, net.a.ipv4, net.a.ipv6, net.a.mac, net.a.mac, "lo")
    host.namespace.sysctl({f"ipv4/conf/lo/{key}": 1 for key in ("accept_local", "route_localnet")})
    ends = [f"{word}={address}:{PORT}" for word in ("local", "remote") for address in ADDRESSES]
    words = [word for end in ends for word in ("-f", end)]
    with Foreground(host, "run", *words, "lo") as program:
        program.await_words("attached (XDP")
        yield host


ADDRESSES = ("127.0.0.1", "[::1]")


def test_datagrams_cross_the_loopback_interface_as_tcp() -> None:
    with (
        direct() as net,
        looped(net) as host,
        tap(host.namespace, "lo", LO_MTU_BYTES) as watch,
    ):
        for name in NAMES:
            for family, address in ((4, "127.0.0.1"), (6, "::1")):
                with (
                    open_udp(host.namespace, family) as near,
                    open_udp(host.namespace, family) as far,
                ):
                    far.bind((address, PORT))
                    near.connect((address, PORT))
                    near.send(b"hello")
                    assert received(far, 1) == [b"hello"]
                    near.settimeout(WITHIN_S)
                    sent = SENDERS[name].send(near, LARGEST_BYTES, random.Random(name))
                    assert received(far, len(sent)) == sent, (name, family)
                seen = watch.take(PORT)
                assert seen.faults == []
                assert seen.segments > len(sent)
