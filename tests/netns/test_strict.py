# SPDX-License-Identifier: GPL-2.0-only
"""Strict filters: plain UDP of their flows neither leaves nor comes in, in bad times too."""

import json
import socket

import pytest

from tests.netns.talk import heard, say
from tests.netns.test_guard import crosses, guard
from tests.rig.attachments import attachments
from tests.rig.daemon import Daemon, command_path
from tests.rig.foreign import foreign_xdp
from tests.rig.network import Network
from tests.rig.tcx import detach_tcx
from tests.rig.traffic import flow

PORT, OTHER_PORT, ALWAYS_PORT = 51820, 51821, 51822


def ends(net: Network) -> tuple[str, ...]:
    """Options of filters: one that is strict, one that is not, one that always is."""
    address = net.b.address()
    return (
        *("-f", f"remote={address}:{PORT},strict=true"),
        *("-f", f"remote={address}:{OTHER_PORT}"),
        *("-f", f"remote={address}:{ALWAYS_PORT},strict=always"),
    )


def crossing(net: Network) -> list[int]:
    """The ports of B that plain UDP gets to."""
    return [port for port in (PORT, OTHER_PORT, ALWAYS_PORT) if crosses(net, 4, port)]


def test_where_it_cannot_be_attached_only_what_is_not_strict_leaves(
    direct_network: Network,
) -> None:
    net = direct_network
    before = attachments(net.a)
    with Daemon(net.a) as daemon:
        with foreign_xdp(net.a):
            answer = daemon.ctl("run", "--detach", "-x", "native", *ends(net), "eth0")
        assert answer.exit_code == 1
        assert "`mimicd guard --off eth0`" in daemon.log
        assert crossing(net) == [OTHER_PORT]
    # with no daemon either
    assert crossing(net) == [OTHER_PORT]
    guard(net.a, "--off")
    assert crossing(net) == [PORT, OTHER_PORT, ALWAYS_PORT]
    assert attachments(net.a) == before


def test_a_reload_that_cannot_be_guarded_changes_nothing(direct_network: Network) -> None:
    """Links at TC do without a clsact qdisc, which the guard needs."""
    net = direct_network
    net.a.namespace.run("tc", "qdisc", "add", "dev", "eth0", "ingress")
    with Daemon(net.a) as daemon:
        daemon.ctl("run", "--detach", "-f", f"remote=192.0.2.9:{PORT}", "eth0", check=True)
        before = attachments(net.a)
        answer = daemon.ctl("reload", "-f", f"remote=192.0.2.9:{PORT},strict=true", "eth0")
        assert answer.exit_code == 1
        (view,) = json.loads(daemon.ctl("list", "--json", check=True).stdout)
        assert view["filters"] == [f"remote=192.0.2.9:{PORT}"]
        assert attachments(net.a) == before


def test_before_a_name_is_known_and_while_the_interface_is_down(direct_network: Network) -> None:
    net = direct_network
    with Daemon(net.a) as daemon:
        filter_ = f"remote=vpn.invalid:{PORT},strict=true"
        assert daemon.ctl("run", "--detach", "-f", filter_, "eth0").exit_code == 2
        assert crossing(net) == [OTHER_PORT, ALWAYS_PORT]
        # the next one takes its place
        net.a.namespace.run("ip", "link", "add", "down0", "type", "veth", "peer", "name", "d1")
        assert daemon.ctl("run", "--detach", *ends(net), "down0").exit_code == 1
        shown = net.a.namespace.run("tc", "filter", "show", "dev", "down0", "egress").stdout
        assert "mimic_guard" in shown


def test_it_leaves_disguised_and_after_a_stop_as_it_was_asked_for(direct_network: Network) -> None:
    net = direct_network
    before = attachments(net.a)
    with Daemon(net.b) as far, Daemon(net.a) as near:
        far.ctl("run", "--detach", "-f", f"local={net.b.address()}:{PORT}", "eth0", check=True)
        near.ctl("run", "--detach", *ends(net), "eth0", check=True)
        with flow(net.a, net.b, port_b=PORT) as (a, b):
            say(a, b"disguised")
            assert heard(b) == [b"disguised"]
            say(b, b"and back")
            assert heard(a) == [b"and back"]
        far.ctl("stop", "eth0", check=True)
        # what somebody takes away while nobody looks after it
        near.kill()
        net.a.namespace.call(lambda: detach_tcx(socket.if_nametoindex("eth0"), "ingress", "egress"))
        assert crossing(net) == [OTHER_PORT]
        near.start()
        near.await_ready()
        assert crossing(net) == []
        assert "somebody removed" in near.log
        shown = near.ctl("show", "eth0", check=True).stdout
        assert "strict=true" in shown
        net.a.namespace.run("tc", "filter", "del", "dev", "eth0", "egress", "prio", "120")
        near.await_words("the guard of its strict filters")
        near.ctl("stop", "eth0", check=True)
        assert crossing(net) == [PORT, OTHER_PORT]
        near.ctl("run", "--detach", *ends(net)[:-2], "eth0", check=True)
        near.ctl("stop", "eth0", check=True)
        assert crossing(net) == [PORT, OTHER_PORT, ALWAYS_PORT]
    assert attachments(net.a) == before


@pytest.mark.parametrize("mode", ["native", "skb", "none"])
def test_plain_udp_that_comes_in_is_dropped_and_counted(direct_network: Network, mode: str) -> None:
    net = direct_network
    filters = [
        f"local={address}:{port}{strict}"
        for address in (net.a.address(), f"[{net.a.address(6)}]")
        for port, strict in ((PORT, ",strict=true"), (OTHER_PORT, ""))
    ]
    options = [word for one in filters for word in ("-f", one)]
    with Daemon(net.a) as daemon:
        daemon.ctl("run", "--detach", "-x", mode, *options, "eth0", check=True)
        for family in (4, 6):
            with (
                flow(net.b, net.a, family, port_b=PORT) as (sender, strict),
                flow(net.b, net.a, family, port_b=OTHER_PORT) as (other, lax),
            ):
                say(sender, b"plain", b"plain again")
                say(other, b"passes")
                assert heard(lax) == [b"passes"]
                assert heard(strict, within_s=0.01) == []
        shown = " ".join(daemon.ctl("show", "eth0", check=True).stdout.split())
        assert "drop-rx-plain 4" in shown


def test_what_the_guard_drops_is_counted_and_a_tunnel_is_guarded_by_its_name(
    direct_network: Network,
) -> None:
    net = direct_network
    # nobody can tell a port yet
    done = net.a.namespace.run(
        *(command_path("mimicd"), "guard", "--wireguard", "wg7", "eth0"), check=False
    )
    assert done.returncode == 1
    assert "no WireGuard interface tells its port" in done.stderr
    with Daemon(net.a) as daemon:
        # of an address that the interface does not have
        filter_ = f"local=0.0.0.0:{PORT},strict=true"
        daemon.ctl("run", "--detach", "-f", filter_, "eth0", check=True)
        net.a.namespace.run("ip", "address", "add", "192.0.2.77/32", "dev", "lo")
        with flow(net.a, net.b, port_b=9) as (marker, end), net.a.namespace.socket() as foreign:
            foreign.bind(("192.0.2.77", PORT))
            foreign.sendto(b"plain", (net.b.address(), 9))
            say(marker, b"end")
            assert heard(end) == [b"end"]
        shown = " ".join(daemon.ctl("show", "eth0", check=True).stdout.split())
        assert "drop-plain 1" in shown
