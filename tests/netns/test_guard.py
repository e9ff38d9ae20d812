# SPDX-License-Identifier: GPL-2.0-only
"""The guard: no plain UDP of a flow leaves before, between and after the times of its disguise."""

from tests.netns.talk import heard, say
from tests.netns.test_check import check_bare
from tests.rig.attachments import attachments
from tests.rig.daemon import Daemon, command_path
from tests.rig.network import Host, Network
from tests.rig.traffic import flow

PORT, OTHER_PORT = 51820, 51821


def guard(host: Host, *arguments: str, check: bool = True) -> str:
    """What it says."""
    command = (command_path("mimicd"), "guard", *arguments, host.interface)
    return host.namespace.run(*command, check=check).stderr


def crosses(net: Network, family: int, port: int) -> bool:
    """Whether a datagram gets from A to B as it is; a datagram on another port tells the end."""
    with flow(net.a, net.b, family, port_b=port) as (a, b):
        with flow(net.a, net.b, 4, port_b=9) as (marker, end):
            say(a, b"plain")
            say(marker, b"end")
            assert heard(end) == [b"end"]
        return heard(b, within_s=0.01) == [b"plain"]


def test_what_is_not_disguised_does_not_leave_and_the_rest_does(direct_network: Network) -> None:
    net = direct_network
    before = attachments(net.a)
    for filter_ in (f"remote={net.b.address()}:{PORT}", f"remote=vpn.example:{PORT}"):
        guard(net.a, "-f", filter_)
        assert not crosses(net, 4, PORT)
        assert crosses(net, 4, OTHER_PORT)
        # a name stands for every address of both families
        assert crosses(net, 6, PORT) != ("vpn" in filter_)
    assert check_bare(net.a, "eth0")[1]["guard"][0] == "ok"
    guard(net.a, "--off")
    assert "guard" not in check_bare(net.a, "eth0")[1]
    assert crosses(net, 4, PORT)
    guard(net.a, "--off")
    assert attachments(net.a) == before


def test_it_stays_while_mimicd_comes_and_goes(direct_network: Network) -> None:
    net = direct_network
    end = f"{net.b.address()}:{PORT}"
    guard(net.a, "-f", f"remote={end}")
    with Daemon(net.b) as far:
        far.ctl("run", "--detach", "-f", f"local={end}", "eth0", check=True)
        with Daemon(net.a) as near:
            near.ctl("run", "--detach", "-f", f"remote={end}", "eth0", check=True)
            with flow(net.a, net.b, port_b=PORT) as (a, b):
                say(a, b"disguised")
                assert heard(b) == [b"disguised"]
            near.ctl("stop", "eth0", check=True)
            assert not crosses(net, 4, PORT)
        assert not crosses(net, 4, PORT)


def test_a_tunnel_whose_port_it_cannot_know_is_said_to_need_a_filter(
    direct_network: Network,
) -> None:
    net = direct_network
    before = attachments(net.a)
    refused = guard(net.a, "--wireguard", "wg0", check=False)
    assert "nothing can be guarded on eth0" in refused
    assert "Traceback" not in refused
    assert attachments(net.a) == before
    told = guard(net.a, "--wireguard", "wg0", "-f", f"remote={net.b.address()}:{PORT}")
    assert "local=0.0.0.0:PORT" in told
    assert not crosses(net, 4, PORT)
