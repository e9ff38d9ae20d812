# SPDX-License-Identifier: GPL-2.0-only
"""Starting, stopping, dying and handing over: what is on the interface, and what the wire shows."""

import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netns.disguise import remote_and_local, wire_capture
from tests.rig.attachments import attachments
from tests.rig.capture import Capture
from tests.rig.daemon import Daemon, Foreground
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network
from tests.rig.traffic import bulk, exchange, flow

PORT = 51820
RESIDENT_MAX_KIB = 45 * 1024
RUN_WITHIN_S = 2.0
IDLE_S = 10.0
IDLE_CPU_MAX = 0.001


@contextmanager
def both_running(net: Network) -> Iterator[tuple[Daemon, Daemon]]:
    """The daemon at A and B, with their filters, over D-Bus."""
    at_a, at_b = remote_and_local(net, 4, PORT)
    with Daemon(net.a) as a, Daemon(net.b) as b:
        a.ctl("run", "--detach", "-f", at_a, "eth0", check=True)
        b.ctl("run", "--detach", "-f", at_b, "eth0", check=True)
        yield a, b


def resets_from(capture: Capture, host: Host) -> int:
    packets = capture.analysis().everything().packets
    return sum(
        packet.source.startswith(f"{host.address(4)}:") and bool(packet.flags & 4)
        for packet in packets
    )


def test_sigterm_resets_the_peers_and_leaves_nothing(
    routed_network: Network, tmp_path: Path
) -> None:
    net = routed_network
    before = attachments(net.a)
    with both_running(net) as (a, _b), flow(net.a, net.b, family=4, port_b=PORT) as (at_a, at_b):
        exchange(at_a, at_b, count=200, largest_bytes=100, seed=1)
        with wire_capture(net, tmp_path / "wire.pcap") as capture:
            assert a.terminate() == 0
        assert resets_from(capture, net.a) == 1
        assert "Traceback" not in a.log
        assert attachments(net.a) == before
        assert net.router.firewall.invalid() == 0


def test_stop_leaves_what_the_user_had(direct_network: Network) -> None:
    """A clsact qdisc with a filter of the user's is as it was."""
    host = direct_network.a
    host.namespace.run("tc", "qdisc", "add", "dev", "eth0", "clsact")
    # a classic BPF filter that matches everything and does nothing with it
    match = ("bpf", "bytecode", "1,6 0 0 4294967295", "classid", "1:1")
    host.namespace.run("tc", "filter", "add", "dev", "eth0", "egress", "prio", "200", *match)
    before = attachments(host)
    with Daemon(host) as daemon:
        daemon.ctl("run", "--detach", "-f", "remote=192.0.2.9:5000", "eth0", check=True)
        assert attachments(host) != before
        daemon.ctl("stop", "eth0", check=True)
    assert attachments(host) == before


def test_a_failure_half_way_leaves_nothing(direct_network: Network) -> None:
    """An ingress qdisc stands where clsact has to: XDP is attached by then."""
    host = direct_network.a
    host.namespace.run("tc", "qdisc", "add", "dev", "eth0", "ingress")
    before = attachments(host)
    with Foreground(host, "run", "-f", "remote=192.0.2.9:5000", "eth0") as bare:
        assert bare.wait() == 1
        assert "Traceback" not in bare.log
        assert "hint: " in bare.log
    assert attachments(host) == before


@pytest.mark.parametrize("end", ["kill", "hand over"])
def test_established_flows_outlive_the_daemon_and_the_next_one_adopts_them(
    routed_network: Network, tmp_path: Path, end: str
) -> None:
    net = routed_network
    with both_running(net) as (a, _b), flow(net.a, net.b, family=4, port_b=PORT) as (at_a, at_b):
        exchange(at_a, at_b, count=200, largest_bytes=100, seed=1)
        with wire_capture(net, tmp_path / "wire.pcap") as capture:
            if end == "kill":
                a.kill()
            else:
                a.signal(signal.SIGUSR2)
                assert a.wait() == 0
            orphaned = exchange(at_a, at_b, count=2000, largest_bytes=1400, seed=2)
            a.start()
            a.await_ready()
            adopted = exchange(at_a, at_b, count=2000, largest_bytes=1400, seed=3)
            shown = a.ctl("show", "eth0", check=True).stdout
        report = capture.analysis().flow(at_a.text, at_b.text)
        assert all(verdict.clean for verdict in (*orphaned, *adopted))
        assert report.faults() == []
        assert report.resets == 0
        assert "S" not in "".join(report.flag_sequence)
        assert at_a.text in shown
        assert "established" in shown
        a.ctl("stop", "eth0", check=True)
        assert not attachments(net.a).filters


def test_new_flows_come_up_without_the_daemon(routed_network: Network) -> None:
    """What a cold connection holds is lost then; what follows arrives."""
    net = routed_network
    with both_running(net) as (a, b):
        a.kill()
        b.kill()
        with flow(net.a, net.b, family=4, port_b=PORT) as (at_a, at_b):

            def arrives() -> bool:
                at_a.socket.send(b"are you there?")
                readable, _, _ = select.select([at_b.socket], [], [], 0.1)
                return bool(readable)

            wait_until(arrives, 10.0, "a datagram arrives without any daemon")
            at_b.socket.recv(100)
            bulk(at_a, at_b, 2_000_000)


def test_the_daemon_is_small_and_quiet(direct_network: Network) -> None:
    """Two interfaces, one connection each end; figures of the process itself."""
    net = direct_network
    host = net.a
    host.namespace.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth2")
    for name in ("eth1", "eth2"):
        host.namespace.run("ip", "link", "set", name, "up")
    with Daemon(host) as daemon:
        daemon.ctl("run", "--detach", "-f", "remote=192.0.2.9:5000", "eth0", check=True)
        started = time.monotonic()
        daemon.ctl("run", "--detach", "-f", "remote=198.51.100.9:5000", "eth1", check=True)
        took_s = time.monotonic() - started
        settle(lambda: daemon.cpu_s())
        cpu_before, at = daemon.cpu_s(), time.monotonic()
        deadline = at + IDLE_S
        wait_until(lambda: time.monotonic() >= deadline, IDLE_S + 5, "idle time", every_s=0.5)
        used = (daemon.cpu_s() - cpu_before) / (time.monotonic() - at)
        print(f"resident {daemon.resident_kib()} KiB, idle CPU {used:.4%}, Run {took_s:.2f} s")
        assert daemon.resident_kib() <= RESIDENT_MAX_KIB
        # the clock of /proc ticks 100 times a second: one tick in the time is within the noise
        assert used <= IDLE_CPU_MAX + 0.01 / IDLE_S
        assert took_s <= RUN_WITHIN_S


def settle(reading: Callable[[], float]) -> None:
    """Wait until a reading stands still for half a second."""
    last = [reading(), time.monotonic()]

    def still() -> bool:
        now = reading()
        if now != last[0]:
            last[:] = [now, time.monotonic()]
        return time.monotonic() - last[1] > 0.5

    wait_until(still, 20.0, "the reading stands still", every_s=0.05)
