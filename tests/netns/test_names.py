# SPDX-License-Identifier: GPL-2.0-only
"""Filters by host name, and by wildcard, while addresses change."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.netns.disguise import data_segments
from tests.netns.test_lifecycle import connections
from tests.rig.capture import Capture
from tests.rig.daemon import Daemon, command_path
from tests.rig.dns import NameServer, name_server
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network
from tests.rig.traffic import Endpoint, exchange, flow, open_udp

NAME = "peer.example"
PORT, OTHER_PORT = 51820, 6000
SECOND = "192.0.2.77"
WITHIN_S = 30.0
STOP_WITHIN_S = 3.0


@contextmanager
def by_name(net: Network, *addresses: str) -> Iterator[tuple[Daemon, Daemon, NameServer]]:
    """A knows B by name at one port and by address at another; B disguises both."""
    with name_server(net.a.namespace) as (names, mounts):
        names.set(NAME, addresses)
        program = mounts.command(command_path("mimicd"))
        with Daemon(net.a, program=program) as a, Daemon(net.b) as b:
            other = f"remote={net.b.address()}:{OTHER_PORT}"
            a.ctl("run", "--detach", "-f", f"remote={NAME}:{PORT}", "-f", other, "eth0", check=True)
            at_b = [
                f"local={where}:{port}"
                for where in ("0.0.0.0", "[::]")
                for port in (PORT, OTHER_PORT)
            ]
            words = [word for text in at_b for word in ("-f", text)]
            b.ctl("run", "--detach", *words, "eth0", check=True)
            yield a, b, names


def filters(daemon: Daemon) -> list[str]:
    (view,) = json.loads(daemon.ctl("list", "--json", check=True).stdout)
    shown: list[str] = view["filters"]
    return shown


def await_filters(daemon: Daemon, *wanted: str) -> None:
    found: list[str] = []

    def has() -> bool:
        found[:] = filters(daemon)
        return sorted(found) == sorted(wanted)

    try:
        wait_until(has, WITHIN_S, f"the filters are {wanted}", every_s=0.2)
    except Exception as exc:
        exc.add_note(f"they are {found}; mimicd said: {daemon.log}")
        raise


def named(address: str) -> str:
    end = f"[{address}]" if ":" in address else address
    return f"remote={end}:{PORT} ({NAME})"


def change_network(host: Host, number: int) -> None:
    """Any address that comes is a reason to look at names again."""
    host.namespace.run("ip", "address", "add", f"198.51.100.{number}/32", "dev", "lo")


def talk(a: Endpoint, b: Endpoint, count: int = 20) -> None:
    assert all(one.clean for one in exchange(a, b, [200] * count))


def of(daemon: Daemon, remote: str) -> dict[str, Any]:
    (found,) = (one for one in connections(daemon) if one["remote"] == remote)
    return found


def test_a_name_stands_for_all_its_addresses_and_follows_them(
    direct_network: Network, tmp_path: Path
) -> None:
    net = direct_network
    v4, v6 = net.b.address(4), net.b.address(6)
    other = f"remote={v4}:{OTHER_PORT}"
    net.b.namespace.run("ip", "address", "add", f"{SECOND}/24", "dev", "eth0")
    net.a.namespace.run("ip", "neighbour", "replace", SECOND, "lladdr", net.b.mac, "dev", "eth0")
    with by_name(net, v4, v6) as (a, _b, names):
        await_filters(a, named(v4), named(v6), other)
        with (
            flow(net.a, net.b, 4, port_b=PORT) as by_v4,
            flow(net.a, net.b, 6, port_b=PORT) as by_v6,
            flow(net.a, net.b, 4, port_b=OTHER_PORT) as untouched,
        ):
            for ends in (by_v4, by_v6, untouched):
                talk(*ends)
            assert of(a, f"{v4}:{PORT}")["filter"] == named(v4)
            assert of(a, f"[{v6}]:{PORT}")["filter"] == named(v6)
            before = {one["remote"]: one for one in connections(a)}
            names.set(NAME, [SECOND])
            change_network(net.a, 1)
            # Those that are in use stay until they are not.
            await_filters(a, named(SECOND), named(v4), named(v6), other)
            after = {one["remote"]: one for one in connections(a)}
            for remote, one in before.items():
                assert (after[remote]["seq"], after[remote]["ack"]) == (one["seq"], one["ack"])
                assert after[remote]["state"] == "established"
            capture = Capture(net.a.namespace, "eth0", tmp_path / "new.pcap", "tcp or udp")
            with capture, open_udp(net.b.namespace) as raw, flow(net.a, net.b, 4) as (new, _):
                raw.bind((SECOND, PORT))
                new.socket.connect((SECOND, PORT))
                far = Endpoint(net.b, 4, raw)
                raw.connect((net.a.address(), new.port))
                talk(new, far)
                assert of(a, f"{SECOND}:{PORT}")["filter"] == named(SECOND)
            report = capture.analysis().everything()
            assert data_segments(report) == 40
            assert report.udp == 0
            for ends in (by_v4, by_v6, untouched):
                talk(*ends)
            for remote, one in before.items():
                assert of(a, remote)["tx-packets"] == one["tx-packets"] + 20
        assert "Traceback" not in a.log


def test_a_name_that_resolves_no_more_keeps_its_addresses(direct_network: Network) -> None:
    net = direct_network
    v4 = net.b.address(4)
    with by_name(net, v4) as (a, _b, names), flow(net.a, net.b, 4, port_b=PORT) as ends:
        talk(*ends)
        shown = filters(a)
        assert named(v4) in shown
        names.set(NAME, [])
        change_network(net.a, 1)
        wait_until(lambda: "does not resolve" in a.log, WITHIN_S, "it is told")
        asked = names.asked
        # It is asked again, and not told again.
        change_network(net.a, 2)
        wait_until(lambda: names.asked >= asked + 2, WITHIN_S, "it is asked for again")
        assert a.log.count("does not resolve") == 1
        talk(*ends)
        # The next process finds no name server, and goes on with what was known.
        names.is_silent = True
        a.kill()
        asked = names.asked
        a.start()
        a.await_ready()
        assert filters(a) == shown
        talk(*ends)
        assert of(a, f"{v4}:{PORT}")["filter"] == named(v4)
        # A question is under way, and will be for long: it does not hold up the end.
        wait_until(lambda: names.asked > asked, WITHIN_S, "a question is under way")
        begun_s = time.monotonic()
        assert a.terminate() == 0
        assert time.monotonic() - begun_s < STOP_WITHIN_S


def test_a_name_is_looked_up_again_when_its_peer_does_not_answer(direct_network: Network) -> None:
    net = direct_network
    v4 = net.b.address(4)
    net.a.namespace.run("ip", "neighbour", "replace", SECOND, "lladdr", net.b.mac, "dev", "eth0")
    with by_name(net, SECOND) as (a, _b, names):
        a.ctl("reload", "-f", f"remote={NAME}:{PORT}", "-h", "1:0", "eth0", check=True)
        await_filters(a, named(SECOND))
        names.set(NAME, [v4])
        with open_udp(net.a.namespace) as udp:
            udp.sendto(b"anybody there?", (SECOND, PORT))
            await_filters(a, named(v4))


def test_a_wildcard_follows_the_addresses_of_the_interface(direct_network: Network) -> None:
    net = direct_network
    net.a.namespace.run("ip", "neighbour", "replace", SECOND, "lladdr", net.b.mac, "dev", "eth0")
    with Daemon(net.a) as a, Daemon(net.b) as b:
        a.ctl("run", "--detach", "-f", f"remote=192.0.2.0/24:{PORT}", "eth0", check=True)
        b.ctl("run", "--detach", "-f", f"local=0.0.0.0:{PORT}", "eth0", check=True)
        with flow(net.a, net.b, 4, port_b=PORT) as old:
            talk(*old)
            seen = of(b, old[0].text)["seq"]
            net.b.namespace.run("ip", "address", "add", f"{SECOND}/24", "dev", "eth0")
            with open_udp(net.b.namespace) as raw, flow(net.a, net.b, 4) as (near, _):
                raw.bind((SECOND, PORT))
                raw.connect((net.a.address(), near.port))
                near.socket.connect((SECOND, PORT))
                far = Endpoint(net.b, 4, raw)

                def disguised() -> bool:
                    far.socket.send(b"x")
                    return any(one["local"] == f"{SECOND}:{PORT}" for one in connections(b))

                wait_until(disguised, WITHIN_S, "the new address is disguised", every_s=0.2)
                (there,) = (one for one in connections(b) if one["local"] == f"{SECOND}:{PORT}")
                assert there["filter"] == f"local=0.0.0.0:{PORT}"
            assert of(b, old[0].text)["seq"] == seen
            talk(*old)
            (near_a,) = (
                one for one in connections(a) if one["remote"] == f"{net.b.address()}:{PORT}"
            )
            assert near_a["filter"] == f"remote=192.0.2.0/24:{PORT}"
