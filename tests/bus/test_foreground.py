# SPDX-License-Identifier: GPL-2.0-only
"""`mimicctl run` in the foreground: what ends it, and what it survives."""

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.bus.dbus_daemon import PrivateBus
from tests.bus.programs import Program, StandIn, client, ctl, foreground, running
from tests.rig.namespace import wait_until

STOP_WITHIN_S = 3.0


def seconds_to_end(program: Program) -> tuple[int, float]:
    """Exit code, and how long it takes from the stop signal to the end."""
    begun = time.monotonic()
    program.signal(signal.SIGTERM)
    code = program.wait()
    return code, time.monotonic() - begun


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_stops_the_interface_and_exits_0(
    bus: PrivateBus, number: signal.Signals
) -> None:
    with StandIn(bus), foreground(bus) as run:
        assert running(bus) == ["eth0"]
        run.signal(number)
        assert run.wait() == 0
        assert running(bus) == []
        assert run.words == (
            "mimicctl: eth0 is running, Ctrl-C stops it\nmimicctl: eth0 is stopped\n"
        )


def test_the_log_of_its_interface_is_printed(bus: PrivateBus) -> None:
    with StandIn(bus, "--running", "eth1") as daemon, foreground(bus) as run:
        daemon.signal(signal.SIGUSR1)
        run.until_says("info  eth0: eth0 says hello\n")
        run.signal(signal.SIGINT)
        assert run.wait() == 0
        assert "eth1" not in run.words


def test_being_killed_stops_the_interface_too(bus: PrivateBus) -> None:
    with StandIn(bus), foreground(bus) as run:
        run.kill()
        wait_until(lambda: not running(bus), 10, "eth0 is stopped")


def test_a_daemon_that_is_restarted_gets_the_interface_again(bus: PrivateBus) -> None:
    with StandIn(bus) as daemon, foreground(bus) as run:
        for count in (1, 2):
            daemon.kill()
            run.until_says("mimicctl: mimicd has left the bus, waiting", count)
            daemon.start()
            run.until_says("mimicctl: eth0 is running again", count)
            assert running(bus) == ["eth0"]
        run.signal(signal.SIGINT)
        assert run.wait() == 0
        assert running(bus) == []


def test_a_daemon_that_stops_what_runs_before_it_leaves_is_waited_for(bus: PrivateBus) -> None:
    with StandIn(bus, "--stop-first") as daemon, foreground(bus) as run:
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        run.until_says("mimicctl: mimicd has left the bus, waiting")
        daemon.start()
        run.until_says("mimicctl: eth0 is running again")
        run.signal(signal.SIGINT)
        assert run.wait() == 0


def test_an_interface_that_outlived_the_daemon_is_bound_again(bus: PrivateBus) -> None:
    with StandIn(bus) as first, foreground(bus) as run:
        first.kill()
        with StandIn(bus, "--running", "eth0", "--bound"):
            run.until_says("eth0 is running again")
            assert running(bus) == ["eth0"]
            run.kill()
            wait_until(lambda: not running(bus), 10, "eth0 is stopped with its caller")


def test_a_bus_that_is_restarted_is_waited_for(bus: PrivateBus) -> None:
    with StandIn(bus), foreground(bus) as run:
        bus.stop()
        run.until_says("mimicctl: the bus is gone, waiting for it to come back")
        bus.start()
        run.until_says("mimicctl: eth0 is running again")
        assert running(bus) == ["eth0"]
        run.signal(signal.SIGINT)
        assert run.wait() == 0
        assert running(bus) == []


def test_somebody_else_stopping_the_interface_ends_it_with_exit_code_1(bus: PrivateBus) -> None:
    with StandIn(bus), foreground(bus) as run:
        assert ctl(bus, "stop", "eth0")[0] == 0
        assert run.wait() == 1
        assert "mimicctl: eth0 was stopped, not by this mimicctl" in run.words


def test_a_second_run_of_the_interface_fails_and_takes_nothing_along(bus: PrivateBus) -> None:
    with StandIn(bus), foreground(bus) as run:
        code, _, err = ctl(bus, "run", "-f", "remote=203.0.113.5:51820", "eth0")
        assert (code, err) == (1, "mimicctl: eth0 is running already\nhint: stop it first\n")
        assert running(bus) == ["eth0"]
        run.signal(signal.SIGINT)
        assert run.wait() == 0


def test_a_stop_signal_while_the_daemon_is_away_ends_it_in_time(bus: PrivateBus) -> None:
    with StandIn(bus) as daemon, foreground(bus) as run:
        daemon.kill()
        run.until_says("waiting for it to come back")
        code, seconds = seconds_to_end(run)
        assert code == 3
        assert seconds < STOP_WITHIN_S
        assert "mimicctl: eth0 may still be running: mimicd is not on the bus" in run.words


def test_a_stop_signal_ends_it_in_time_when_the_bus_is_gone(bus: PrivateBus) -> None:
    with StandIn(bus), foreground(bus) as run:
        bus.stop()
        run.until_says("the bus is gone")
        code, seconds = seconds_to_end(run)
        assert code == 3
        assert seconds < STOP_WITHIN_S


def test_a_stop_signal_ends_it_in_time_when_the_bus_hangs(bus: PrivateBus) -> None:
    with StandIn(bus), foreground(bus) as run:
        with bus.frozen():
            code, seconds = seconds_to_end(run)
        assert code == 3
        assert seconds < STOP_WITHIN_S
        assert "eth0 may still be running: mimicd did not answer within 2 s" in run.words
        wait_until(lambda: not running(bus), 10, "eth0 is stopped with its caller")


@pytest.mark.parametrize("arguments", [("list",), ("stop", "eth0"), ("monitor",)])
def test_a_stop_signal_ends_any_command_in_time_when_the_bus_hangs(
    bus: PrivateBus, arguments: tuple[str, ...]
) -> None:
    with StandIn(bus), bus.frozen(), client(bus, *arguments) as program:
        wait_until(lambda: connected(program), 10, "it waits for the bus")
        _, seconds = seconds_to_end(program)
        assert seconds < STOP_WITHIN_S
        assert "Traceback" not in program.words


def connected(program: Program) -> bool:
    """Whether it holds a connected Unix socket."""
    sockets = subprocess.run(
        ["ss", "--unix", "--processes", "--no-header", "state", "connected"],
        capture_output=True,
        text=True,
        check=True,
    )
    return f"pid={program.process.pid}," in sockets.stdout


def test_a_bus_whose_queue_is_full_is_not_waited_for(tmp_path: Path, bus: PrivateBus) -> None:
    path = str(tmp_path / "bus")
    with socket.socket(socket.AF_UNIX) as hanging, socket.socket(socket.AF_UNIX) as waiting:
        hanging.bind(path)
        hanging.listen(0)
        waiting.connect(path)
        code, _, err = ctl(bus, "list", "--address", f"unix:path={path}")
    assert code == 3
    assert "it does not answer" in err
