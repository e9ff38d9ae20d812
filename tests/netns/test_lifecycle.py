# SPDX-License-Identifier: GPL-2.0-only
"""The daemon stops, dies, hands over and comes back: what its flows notice of that.

What it leaves on an interface is compared in test_leftovers.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.netns.disguise import remote_and_local, wire_capture
from tests.netns.talk import heard, say_until
from tests.rig.analysis import RST, Report
from tests.rig.attachments import Attachments, attachments
from tests.rig.bpffs import system_bpffs
from tests.rig.capture import Capture
from tests.rig.daemon import Daemon, Foreground, command_path
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network
from tests.rig.traffic import bulk, exchange, flow

PORT = 51820
WITHIN_S = 30.0


@contextmanager
def both_running(net: Network) -> Iterator[tuple[Daemon, Daemon]]:
    """The daemon at A and B, with their filters, over D-Bus."""
    at_a, at_b = remote_and_local(net, 4, PORT)
    with Daemon(net.a) as a, Daemon(net.b) as b:
        a.ctl("run", "--detach", "-f", at_a, "eth0", check=True)
        b.ctl("run", "--detach", "-f", at_b, "eth0", check=True)
        yield a, b


def connections(daemon: Daemon) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(daemon.ctl("show", "--json", check=True).stdout)[
        "connections"
    ]
    return listed


def with_state(folder: Path) -> dict[str, str]:
    """The environment of a daemon that finds the state of another one."""
    return {**os.environ, "RUNTIME_DIRECTORY": str(folder)}


def kill(daemon: Daemon) -> None:
    daemon.kill()


def hand_over(daemon: Daemon) -> None:
    daemon.signal(signal.SIGUSR2)
    assert daemon.wait() == 0


ENDS = pytest.mark.parametrize("end", [kill, hand_over])


def resets_from(capture: Capture, host: Host) -> int:
    packets = capture.analysis().everything().packets
    return sum(
        packet.source.startswith(f"{host.address(4)}:") and bool(packet.flags & RST)
        for packet in packets
    )


# --- it stops ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_resets_the_peers_and_leaves_nothing(
    routed_network: Network, tmp_path: Path, number: signal.Signals
) -> None:
    net = routed_network
    before = attachments(net.a)
    with both_running(net) as (a, b), flow(net.a, net.b, family=4, port_b=PORT) as (at_a, at_b):
        exchange(at_a, at_b, count=200, largest_bytes=100, seed=1)
        with wire_capture(net, tmp_path / "wire.pcap") as capture:
            a.signal(number)
            assert a.wait() == 0
        assert resets_from(capture, net.a) == 1
        assert [one["state"] for one in connections(b)] == ["idle"]
        assert "Traceback" not in a.log
        assert attachments(net.a) == before
        assert net.router.firewall.invalid() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_what_has_begun_to_stop_is_stopped_although_the_daemon_ends(
    direct_network: Network, number: signal.Signals
) -> None:
    host = direct_network.a
    before = attachments(host)
    with Daemon(host) as daemon:
        caller = host.namespace.start(
            *(command_path("mimicctl"), "--address", daemon.bus.address, "run"),
            *("-f", "remote=192.0.2.9:5000", "eth0"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        daemon.await_words("attached (")
        caller.kill()
        wait_until(lambda: "stopping" in phases(daemon), WITHIN_S, "a stop begins", every_s=0.001)
        daemon.signal(number)
        assert daemon.wait() == 0
        caller.wait()
        assert attachments(host) == before
        assert phases(daemon) == []
        assert "Traceback" not in daemon.log


def records(daemon: Daemon) -> list[dict[str, Any]]:
    """What is written down for a later process."""
    texts = []
    for path in daemon.runtime.rglob("*.json"):
        with suppress(FileNotFoundError):
            texts.append(path.read_text())
    return [json.loads(text) for text in texts]


def phases(daemon: Daemon) -> list[str]:
    return [record["phase"] for record in records(daemon)]


# --- it dies or hands over, and the next one takes over ---


@ENDS
def test_established_flows_outlive_the_daemon_and_the_next_one_adopts_them(
    routed_network: Network, tmp_path: Path, end: Callable[[Daemon], None]
) -> None:
    net = routed_network
    with both_running(net) as (a, b), flow(net.a, net.b, family=4, port_b=PORT) as (at_a, at_b):
        exchange(at_a, at_b, count=200, largest_bytes=100, seed=1)
        (first,) = connections(a)
        attached = without_sockets(net.a)
        with wire_capture(net, tmp_path / "wire.pcap") as capture:
            end(a)
            assert without_sockets(net.a) == attached
            orphaned = exchange(at_a, at_b, count=2000, largest_bytes=1400, seed=2)
            a.start()
            a.await_ready()
            adopted = exchange(at_a, at_b, count=2000, largest_bytes=1400, seed=3)
        report = capture.analysis().flow(at_a.text, at_b.text)
        assert all(verdict.clean for verdict in (*orphaned, *adopted))
        assert_undisturbed(report)
        (now,) = connections(a)
        same = ("local", "remote", "state", "role", "filter", "interface", "peer-mss")
        assert {key: now[key] for key in same} == {key: first[key] for key in same}
        assert now["tx-packets"] == first["tx-packets"] + 4000
        assert now["rx-packets"] == first["rx-packets"] + 4000
        assert now["seq"] == connections(b)[0]["ack"]
        assert without_sockets(net.a) == attached
        a.ctl("stop", "eth0", check=True)
        assert not attachments(net.a).filters


def without_sockets(host: Host) -> tuple[object, ...]:
    """What is attached and no process's own: all but packet sockets."""
    found: Attachments = attachments(host)
    return (found.links, found.qdiscs, found.filters, found.xdp, found.pins)


def assert_undisturbed(report: Report) -> None:
    assert report.tcp > 0
    assert report.faults() == []
    assert "S" not in "".join(report.flag_sequence)


def test_new_flows_come_up_without_the_daemon(routed_network: Network, tmp_path: Path) -> None:
    """What a cold connection holds is lost then; what follows arrives."""
    net = routed_network
    with both_running(net) as (a, b):
        a.kill()
        b.kill()
        with (
            flow(net.a, net.b, family=4, port_b=PORT) as (at_a, at_b),
            wire_capture(net, tmp_path / "wire.pcap") as capture,
        ):
            say_until(
                at_a,
                b"are you there?",
                lambda: bool(heard(at_b, 1, within_s=0.05)),
                WITHIN_S,
                "a datagram arrives without any daemon",
            )
            heard(at_b, 100, within_s=0.2)  # those that came right behind it
            verdict = bulk(at_a, at_b, 2_000_000)
            ends = at_a.text, at_b.text
        assert verdict.clean, verdict
        report = capture.analysis().flow(*ends)
        assert report.udp == 0
        assert report.tcp > verdict.sent


@ENDS
def test_a_bpffs_of_the_system_is_used_where_there_is_one(
    direct_network: Network, end: Callable[[Daemon], None]
) -> None:
    net = direct_network
    at_a, at_b = remote_and_local(net, 4, PORT)
    with system_bpffs(net.a.namespace) as mounts:
        pins = mounts.path("/sys/fs/bpf") / "mimicd" / str(net.a.namespace.inode)
        with (
            Daemon(net.a, program=mounts.command(command_path("mimicd"))) as daemon,
            Foreground(net.b, "run", "-f", at_b, "eth0") as other,
        ):
            other.await_words("attached")
            daemon.ctl("run", "--detach", "-f", at_a, "eth0", check=True)
            assert list(pins.rglob("conns"))
            with flow(net.a, net.b, family=4, port_b=PORT) as (a, b):
                assert all(one.clean for one in exchange(a, b, [100] * 100))
                # whoever answers has nothing held in its hands
                assert [one["state"] for one in connections(daemon)] == ["established"]
                end(daemon)
                assert all(one.clean for one in exchange(a, b, [100] * 100))
                daemon.start()
                daemon.await_ready()
                assert [one["state"] for one in connections(daemon)] == ["established"]
                assert all(one.clean for one in exchange(a, b, [100] * 100))
            assert daemon.terminate() == 0
            assert not pins.exists()


def test_mimicd_run_takes_over_and_applies_its_own_filters(routed_network: Network) -> None:
    net = routed_network
    at_a, at_b = remote_and_local(net, 4, PORT)
    more = f"remote={net.b.address()}:{PORT + 1}"
    with (
        Foreground(net.a, "run", "-f", at_a, "eth0") as ours,
        Foreground(net.b, "run", "-f", at_b, "eth0") as other,
        flow(net.a, net.b, family=4, port_b=PORT) as (a, b),
    ):
        for program in (ours, other):
            program.await_words("attached")
        assert all(one.clean for one in exchange(a, b, [100] * 100))
        ours.kill()
        with Foreground(
            *(net.a, "run", "-f", more, "-f", at_a, "eth0"),
            env=with_state(ours.folder),
        ) as next_one:
            next_one.await_words("reloaded: 2 filters")
            assert all(one.clean for one in exchange(a, b, [100] * 100))
            assert next_one.terminate() == 0
        assert not attachments(net.a).filters


def test_who_held_what_was_being_stopped_holds_nothing_later(direct_network: Network) -> None:
    host = direct_network.a
    run = ("run", "--detach", "-f", "remote=192.0.2.9:5000", "eth0")
    with Daemon(host) as daemon:
        daemon.ctl(*run, check=True)
        daemon.kill()
        (path,) = daemon.runtime.rglob("*.json")
        left = json.loads(path.read_text()) | {"phase": "stopping", "holder": "dbus x :1.99"}
        path.write_text(json.dumps(left))
        daemon.start()
        daemon.await_ready()
        daemon.await_words("died while it was stopping")
        daemon.ctl(*run, check=True)
        assert [(one["phase"], one["holder"]) for one in records(daemon)] == [("running", "")]


def test_what_is_pinned_but_not_known_any_more_is_replaced(direct_network: Network) -> None:
    """As when the folder of state went away with a service that was killed."""
    host = direct_network.a
    with system_bpffs(host.namespace) as mounts:
        with Daemon(host, program=mounts.command(command_path("mimicd"))) as daemon:
            daemon.ctl("run", "--detach", "-f", "remote=192.0.2.9:5000", "eth0", check=True)
            daemon.kill()
            shutil.rmtree(daemon.runtime)
            daemon.runtime.mkdir(mode=0o755)
            daemon.start()
            daemon.await_ready()
            assert daemon.ctl("list", check=True).stdout == ""
            daemon.ctl("run", "--detach", "-f", "remote=192.0.2.9:5001", "eth0", check=True)
            daemon.ctl("stop", "eth0", check=True)
        found = attachments(host)
        assert (found.filters, found.xdp) == ((), ())


# --- two of them ---


def test_what_one_daemon_serves_another_leaves_alone(routed_network: Network) -> None:
    net = routed_network
    at_a, _ = remote_and_local(net, 4, PORT)
    with (
        both_running(net) as (a, _b),
        flow(net.a, net.b, family=4, port_b=PORT) as (at_a_end, at_b),
    ):
        assert all(one.clean for one in exchange(at_a_end, at_b, [100] * 100))
        before = attachments(net.a)
        same_state = with_state(a.runtime)
        with Foreground(net.a, "run", "-f", at_a, "eth0", env=same_state) as second:
            assert second.wait() == 1
            assert "eth0 is running already, served by another mimicd" in second.log
        with Foreground(net.a, "--address", a.bus.address, env=same_state) as third:
            assert third.wait() == 3
            assert "another mimicd is running there" in third.log
        assert attachments(net.a) == before
        assert all(one.clean for one in exchange(at_a_end, at_b, [100] * 100))


def test_a_daemon_that_cannot_reach_its_bus_leaves_what_it_found(routed_network: Network) -> None:
    net = routed_network
    with both_running(net) as (a, _b), flow(net.a, net.b, family=4, port_b=PORT) as (at_a, at_b):
        assert all(one.clean for one in exchange(at_a, at_b, [100] * 100))
        a.kill()
        attached = without_sockets(net.a)
        nowhere = f"unix:path={a.folder / 'nowhere'}"
        same_state = with_state(a.runtime)
        with Foreground(net.a, "--address", nowhere, env=same_state) as lost:
            assert lost.wait() == 3
        assert without_sockets(net.a) == attached
        assert all(one.clean for one in exchange(at_a, at_b, [100] * 100))
        a.start()
        a.await_ready()
        assert [one["state"] for one in connections(a)] == ["established"]


def test_sighup_reads_the_file_again_and_a_bad_file_changes_nothing(
    direct_network: Network, tmp_path: Path
) -> None:
    net = direct_network
    at_a, at_b = remote_and_local(net, 4, PORT)
    config = tmp_path / "eth0.conf"
    config.write_text(f"filter = {at_a}\n")
    with (
        Foreground(net.a, "run", "-F", str(config), "eth0") as a,
        Foreground(net.b, "run", "-f", at_b, "eth0") as b,
    ):
        for program in (a, b):
            program.await_attached()
        with flow(net.a, net.b, family=4, port_b=PORT) as (end_a, end_b):
            exchange(end_a, end_b, count=200, largest_bytes=100, seed=5)
            with Capture(net.a.namespace, "eth0", tmp_path / "wire.pcap", "tcp") as capture:
                config.write_text(f"filter = {at_a}\nfilter = nonsense\n")
                a.signal(signal.SIGHUP)
                a.await_words("not reloaded")
                config.write_text(f"filter = {at_a}\nfilter = remote=192.0.2.99:7\n")
                a.signal(signal.SIGHUP)
                a.await_words("reloaded: 2 filters")
                verdicts = exchange(end_a, end_b, count=200, largest_bytes=100, seed=6)
            report = capture.analysis().flow(end_a.text, end_b.text)
        assert all(verdict.clean for verdict in verdicts)
        assert report.faults() == []
        assert "S" not in "".join(report.flag_sequence)
