# SPDX-License-Identifier: GPL-2.0-only
"""The network changes under a running daemon: interfaces and programs come, go and change."""

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mimicd.kernel import bpf
from mimicd.kernel.netlink import EGRESS_PARENT, Netlink
from tests.netns.disguise import remote_and_local
from tests.netns.test_lifecycle import connections, without_sockets
from tests.rig.attachments import attachments
from tests.rig.bpffs import MountNamespace, system_bpffs
from tests.rig.daemon import Daemon, Foreground, command_path
from tests.rig.namespace import Namespace, wait_until
from tests.rig.network import Host, Network
from tests.rig.tcx import detach_tcx
from tests.rig.traffic import exchange, flow

PORT = 51820
WITHIN_S = 60.0  # a shared machine may be slow; nobody waits longer than needed
FILTER = ("-f", "remote=192.0.2.9:5000")


@pytest.fixture
def host(direct_network: Network) -> Host:
    return direct_network.a


def ip(host: Host, *words: str) -> None:
    host.namespace.run("ip", *words)


def make_pair(host: Host, name: str = "wan0", up: bool = True) -> None:
    ip(host, "link", "add", name, "type", "veth", "peer", "name", f"{name}-far")
    if up:
        ip(host, "link", "set", name, "up")


def views(daemon: Daemon) -> dict[str, dict[str, Any]]:
    listed = json.loads(daemon.ctl("list", "--json", check=True).stdout)
    return {view["name"]: view for view in listed}


def await_state(daemon: Daemon, name: str, state: str) -> None:
    def has() -> bool:
        found = views(daemon).get(name)
        return found is not None and found["state"] == state

    wait_until(has, WITHIN_S, f"{name} is {state}", every_s=0.1)


def await_log(daemon: Daemon | Foreground, words: str, times: int = 1) -> None:
    wait_until(lambda: daemon.log.count(words) >= times, WITHIN_S, f"{words!r} is logged")


def filtered(host: Host) -> set[str]:
    """The interfaces with our programs on both sides."""
    found = [line.split()[:2] for line in attachments(host).filters if "mimic_" in line]
    sides = {name: {hook for one, hook in found if one == name} for name, _ in found}
    return {name for name, hooks in sides.items() if len(hooks) == 2}


# --- interfaces ---


def test_an_interface_that_comes_back_is_attached_to_again(host: Host) -> None:
    make_pair(host)
    with Daemon(host) as daemon:
        daemon.ctl("run", "--detach", *FILTER, "wan0", check=True)
        ip(host, "link", "del", "wan0")
        await_state(daemon, "wan0", "waiting")
        assert filtered(host) == set()
        facts = daemon.ctl("show", "wan0", check=True).stdout
        assert facts.startswith("wan0: waiting")
        # One that is not up yet is waited for too.
        make_pair(host, up=False)
        ip(host, "link", "set", "wan0", "up")
        await_state(daemon, "wan0", "running")
        assert filtered(host) == {"wan0"}
        assert views(daemon)["wan0"]["filters"] == ["remote=192.0.2.9:5000"]
        daemon.ctl("stop", "wan0", check=True)
        assert "Traceback" not in daemon.log


def test_what_is_waited_for_outlives_the_daemon_and_takes_new_settings(host: Host) -> None:
    make_pair(host)
    with Daemon(host) as daemon:
        daemon.ctl("run", "--detach", *FILTER, "wan0", check=True)
        ip(host, "link", "del", "wan0")
        await_state(daemon, "wan0", "waiting")
        daemon.ctl("reload", "-f", "remote=192.0.2.7:7000", "wan0", check=True)
        daemon.kill()
        daemon.start()
        daemon.await_ready()
        await_state(daemon, "wan0", "waiting")
        make_pair(host)
        await_state(daemon, "wan0", "running")
        assert views(daemon)["wan0"]["filters"] == ["remote=192.0.2.7:7000"]


@pytest.mark.slow
def test_an_interface_that_went_while_no_daemon_ran_is_waited_for(host: Host) -> None:
    make_pair(host)
    before = attachments(host)
    with Daemon(host) as daemon:
        daemon.ctl("run", "--detach", *FILTER, "wan0", check=True)
        daemon.kill()
        ip(host, "link", "del", "wan0")
        make_pair(host)
        daemon.start()
        daemon.await_ready()
        await_state(daemon, "wan0", "running")
        assert filtered(host) == {"wan0"}
        # The pair beside the first one is gone.
        assert attachments(host).links == (*before.links, "wan0-hop0", "wan0-hop1")
        daemon.ctl("stop", "wan0", check=True)
        assert attachments(host).links == before.links


def test_interfaces_whose_names_begin_alike_have_a_hop_each(host: Host) -> None:
    names = ("enp0s31f6.100", "enp0s31f6.200")
    for number, name in enumerate(names):
        ip(host, "link", "add", name, "type", "veth", "peer", "name", f"far{number}")
        ip(host, "link", "set", name, "up")
    before = attachments(host)
    with Daemon(host) as daemon:
        for name in names:
            daemon.ctl("run", "--detach", *FILTER, name, check=True)
        assert "no hop" not in daemon.log
        number = host.namespace.call(lambda: socket.if_nametoindex(names[1]))
        hops = {"enp0s31f6.-hop0", "enp0s31f6.-hop1", f"m{number}-hop0", f"m{number}-hop1"}
        assert set(attachments(host).links) == {*before.links, *hops}
        daemon.kill()
        daemon.start()
        daemon.await_ready()
        for name in names:
            daemon.ctl("stop", name, check=True)
    assert attachments(host) == before


def test_mimicd_run_waits_for_its_interface_too(host: Host) -> None:
    make_pair(host)
    with Foreground(host, "run", *FILTER, "wan0") as program:
        await_log(program, "attached")
        ip(host, "link", "del", "wan0")
        await_log(program, "run again once there is one")
        make_pair(host)
        await_log(program, "attached", times=2)
        assert program.terminate() == 0
        assert filtered(host) == set()


def test_a_renamed_interface_keeps_its_connections_and_gets_another_object(
    routed_network: Network,
) -> None:
    net = routed_network
    at_a, at_b = remote_and_local(net, 4, PORT)
    with (
        Daemon(net.a) as daemon,
        Foreground(net.b, "run", "-f", at_b, "eth0") as other,
        daemon.client("monitor") as monitor,
        daemon.client("run", "-f", at_a, "eth0") as bound,
    ):
        other.await_words("attached")
        bound.await_words("eth0 is running")
        with flow(net.a, net.b, family=4, port_b=PORT) as (a, b):
            assert all(one.clean for one in exchange(a, b, [100] * 100))
            (before,) = connections(daemon)
            ip(net.a, "link", "set", "eth0", "name", "wan0")
            monitor.await_words("eth0: is called wan0 now")
            bound.await_words("eth0 is called wan0 now")
            assert set(views(daemon)) == {"wan0"}
            path = "/org/mimicd1/interface/wan0"
            words = daemon.bus.ask("org.mimicd1", path, "Interface.None")
            assert "UnknownMethod" in words or "UnknownInterface" in words
            assert "UnknownObject" in daemon.bus.ask(
                "org.mimicd1", "/org/mimicd1/interface/eth0", "Interface.None"
            )
            assert all(one.clean for one in exchange(a, b, [100] * 100))
            (after,) = connections(daemon)
            assert after["interface"] == "wan0"
            assert after["tx-packets"] == before["tx-packets"] + 100
            # A process that comes after it knows the new name.
            daemon.kill()
            daemon.start()
            daemon.await_ready()
            assert set(views(daemon)) == {"wan0"}
            assert all(one.clean for one in exchange(a, b, [100] * 100))
        bound.await_words("wan0 is running again")
        assert bound.terminate() == 0
        wait_until(lambda: views(daemon) == {}, WITHIN_S, "it is stopped")
        ip(net.a, "link", "set", "wan0", "name", "eth0")


@pytest.mark.slow
def test_two_interfaces_that_swap_their_names_keep_their_filters(host: Host) -> None:
    for name in ("one", "two"):
        make_pair(host, name)
    with Daemon(host) as daemon:
        for number, name in enumerate(("one", "two"), 1):
            daemon.ctl("run", "--detach", "-f", f"remote=192.0.2.9:{number}", name, check=True)
        batch = "link set one name x\nlink set two name one\nlink set x name two\n"
        host.namespace.run("ip", "-batch", "-", stdin=batch)

        def swapped() -> bool:
            found = {name: view["filters"] for name, view in views(daemon).items()}
            return found == {"one": ["remote=192.0.2.9:2"], "two": ["remote=192.0.2.9:1"]}

        wait_until(swapped, WITHIN_S, "the names are swapped", every_s=0.1)
        for name in ("one", "two"):
            daemon.ctl("stop", name, check=True)
        assert filtered(host) == set()
        assert "Traceback" not in daemon.log


def test_down_and_up_mtu_and_addresses_are_followed(host: Host) -> None:
    make_pair(host)
    with Daemon(host) as daemon:
        daemon.ctl("run", "--detach", "-f", "local=0.0.0.0:5000", "wan0", check=True)
        largest = views(daemon)["wan0"]["max-payload"]
        ip(host, "link", "set", "wan0", "mtu", "1400")

        def smaller() -> bool:
            return bool(views(daemon)["wan0"]["max-payload"] == largest - 100)

        wait_until(smaller, WITHIN_S, "the smaller MTU counts", every_s=0.1)
        ip(host, "link", "set", "wan0", "down")
        await_log(daemon, "the interface is down")
        ip(host, "link", "set", "wan0", "up")
        await_log(daemon, "the interface is up again")
        assert views(daemon)["wan0"]["state"] == "running"
        assert filtered(host) == {"wan0"}


def test_an_interface_that_moves_to_another_namespace_is_let_go(host: Host) -> None:
    make_pair(host)
    with Namespace("else") as other, Daemon(host) as daemon:
        daemon.ctl("run", "--detach", "-x", "native", *FILTER, "wan0", check=True)
        ip(host, "link", "set", "wan0", "netns", other.name)
        await_state(daemon, "wan0", "waiting")
        # It is said to be waited for as soon as it is gone, before all of it is detached.
        wait_until(
            lambda: "xdp" not in other.run("ip", "link", "show", "wan0").stdout,
            WITHIN_S,
            "XDP is detached over there",
        )
        assert "mimic_" not in other.run("tc", "qdisc", "show").stdout
        other.run("ip", "link", "set", "wan0", "netns", str(daemon.pid))
        ip(host, "link", "set", "wan0", "up")
        await_state(daemon, "wan0", "running")
        assert filtered(host) == {"wan0"}


# --- what somebody removes ---


@contextmanager
def daemon_with_pins(host: Host, mode: str) -> Iterator[tuple[Daemon, Path]]:
    with (
        system_bpffs(host.namespace) as mounts,
        Daemon(host, program=mounts.command(command_path("mimicd"))) as daemon,
    ):
        daemon.ctl("run", "--detach", "-x", mode, *FILTER, "eth0", check=True)
        yield daemon, pins_of(host, mounts)


def pins_of(host: Host, mounts: MountNamespace) -> Path:
    return mounts.path("/sys/fs/bpf") / "mimicd" / str(host.namespace.inode)


def remove_qdisc(host: Host, _pins: Path) -> None:
    host.namespace.run("tc", "qdisc", "del", "dev", "eth0", "clsact")


def remove_filter(host: Host, _pins: Path) -> None:
    host.namespace.run("tc", "filter", "del", "dev", "eth0", "egress")


def detach_links(host: Host, _pins: Path) -> None:
    host.namespace.call(lambda: detach_tcx(socket.if_nametoindex("eth0"), "ingress", "egress"))


def detach_link(host: Host, _pins: Path) -> None:
    host.namespace.call(lambda: detach_tcx(socket.if_nametoindex("eth0"), "egress"))


def remove_hop(host: Host, _pins: Path) -> None:
    ip(host, "link", "del", "eth0-hop0")


def detach_xdp(_host: Host, pins: Path) -> None:
    (pin,) = pins.rglob("xdp_link")
    fd = bpf.open_pin(pin)
    bpf.detach_link(fd)
    os.close(fd)


def remove_pins(_host: Host, pins: Path) -> None:
    shutil.rmtree(pins.parent)


REMOVALS = [remove_hop, detach_xdp, remove_pins]


@pytest.mark.parametrize("removals", [[detach_links, detach_link], [remove_qdisc, remove_filter]])
def test_what_somebody_removes_is_noticed_told_and_put_back(
    host: Host, removals: list[Callable[[Host, Path], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if remove_filter in removals:
        monkeypatch.setenv("MIMICD_NO_TCX", "1")
    before = attachments(host)
    with daemon_with_pins(host, "native") as (daemon, pins):
        shape, pinned = shape_of(host), names_below(pins)
        for remove in removals + REMOVALS:
            said = daemon.log.count("it is back")
            remove(host, pins)
            await_log(daemon, "it is back", said + 1)
            wait_until(lambda: shape_of(host) == shape, WITHIN_S, "all of it is back")
            wait_until(lambda: names_below(pins) == pinned, WITHIN_S, "the pins are back")
        # What was put back is what a later process takes over, and what a stop removes.
        daemon.kill()
        daemon.start()
        daemon.await_ready()
        assert "cannot take over" not in daemon.log
        daemon.ctl("stop", "eth0", check=True)
        assert daemon.terminate() == 0
        assert without_sockets(host) == (
            before.links,
            before.qdiscs,
            before.filters,
            before.xdp,
            (),
        )


def shape_of(host: Host) -> tuple[object, ...]:
    """What is attached, without the numbers that the kernel gives."""
    found = attachments(host)
    xdp = [(line.split()[0], line.split()[2]) for line in found.xdp]
    return found.links, len(found.qdiscs), len(found.filters), xdp


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_program_in_place_of_ours_is_replaced(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It bears our priority and handle, and is another one. Of links nobody can replace any."""
    monkeypatch.setenv("MIMICD_NO_TCX", "1")
    with Daemon(host) as daemon:
        daemon.ctl("run", "--detach", *FILTER, "eth0", check=True)
        ours = attachments(host).filters
        host.namespace.call(lambda: asyncio.run(put_in_place_of_ours(host)))
        await_log(daemon, "somebody removed the TC program mimic_egress; it is back")
        assert attachments(host).filters == ours


async def put_in_place_of_ours(host: Host) -> None:
    sched_cls, nothing = 3, bytes.fromhex("b700000000000000 9500000000000000")
    program = bpf.load_program(sched_cls, nothing, "somebody")
    net = Netlink()
    await net.open()
    try:
        link = await net.link(host.interface)
        await net.add_filter(link.ifindex, EGRESS_PARENT, program, "somebody")
    finally:
        await net.close()
        os.close(program)


# --- messages that are lost ---


def test_lost_netlink_messages_lead_to_a_full_look(host: Host) -> None:
    """While it stands still, more happens than its socket can hold."""
    make_pair(host)
    with Daemon(host) as daemon:
        daemon.ctl("run", "--detach", *FILTER, "wan0", check=True)
        daemon.signal(signal.SIGSTOP)
        flaps = "".join(f"link set wan0-far mtu {mtu}\n" for mtu in range(1000, 1480)) * 3
        host.namespace.run("ip", "-batch", "-", stdin=flaps)
        assert overflowed(daemon)
        ip(host, "link", "set", "wan0", "name", "last0")
        daemon.signal(signal.SIGCONT)
        await_state(daemon, "last0", "running")


def overflowed(daemon: Daemon) -> bool:
    """Whether a netlink socket of the process has dropped messages (proc_net_netlink)."""
    table = Path(f"/proc/{daemon.pid}/net/netlink").read_text().splitlines()
    rows = [dict(zip(table[0].split(), line.split(), strict=True)) for line in table[1:]]
    return any(int(row["Drops"]) for row in rows)
