# SPDX-License-Identifier: GPL-2.0-only
"""mimicctl and mimicd where there is no bus: varlink beside `mimicd run`, or mimicd --no-bus; and
several daemons, one in each network namespace.
"""

import json
import os
import signal
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.netns.test_changes import WITHIN_S, filtered, ip, make_pair
from tests.rig.attachments import attachments
from tests.rig.daemon import Answer, Daemon, Foreground, command_path
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network

FILTER = ("-f", "remote=192.0.2.9:5000")
NOWHERE = "unix:path=/nonexistent/bus"


@pytest.fixture
def host(direct_network: Network) -> Host:
    return direct_network.a


def environment(runtime: Path, bus: str = NOWHERE) -> dict[str, str]:
    """Of a program that finds no bus, and the sockets in a folder."""
    return {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus, "RUNTIME_DIRECTORY": str(runtime)}


def ctl(host: Host, env: Mapping[str, str], *arguments: str) -> Answer:
    argv = [command_path("mimicctl"), *arguments]
    done = host.namespace.run(*argv, check=False, timeout_s=30, env=env)
    return Answer(done.returncode, done.stdout, done.stderr)


def listed(host: Host, env: Mapping[str, str], *options: str) -> list[str]:
    answer = ctl(host, env, "list", "--json", *options)
    assert answer.exit_code == 0, answer.stderr
    return [view["name"] for view in json.loads(answer.stdout)]


def no_bus(host: Host, *options: str, env: Mapping[str, str] | None = None) -> Foreground:
    return Foreground(host, "--no-bus", *options, env=env)


def await_socket(program: Foreground, folder: Path, name: str = "org.mimicd1") -> Path:
    path = folder / name

    def listens() -> bool:
        program.check_running()
        return path.is_socket()

    wait_until(listens, WITHIN_S, f"{name} is listened at")
    return path


def test_beside_mimicd_run_it_can_be_looked_at_changed_and_stopped(host: Host) -> None:
    with Foreground(host, "run", *FILTER, "eth0") as program:
        socket = await_socket(program, program.folder)
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        env = environment(program.folder)
        shown = ctl(host, env, "show", "eth0")
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert shown.stdout.startswith("eth0: running\n")
        assert f"PID {program.pid}" in shown.stdout
        by_address = ctl(host, os.environ, "show", "--json", "--address", f"unix:{socket}")
        assert json.loads(by_address.stdout)["pid"] == program.pid
        assert ctl(host, env, "reload", "-f", "remote=192.0.2.7:7", "eth0").exit_code == 0
        assert "reloaded: 1 filter" in program.log
        refused = ctl(host, env, "run", "--detach", *FILTER, "lo")
        assert refused.exit_code == 1
        assert "serves eth0 alone" in refused.stderr
        # A second one has its socket beside the first one's.
        make_pair(host)
        with Foreground(host, "run", *FILTER, "wan0", env=env) as second:
            await_socket(second, program.folder, "org.mimicd1.run.wan0")
            assert ctl(host, env, "show", "wan0").stdout.startswith("wan0: running")
            assert ctl(host, env, "stop", "wan0").exit_code == 0
            assert second.wait() == 0
        assert ctl(host, env, "stop", "eth0").exit_code == 0
        assert program.wait() == 0
        assert not socket.exists()
        assert ctl(host, env, "show", "eth0").exit_code == 3


def test_a_daemon_without_a_bus_does_what_one_with_a_bus_does(host: Host) -> None:
    before = attachments(host)
    with no_bus(host) as daemon:
        await_socket(daemon, daemon.folder)
        env = environment(daemon.folder)
        answer = ctl(host, env, "run", "--detach", *FILTER, "eth0")
        assert answer.stdout.startswith("eth0: running, ")
        again = ctl(host, env, "run", "--detach", *FILTER, "eth0")
        assert (again.exit_code, "is running already" in again.stderr) == (1, True)
        argv = [command_path("mimicctl"), "monitor"]
        with Foreground(host, argv=argv, env=env) as monitor:
            monitor.await_words("watching mimicd")
            assert ctl(host, env, "log", "debug", "eth0").exit_code == 0
            assert ctl(host, env, "stop", "eth0").exit_code == 0
            monitor.await_words("eth0: stopped")
        assert listed(host, env) == []
        # A second one would be asked by nobody.
        with no_bus(host, env=env) as second:
            assert second.wait() == 1
            assert "no socket to be asked at" in second.log
        assert daemon.terminate() == 0
        assert attachments(host) == before
        answer = ctl(host, env, "list")
        assert answer.exit_code == 3


def test_what_runs_in_the_foreground_ends_with_its_mimicctl_and_outlives_the_daemon(
    host: Host,
) -> None:
    with no_bus(host) as daemon:
        await_socket(daemon, daemon.folder)
        env = environment(daemon.folder)
        argv = [command_path("mimicctl"), "run", *FILTER, "eth0"]
        with Foreground(host, argv=argv, env=env) as bound:
            bound.await_words("eth0 is running")
            for end in (daemon.kill, lambda: hand_over(daemon)):
                end()
                assert filtered(host) == {"eth0"}
                times = bound.log.count("eth0 is running again")
                daemon.start()
                said = times + 1
                wait_until(
                    lambda: bound.log.count("is running again") == said,  # noqa: B023
                    WITHIN_S,
                    "it is bound again",
                )
            bound.kill()
            wait_until(lambda: filtered(host) == set(), WITHIN_S, "it is stopped")
            assert listed(host, env) == []


def hand_over(program: Foreground) -> None:
    program.signal(signal.SIGUSR2)
    assert program.wait() == 0


def test_who_holds_what_is_known_after_a_daemon_on_the_bus_died(host: Host) -> None:
    """Callers that are still there hold it on; whoever has left meanwhile loses it."""
    make_pair(host)
    with Daemon(host) as daemon, daemon.client("run", *FILTER, "eth0") as stays:
        stays.await_words("eth0 is running")
        stays.signal(signal.SIGSTOP)  # it can do nothing to bind again
        with daemon.client("run", *FILTER, "wan0") as leaves:
            leaves.await_words("wan0 is running")
            daemon.kill()
            leaves.kill()
        daemon.start()
        daemon.await_ready()
        # Within less time than callers have to come back.
        wait_until(lambda: filtered(host) == {"eth0"}, 10, "what is held by nobody is stopped")
        assert "its caller has left the bus" in daemon.log
        stays.kill()
        wait_until(lambda: filtered(host) == set(), 10, "the other one is stopped")


# --- network namespaces ---


def test_each_namespace_has_a_daemon_of_its_own(direct_network: Network) -> None:
    """They share bus and folder, and do not meet."""
    a, b = direct_network.a, direct_network.b
    blue, red = a.namespace.name, b.namespace.name
    with Daemon(a, "--netns", blue, wait=False) as first:
        await_owner(first, f"org.mimicd1.netns.{escaped(blue)}")
        bus = f"unix:path={first.folder / 'bus'}"
        env = environment(first.runtime, bus)
        with Foreground(b, "--address", bus, "--netns", red, env=env) as second:
            second.await_words("serving on the bus")
            for name in (blue, red):
                done = ctl(a, env, "run", "--netns", name, "--detach", *FILTER, "eth0")
                assert done.exit_code == 0, done.stderr
            assert filtered(a) == filtered(b) == {"eth0"}
            assert ctl(a, env, "stop", "--netns", red, "eth0").exit_code == 0
            assert (filtered(a), filtered(b)) == ({"eth0"}, set())
            assert listed(b, env, "--netns", blue) == ["eth0"]
            # Without a bus it is their sockets that tell them apart.
            without = environment(first.runtime)
            assert listed(b, without, "--netns", blue) == ["eth0"]
            assert listed(a, without, "--netns", red) == []
            # Nobody serves the usual name.
            assert ctl(a, env, "list").exit_code == 3
        ip(a, "link", "show", "eth0")


def escaped(name: str) -> str:
    return "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in name)


def await_owner(daemon: Daemon, name: str) -> None:
    def owns() -> bool:
        daemon.check_running()
        return daemon.bus.owned(name)

    wait_until(owns, WITHIN_S, f"{name} has an owner")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-namespace", "there is no network namespace no-such-namespace"),
        ("../netns", "is not the name of a network namespace"),
    ],
)
def test_a_namespace_that_is_not_there_is_named(host: Host, name: str, words: str) -> None:
    with no_bus(host, "--netns", name) as program:
        assert program.wait() == 2
        assert words in program.log


def test_a_daemon_in_another_namespace_than_it_says_refuses(direct_network: Network) -> None:
    net = direct_network
    with no_bus(net.a, "--netns", net.b.namespace.name) as program:
        assert program.wait() == 2
        assert f"is not in the network namespace {net.b.namespace.name}" in program.log
