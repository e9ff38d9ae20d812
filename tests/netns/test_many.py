# SPDX-License-Identifier: GPL-2.0-only
"""A thousand connections at once, of which twenty end while the others go on undisturbed."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.netns.disguise import handshakes, remote_and_local, wire_capture
from tests.rig.daemon import Daemon
from tests.rig.echo import EchoServer, ask_all
from tests.rig.namespace import wait_until
from tests.rig.network import Network, routed
from tests.rig.traffic import Endpoint, endpoint

LASTING_PORT = 51820
STALE_PORT = 51821
LASTING = 980
STALE = 20
STALE_S = 3
FIRST_PORT = 20_000
ANSWERED_WITHIN_S = 60.0
"""A shared machine may be slow; nobody waits longer than needed."""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with routed() as network:
        yield network


@pytest.fixture(scope="module")
def daemons(net: Network) -> Iterator[tuple[Daemon, Daemon]]:
    """The daemon at both hosts; only A gives up what is stale, and only on one port."""
    lasting = remote_and_local(net, 4, LASTING_PORT)
    stale = remote_and_local(net, 4, STALE_PORT)
    at_a = lasting[0], f"{stale[0]},keepalive=0:::{STALE_S}"
    with Daemon(net.a) as a, Daemon(net.b) as b:
        for daemon, filters in ((a, at_a), (b, (lasting[1], stale[1]))):
            options = [word for text in filters for word in ("-f", text)]
            daemon.ctl("run", "--detach", *options, daemon.host.interface, check=True)
        yield a, b


def test_twenty_of_a_thousand_connections_grow_stale_while_the_others_carry_data(
    net: Network, daemons: tuple[Daemon, Daemon], tmp_path: Path
) -> None:
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
        all_answered(stale, stale_server)
        assert [established(daemon) for daemon in daemons] == [
            {LASTING_PORT: LASTING, STALE_PORT: STALE}
        ] * 2

        rounds = 0

        def carry_on() -> bool:
            nonlocal rounds
            all_answered(lasting, lasting_server)
            rounds += 1
            return established(daemons[0]) == {LASTING_PORT: LASTING}

        wait_until(carry_on, 60, "the stale connections closed")
        # The reset reached the other end, and both have forgotten nothing else.
        wait_until(
            lambda: established(daemons[1]) == {LASTING_PORT: LASTING}, 10, "closed at B too"
        )
        all_answered(lasting, lasting_server)
        closed = capture_so_far = len(stale)
        # No cooldown after that: whoever has something to say again just connects.
        all_answered(stale, stale_server)
        ends = [
            (client.text, server.endpoint.text)
            for group, server in ((lasting, lasting_server), (stale, stale_server))
            for client in group
        ]
        analysis = capture.analysis()
