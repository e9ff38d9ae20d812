# SPDX-License-Identifier: GPL-2.0-only
"""WireGuard through the disguise: found by its interface's name alone, and followed."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.netns.disguise import wire_capture
from tests.netns.test_lifecycle import connections
from tests.netns.test_names import await_filters, filters
from tests.rig.daemon import Daemon
from tests.rig.namespace import wait_until
from tests.rig.network import Network
from tests.rig.wireguard import WireGuard, wireguard

PORT_A, PORT_B, OTHER_PORT = 51821, 51820, 51999
WITHIN_S = 30.0
BULK = bytes(range(256)) * 4096


@contextmanager
def tunnel(net: Network) -> Iterator[tuple[WireGuard, WireGuard]]:
    """A knows where B is; B will hear of A."""
    with wireguard(net.a, "10.9.0.1", PORT_A) as a, wireguard(net.b, "10.9.0.2", PORT_B) as b:
        a.add_peer(b, f"{net.b.address()}:{PORT_B}")
        b.add_peer(a)
        yield a, b


def of(tunnel: WireGuard, *ends: str) -> list[str]:
    """Those filters, as they are shown."""
    return [f"{end} (wireguard {tunnel.name})" for end in ends]


def everywhere(port: int) -> list[str]:
    return [f"local=0.0.0.0:{port}", f"local=[::]:{port}"]


def send_stream(sender: WireGuard, receiver: WireGuard, data: bytes) -> bytes:
    """What arrives of it over TCP inside of the tunnel."""
    arrived = bytearray()
    with receiver.host.namespace.socket(kind=socket.SOCK_STREAM) as listening:
        listening.bind((receiver.address, 0))
        listening.listen()
        listening.settimeout(WITHIN_S)

        def receive() -> None:
            one, _ = listening.accept()
            with one:
                one.settimeout(WITHIN_S)
                while more := one.recv(65536):
                    arrived.extend(more)

        thread = threading.Thread(target=receive)
        thread.start()
        with sender.host.namespace.socket(kind=socket.SOCK_STREAM) as one:
            one.settimeout(WITHIN_S)
            one.connect((receiver.address, listening.getsockname()[1]))
            one.sendall(data)
        thread.join()
    return bytes(arrived)


def test_wireguard_crosses_as_tcp_by_the_name_of_its_interface(
    routed_network: Network, tmp_path: Path
) -> None:
    net = routed_network
    with tunnel(net) as (a, b), Daemon(net.a) as at_a, Daemon(net.b) as at_b:
        run = ("run", "--detach", "--wireguard")
        at_a.ctl(*run, a.name, "eth0", check=True)
        at_b.ctl(*run, b.name, "--set-mtu", "eth0", check=True)
        await_filters(at_a, *of(a, *everywhere(PORT_A), f"remote={net.b.address()}:{PORT_B}"))
        # Who is asked says what to do, who may does it.
        wait_until(
            lambda: f"`ip link set {a.name} mtu 1408`" in at_a.log, WITHIN_S, "the MTU is told"
        )
        wait_until(lambda: b.mtu_bytes() == 1408, WITHIN_S, "the MTU is set")
        assert a.mtu_bytes() == 1420
        a.host.namespace.run("ip", "link", "set", a.name, "mtu", "1408")
        capture = wire_capture(net, tmp_path / "wire.pcap")
        with capture:
            assert a.ping(b)
            assert b.ping(a)
            assert send_stream(a, b, BULK) == BULK
            assert send_stream(b, a, BULK) == BULK
        report = capture.analysis().everything()
        assert report.udp == 0
        assert report.resets == 0
        assert not report.bad_checksums
        (one,) = connections(at_a)
        assert one["local"] == f"{net.a.address()}:{PORT_A}"
        assert one["filter"] in filters(at_a)
        assert net.router.firewall.invalid() == 0
        # B has learnt where A is.
        await_filters(at_b, *of(b, *everywhere(PORT_B), f"remote={net.a.address()}:{PORT_A}"))
        at_b.ctl("stop", "eth0", check=True)
        assert b.mtu_bytes() == 1420
        for daemon in (at_a, at_b):
            assert "Traceback" not in daemon.log


def test_endpoints_that_roam_and_ports_that_change_are_followed(direct_network: Network) -> None:
    net = direct_network
    with tunnel(net) as (a, b), Daemon(net.a) as at_a, Daemon(net.b) as at_b:
        for one, daemon in ((a, at_a), (b, at_b)):
            daemon.ctl("run", "--detach", "--wireguard", one.name, "eth0", check=True)
        assert a.ping(b)
        await_filters(at_b, *of(b, *everywhere(PORT_B), f"remote={net.a.address()}:{PORT_A}"))
        # A moves to another port, which B sees from its packets.
        a.set("listen-port", str(OTHER_PORT))
        to_b = f"remote={net.b.address()}:{PORT_B}"
        await_filters(at_a, *of(a, *everywhere(OTHER_PORT), to_b))
        wait_until(lambda: a.ping(b, 1), WITHIN_S, "it goes on")
        await_filters(at_b, *of(b, *everywhere(PORT_B), f"remote={net.a.address()}:{OTHER_PORT}"))
        # B is told to have moved to another address.
        net.b.namespace.run("ip", "address", "add", "192.0.2.77/24", "dev", "eth0")
        net.a.namespace.run(
            "ip", "neighbour", "replace", "192.0.2.77", "lladdr", net.b.mac, "dev", "eth0"
        )
        a.add_peer(b, f"192.0.2.77:{PORT_B}")
        await_filters(at_a, *of(a, *everywhere(OTHER_PORT), f"remote=192.0.2.77:{PORT_B}"))
        wait_until(lambda: a.ping(b, 1), WITHIN_S, "it goes on at the other address")
        # A process that comes after it takes over what there is.
        at_a.kill()
        at_a.start()
        at_a.await_ready()
        assert f"remote=192.0.2.77:{PORT_B} (wireguard {a.name})" in filters(at_a)
        assert a.ping(b)


def test_a_tunnel_that_goes_is_waited_for(direct_network: Network) -> None:
    net = direct_network
    with Daemon(net.a) as daemon:
        refused = daemon.ctl("run", "--detach", "--wireguard", "lo", "eth0")
        assert refused.exit_code == 2
        assert "lo is no WireGuard interface" in refused.stderr
        daemon.ctl("run", "--detach", "--wireguard", "wg-none", "eth0", check=True)
        assert "there is no WireGuard interface wg-none" in daemon.log
        assert filters(daemon) == []
        with wireguard(net.a, "10.9.0.1", PORT_A) as a:
            options = ("--wireguard", a.name, "--set-mtu", "-p", "random")
            daemon.ctl("reload", *options, "eth0", check=True)
            await_filters(daemon, *of(a, *everywhere(PORT_A)))
            wait_until(lambda: a.mtu_bytes() == 1398, WITHIN_S, "the MTU leaves room for padding")
            # A handover keeps what the MTU was.
            daemon.kill()
            daemon.start()
            daemon.await_ready()
            daemon.ctl("stop", "eth0", check=True)
            assert a.mtu_bytes() == 1420
            daemon.ctl("run", "--detach", *options, "eth0", check=True)
        await_filters(daemon)
        assert f"there is no WireGuard interface {a.name}" in daemon.log
        assert "Traceback" not in daemon.log
