# SPDX-License-Identifier: GPL-2.0-only
"""`mimicctl run --wait`, as a unit at boot uses it: the interface comes, or comes up, later."""

from collections.abc import Callable

import pytest

from tests.rig.daemon import Daemon, Program
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network

FILTER = ("-f", "remote=192.0.2.9:5000")
WITHIN_S = 30.0


def set_down(host: Host) -> None:
    host.namespace.run("ip", "link", "set", "eth0", "down")


def rename(host: Host) -> None:
    set_down(host)
    host.namespace.run("ip", "link", "set", "eth0", "name", "other0")


def set_up(host: Host) -> None:
    host.namespace.run("ip", "link", "set", "eth0", "up")


def rename_back(host: Host) -> None:
    host.namespace.run("ip", "link", "set", "other0", "name", "eth0")
    set_up(host)


def listens(program: Program) -> bool:
    """Whether it waits for changes: it has opened a netlink socket."""
    program.check_running()
    return f" {program.pid} " in program.host.namespace.run("cat", "/proc/net/netlink").stdout


@pytest.mark.parametrize(
    ("before", "after"), [(set_down, set_up), (rename, rename_back)], ids=["down", "absent"]
)
def test_it_is_attached_once_the_interface_is_up(
    direct_network: Network, before: Callable[[Host], None], after: Callable[[Host], None]
) -> None:
    host = direct_network.a
    before(host)
    with Daemon(host) as daemon:
        refused = daemon.ctl("run", "--detach", *FILTER, "eth0")
        assert refused.exit_code == 1
        with daemon.client("run", "--detach", "--wait", *FILTER, "eth0") as waiting:
            wait_until(lambda: listens(waiting), WITHIN_S, "it waits")
            assert daemon.ctl("list", check=True).stdout == ""
            after(host)
            assert waiting.wait(WITHIN_S) == 0
        assert "eth0" in daemon.ctl("list", check=True).stdout


def test_a_signal_ends_the_waiting(direct_network: Network) -> None:
    host = direct_network.a
    set_down(host)
    with Daemon(host) as daemon, daemon.client("run", "--wait", *FILTER, "eth0") as waiting:
        wait_until(lambda: listens(waiting), WITHIN_S, "it waits")
        assert waiting.terminate() == 1
        assert daemon.ctl("list", check=True).stdout == ""
