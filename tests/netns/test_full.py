# SPDX-License-Identifier: GPL-2.0-only
"""65,536 connections: the next one is refused, the others go on, and the daemon stays at ease.

All but a few stand in the kernel's map though nobody ever opened them: that takes a second, where
handshakes take minutes. The daemon learns of them as it does after a restart.
"""

import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mimicd.core import abi
from mimicd.kernel import bpf
from tests.netns.test_footprint import processor_s
from tests.netns.test_long_lists import conns_pin
from tests.rig.bpffs import system_bpffs
from tests.rig.daemon import ROOT, Daemon, command_path
from tests.rig.echo import EchoServer, ask, ask_all
from tests.rig.namespace import wait_until
from tests.rig.network import Network
from tests.rig.traffic import Endpoint, endpoint

PORT = 51820
FULL = abi.MAX_CONNECTIONS
LIVING = 20
SHOWN_MAX_S = 12.0
"""Processor time of both, the daemon and the client."""
STALL_MAX_S = 0.1
REST_S = 5.0
REST_MAX = 0.002
EMPTY_WITHIN_S = 120.0
"""A shared machine may be slow; nobody waits longer than needed."""
LATER = "keepalive=3600:10:3:0"
"""Each has a deadline, which is not met in the time of a test."""


def of_our_children_s() -> float:
    """Processor time of the programs that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def full_house(net: Network) -> Iterator[tuple[Daemon, list[Endpoint], EchoServer]]:
    """A daemon at A that keeps as many connections as it may, of which LIVING carry data.

    From its next start on its event loop is watched.
    """
    with ExitStack() as stack:
        mounts = stack.enter_context(system_bpffs(net.a.namespace))
        plain = mounts.command(command_path("mimicd"))
        watched = mounts.command(sys.executable, "-m", "tests.netns.beating")
        program = Daemon(net.a, program=plain, env={"PYTHONPATH": str(ROOT)})
        daemon = stack.enter_context(program)
        other = stack.enter_context(Daemon(net.b))
        server = stack.enter_context(EchoServer(net.b, PORT))
        end = f"{net.b.address()}:{PORT}"
        daemon.ctl("run", "--detach", "-f", f"remote={end},{LATER}", "eth0", check=True)
        other.ctl("run", "--detach", "-f", f"local={end},{LATER}", "eth0", check=True)
        clients = [stack.enter_context(endpoint(net.a)) for _ in range(LIVING)]
        assert ask_all(clients, server.endpoint) == LIVING
        fill_up(conns_pin(net.a, mounts))
        hand_over(daemon)
        daemon.run_as(*watched)
        yield daemon, clients, server


def hand_over(daemon: Daemon) -> None:
    """To the next process; what is attached stays."""
    daemon.signal(signal.SIGUSR2)
    assert daemon.wait() == 0
    daemon.start()
    daemon.await_ready()


def at_rest(daemon: Daemon) -> float:
    """The part of a processor that it uses when nothing happens."""
    before_s, until_s = processor_s(daemon.pid), time.monotonic() + REST_S
    wait_until(lambda: time.monotonic() >= until_s, REST_S + 30, "rest", every_s=0.5)
    return (processor_s(daemon.pid) - before_s) / REST_S


def fill_up(pin: Path) -> None:
    """Like one that lives, towards ends that nobody has."""
    fd = bpf.open_pin(pin)
    conns = bpf.Map(fd, abi.FLOW_KEY.size, abi.CONN_BYTES)
    found = list(conns.items())
    assert len(found) == LIVING
    local, remote = ip_address("192.0.2.1"), ip_address("198.51.100.9")
    for number in range(FULL - LIVING):
        conns.update(abi.encode_flow(local, 1 + number % 65535, remote, 9), found[0][1])
    assert len(list(conns.items())) == FULL
    os.close(fd)


def shown(daemon: Daemon) -> dict[str, Any]:
    answer = daemon.ctl("show", "--json", check=True, timeout_s=120)
    facts: dict[str, Any] = json.loads(answer.stdout)
    return facts


def counter(daemon: Daemon, name: str) -> int:
    answer = daemon.ctl("show", "--json", "--process", check=True, timeout_s=120)
    (interface,) = json.loads(answer.stdout)["interfaces"]
    return int(interface["counters"].get(name, 0))


def longest_stall_s(daemon: Daemon) -> float:
    daemon.signal(signal.SIGUSR2)
    assert daemon.wait() == 0
    return max(float(stall) for stall in re.findall(r"longest stall ([\d.]+) s", daemon.log))


def test_the_map_of_connections_is_full_and_everybody_else_goes_on(direct_network: Network) -> None:
    net = direct_network
    with full_house(net) as (daemon, clients, server), endpoint(net.a) as newcomer:
        used, resident_kib = at_rest(daemon), daemon.resident_kib()
        newcomer.socket.sendto(b"too late", (net.b.address(), PORT))
        daemon.await_words("connections are kept already")
        assert counter(daemon, "drop-map-full") == 1
        assert ask_all(clients, server.endpoint) == LIVING
        hand_over(daemon)
        before_s = processor_s(daemon.pid) + of_our_children_s()
        connections = shown(daemon)["connections"]
        shown_s = processor_s(daemon.pid) + of_our_children_s() - before_s
        assert len({one["local"] + one["remote"] for one in connections}) == FULL
        stall_s = longest_stall_s(daemon)
        print(
            f"{FULL} connections: {used:.4%} of a processor at rest, {resident_kib} KiB, shown for"
            f" {shown_s:.1f} s of it, longest stall {stall_s * 1000:.1f} ms"
        )
        # timers are deadlines: so many that rest cost nothing
        assert used <= REST_MAX
        assert shown_s <= SHOWN_MAX_S
        assert stall_s <= STALL_MAX_S


@pytest.mark.slow
def test_all_of_them_grow_stale_at_once_and_then_there_is_room(direct_network: Network) -> None:
    net = direct_network
    with full_house(net) as (daemon, _, server), endpoint(net.a) as newcomer:
        hand_over(daemon)
        end = f"{net.b.address()}:{PORT}"
        began_s = time.monotonic()
        daemon.ctl("reload", "-f", f"remote={end},keepalive=0:::1", "eth0", check=True)

        def nobody_is_left() -> bool:
            return counter(daemon, "tx-rst") >= FULL

        wait_until(nobody_is_left, EMPTY_WITHIN_S, "all are reset")
        gone_s = time.monotonic() - began_s
        assert ask(newcomer, server.endpoint)
        stall_s = longest_stall_s(daemon)
        print(f"{FULL} stale: reset in {gone_s:.1f} s, longest stall {stall_s * 1000:.1f} ms")
        assert stall_s <= 2 * STALL_MAX_S
