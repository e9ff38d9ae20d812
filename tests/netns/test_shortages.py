# SPDX-License-Identifier: GPL-2.0-only
"""What can run out, or be refused, does so: it is counted, said, and traffic goes on afterwards."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from mimicd.core.abi import HELD_MAX
from mimicd.core.flows import HELD_BYTES_MAX
from tests.netns.disguise import remote_and_local
from tests.netns.talk import say
from tests.rig.attachments import attachments
from tests.rig.daemon import Daemon, command_path
from tests.rig.echo import EchoServer, ask_all
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network
from tests.rig.traffic import Endpoint, endpoint

PORT = 51820
LARGE = bytes(1400)
CLIENTS = 30
SETTINGS = ",handshake=1:60"
GROWTH_MAX_KIB = 16 << 10
WITHIN_S = 60.0
NEW_ADDRESS = "192.0.2.77"
NO_RAW = ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", "--")


def run(daemon: Daemon, *filters: str) -> None:
    options = [word for text in filters for word in ("-f", text)]
    daemon.ctl("run", "--detach", *options, daemon.host.interface, check=True)


def shown(daemon: Daemon) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(daemon.ctl("show", "--json", check=True).stdout)
    return facts


def counters(daemon: Daemon) -> dict[str, int]:
    (interface,) = shown(daemon)["interfaces"]
    counted: dict[str, int] = interface["counters"]
    return counted


@contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    """It does nothing, while the kernel goes on."""
    daemon.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.signal(signal.SIGCONT)


@contextmanager
def clients_of(net: Network, count: int = CLIENTS) -> Iterator[list[Endpoint]]:
    """Connected to the port at B."""
    with ExitStack() as stack:
        clients = [stack.enter_context(endpoint(net.a)) for _ in range(count)]
        for client in clients:
            client.socket.connect((net.b.address(), PORT))
        yield clients


def all_are_answered(net: Network, server: EchoServer) -> None:
    """New clients; the old ones may still have answers under way."""
    with ExitStack() as stack:
        clients = [stack.enter_context(endpoint(net.a)) for _ in range(CLIENTS)]
        assert ask_all(clients, server.endpoint, within_s=WITHIN_S) == CLIENTS


def test_a_full_ring_buffer_is_said_and_every_flow_goes_on(direct_network: Network) -> None:
    net = direct_network
    at_a, at_b = remote_and_local(net, 4, PORT, SETTINGS)
    with Daemon(net.a) as a, Daemon(net.b) as b, EchoServer(net.b, PORT) as server:
        run(a, at_a)
        run(b, at_b)
        with clients_of(net) as clients:
            with stopped(a):
                for client in clients:
                    say(client, *[LARGE] * HELD_MAX)
            a.await_words("records did not fit the ring buffer")
            counted = counters(a)
            assert counted["drop-ring-full"] > 0
            lost = sum(one["drops"].get("lost-held", 0) for one in shown(a)["connections"])
            assert lost > 0
            wait_until(lambda: server.echoed, WITHIN_S, "what was held arrives")

            def nothing_waits() -> bool:
                connections = shown(a)["connections"]
                states = {one["state"] for one in connections}
                return states == {"established"} and not any(one["held"] for one in connections)

            wait_until(nothing_waits, WITHIN_S, "nothing is held any more", every_s=0.2)
            echoed = server.echoed
            say(clients[0], b"after it")
            wait_until(lambda: server.echoed > echoed, WITHIN_S, "an old flow goes on")
        all_are_answered(net, server)


@contextmanager
def silent(host: Host) -> Iterator[None]:
    """The kernel at the host answers no TCP; the disguise, if it runs there, does."""
    chain = "type filter hook input priority 0; tcp dport 1-65535 drop;"
    host.namespace.run("nft", f"table inet silent {{ chain in {{ {chain} }}; }}")
    try:
        yield
    finally:
        host.namespace.run("nft", "delete", "table", "inet", "silent")


def await_dealt_with(daemon: Daemon, count: int) -> None:
    """Datagrams that are held, or were dropped because too many are."""

    def all_are() -> bool:
        counted = counters(daemon)
        return counted.get("held", 0) + counted.get("drop-held-full", 0) == count

    wait_until(all_are, WITHIN_S, f"{count} datagrams are dealt with")


def test_full_queues_of_held_datagrams_are_counted_and_the_rest_arrives(
    direct_network: Network,
) -> None:
    """More for one connection than it may hold, and more for all of them than the daemon may."""
    net = direct_network
    at_a, at_b = remote_and_local(net, 4, PORT, SETTINGS)
    with Daemon(net.a) as a, Daemon(net.b) as b, EchoServer(net.b, PORT) as server:
        run(a, at_a)
        before_kib = a.resident_kib()
        with clients_of(net) as clients:
            assert CLIENTS * HELD_MAX * len(LARGE) > HELD_BYTES_MAX
            with silent(net.b):
                burst = HELD_MAX + 4
                for number, client in enumerate(clients, start=1):
                    say(client, *[LARGE] * burst)
                    if number % 6 == 0:  # the ring buffer holds no more than this
                        await_dealt_with(a, number * burst)
                held, lost = (counters(a)[name] for name in ("held", "drop-lost-held"))
                drops = [one["drops"] for one in shown(a)["connections"]]
                assert sum(one.get("held-full", 0) for one in drops) == CLIENTS * burst - held > 0
                assert sum(one.get("lost-held", 0) for one in drops) == lost > 0
                assert a.resident_kib() - before_kib <= GROWTH_MAX_KIB
                run(b, at_b)
            kept = held - lost
            wait_until(lambda: server.echoed >= kept, WITHIN_S, "all that was kept arrives")
        all_are_answered(net, server)


def test_frames_that_the_interface_does_not_take_are_said_and_sent_later(
    direct_network: Network,
) -> None:
    net = direct_network
    at_a, at_b = remote_and_local(net, 4, PORT, SETTINGS)
    with Daemon(net.a) as a, Daemon(net.b) as b, EchoServer(net.b, PORT) as server:
        run(a, at_a)
        with endpoint(net.a) as client, silent(net.b):
            client.socket.sendto(b"first", (net.b.address(), PORT))
            assert "could not be sent" not in a.log
            net.a.namespace.run("ip", "link", "set", "eth0", "down")
            a.await_words("frames of our own could not be sent")
            net.a.namespace.run("ip", "link", "set", "eth0", "up")
            neighbour = f"{net.b.address()} lladdr {net.b.mac} dev eth0 nud permanent"
            net.a.namespace.run("ip", "neighbour", "replace", *neighbour.split())
            run(b, at_b)
        wait_until(lambda: server.echoed == 1, WITHIN_S, "what was held arrives")
        all_are_answered(net, server)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGUSR2])
def test_what_a_process_held_is_lost_with_it_and_later_datagrams_do_not_wait_for_it(
    direct_network: Network, end: signal.Signals
) -> None:
    net = direct_network
    at_a, at_b = remote_and_local(net, 4, PORT, SETTINGS)
    with Daemon(net.a) as a, Daemon(net.b) as b, EchoServer(net.b, PORT) as server:
        run(a, at_a)
        with endpoint(net.a) as client:
            client.socket.connect((net.b.address(), PORT))
            with silent(net.b):
                say(client, b"one", b"two", b"three")
                await_dealt_with(a, 3)
                a.signal(end)
                a.wait()
                a.start()
                a.await_ready()
                (connection,) = shown(a)["connections"]
                assert (connection["held"], connection["drops"]["lost-held"]) == (0, 3)
                run(b, at_b)
            assert ask_all([client], server.endpoint, within_s=WITHIN_S) == 1
            held = counters(a)["held"]
            for _ in range(20):
                assert ask_all([client], server.endpoint, within_s=WITHIN_S) == 1
        assert counters(a)["held"] == held
        assert "could not be sent" not in a.log


@pytest.mark.parametrize("how", ["run", "adopt"])
def test_without_packet_sockets_it_says_so_and_leaves_nothing(
    direct_network: Network, how: str
) -> None:
    net = direct_network
    before = attachments(net.a)
    at_a, at_b = remote_and_local(net, 4, PORT, SETTINGS)
    if how == "run":
        argv = [*NO_RAW, command_path("mimicd"), "run", "-f", at_a, "eth0"]
        done = net.a.namespace.run(*argv, check=False)
        assert done.returncode == 1
        assert "cannot open a packet socket on eth0: Operation not permitted" in done.stderr
        assert "CAP_NET_RAW" in done.stderr
    else:
        with Daemon(net.a) as a:
            run(a, at_a)
            a.kill()
            a.run_as(*NO_RAW, command_path("mimicd"))
            a.start()
            a.await_words("cannot open a packet socket on eth0")
            a.await_ready()
            assert [one["state"] for one in shown(a)["interfaces"]] in ([], ["waiting"])
            assert "Traceback" not in a.log
    assert attachments(net.a) == before
    with Daemon(net.a) as a, Daemon(net.b) as b, EchoServer(net.b, PORT) as server:
        run(a, at_a)
        run(b, at_b)
        all_are_answered(net, server)


def test_lost_netlink_messages_are_said_and_what_they_told_is_found(
    direct_network: Network,
) -> None:
    net = direct_network
    with Daemon(net.a) as a, Daemon(net.b) as b:
        run(a, f"remote={NEW_ADDRESS}:{PORT}")
        run(b, f"local=0.0.0.0:{PORT}")
        with stopped(b):
            ip = net.b.namespace.run
            flapping = (
                "address add 198.51.100.1/32 dev eth0\naddress del 198.51.100.1/32 dev eth0\n"
            )
            ip("ip", "-batch", "-", stdin=flapping * 1500)
            ip("ip", "address", "add", f"{NEW_ADDRESS}/24", "dev", "eth0")
        b.await_words("messages about links and addresses were lost")
        neighbour = f"{NEW_ADDRESS} lladdr {net.b.mac} dev eth0 nud permanent"
        net.a.namespace.run("ip", "neighbour", "replace", *neighbour.split())
        with endpoint(net.a) as client:
            # the wildcard stands for the new address too: nothing else would answer the SYN
            client.socket.connect((NEW_ADDRESS, PORT))

            def is_established() -> bool:
                say(client, b"to the new address")
                return [one["state"] for one in shown(b)["connections"]] == ["established"]

            wait_until(is_established, WITHIN_S, "the new address is served", every_s=0.2)
