# SPDX-License-Identifier: GPL-2.0-only
"""mimicctl as a process against the real service over a fake manager."""

import asyncio
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mimicctl.arguments import Request
from mimicctl.client import Client
from mimicctl.commands import Commands
from mimicctl.output import Output
from mimicctl.stopping import StopSignals
from mimicd.bus import names
from mimicd.core.errors import InvalidConfigError
from tests.bus.caller import run, serving, until
from tests.bus.dbus_daemon import PrivateBus
from tests.bus.programs import PYTHON, ROOT, StandIn, client, ctl, running
from tests.rig.nobody import AS_NOBODY

T = TypeVar("T")

FILTER = "remote=203.0.113.5:51820"
WATCHING = "mimicctl: watching mimicd, Ctrl-C ends it\n"


def test_list_with_nothing_running_prints_nothing(bus: PrivateBus) -> None:
    with StandIn(bus):
        assert ctl(bus, "list") == (0, "", "")
        assert ctl(bus, "list", "--json") == (0, "[]\n", "")
        assert ctl(bus, "show") == (0, "", "")


def test_run_detached_prints_one_line_and_leaves_it_running_until_stop(bus: PrivateBus) -> None:
    with StandIn(bus):
        line = "eth0: running, link eth, XDP native, 1 filter\n"
        assert ctl(bus, "run", "--detach", "-f", FILTER, "eth0") == (0, line, "")
        assert running(bus) == ["eth0"]
        assert ctl(bus, "stop", "eth0") == (0, "", "")
        assert running(bus) == []
        code, out, err = ctl(bus, "stop", "eth0")
        assert (code, out) == (1, "")
        assert err == "mimicctl: eth0 is not running\nhint: see mimicctl list\n"


def test_options_may_stand_on_either_side_of_the_interface_and_reach_the_daemon(
    bus: PrivateBus, tmp_path: Path
) -> None:
    config = tmp_path / "eth0.conf"
    config.write_text(f"filter = {FILTER}\npadding = 3\nlog.verbosity = warn\n")
    with StandIn(bus):
        code, _, err = ctl(
            bus,
            *("run", "-v", "eth0", "--detach", "-F", str(config), "-f", "local=192.0.2.1:6000"),
            *("-p", "random", "-h", "5:"),
        )
        assert (code, err) == (0, "")
        (view,) = json.loads(ctl(bus, "list", "--json")[1])
        assert view["filters"] == [FILTER, "local=192.0.2.1:6000"]
        settings = view["settings"]
        assert (settings["padding"], settings["handshake"]) == ("random", "5:3")
        assert settings["log.verbosity"] == "info"


def test_show_prints_facts_and_connections_and_json_for_programs(bus: PrivateBus) -> None:
    with StandIn(bus, "--running", "eth0", "--running", "eth1") as daemon:
        code, out, err = ctl(bus, "show", "eth0")
        assert (code, err) == (0, "")
        assert out.startswith("eth0: running\n")
        assert f"PID {daemon.process.pid}, mimicd 1.2.3" in out
        assert "1460 bytes of UDP" in out
        assert out.count("established  initiator") == 3
        assert "eth1" not in out

        assert "LOCAL" not in ctl(bus, "show", "-p", "eth0")[1]
        assert "PID" not in ctl(bus, "show", "-c", "eth0")[1]
        assert ctl(bus, "show")[1].count(": running\n") == 2
        assert ctl(bus, "show", "-c")[1].count(": 3 connections: 3 established\nLOCAL") == 2

        shown = json.loads(ctl(bus, "show", "--json", "eth1")[1])
        assert shown["pid"] == daemon.process.pid
        assert [view["name"] for view in shown["interfaces"]] == ["eth1"]
        assert {one["interface"] for one in shown["connections"]} == {"eth1"}
        assert "connections" not in json.loads(ctl(bus, "show", "--json", "-p")[1])
        assert "interfaces" not in json.loads(ctl(bus, "show", "--json", "-c")[1])
        assert json.loads(ctl(bus, "list", "--json")[1])[1] == shown["interfaces"][0]


def test_show_ends_with_a_sentence_for_each_connection_that_does_not_work(bus: PrivateBus) -> None:
    note = "no answer to the SYN yet"
    with StandIn(bus, "--running", "eth0", "--note", note):
        for options in ((), ("-c",), ("eth0",)):
            out = ctl(bus, "show", *options)[1]
            assert out.endswith(f"\n\n192.0.2.1:51820 -> 203.0.113.5:3: {note}\n")
        assert note not in ctl(bus, "show", "-p")[1]


def test_show_of_an_interface_that_is_not_running_fails(bus: PrivateBus) -> None:
    with StandIn(bus, "--running", "eth0"):
        code, out, err = ctl(bus, "show", "eth9")
        assert (code, out) == (1, "")
        assert err == "mimicctl: eth9 is not running\nhint: mimicctl list shows what is\n"


def test_an_error_of_the_daemon_is_told_with_its_hint_and_exit_code(bus: PrivateBus) -> None:
    with StandIn(bus, "--running", "eth0"):
        code, out, err = ctl(bus, "run", "--detach", "-f", FILTER, "eth0")
        assert (code, out) == (1, "")
        assert err == "mimicctl: eth0 is running already\nhint: stop it first\n"
        code, _, err = ctl(bus, "run", "-f", FILTER, "nosuch0")
        assert code == 1
        assert err == "mimicctl: there is no interface nosuch0\nhint: see ip link\n"


@pytest.mark.parametrize("command", ["list", "show", "monitor"])
def test_a_bus_that_is_not_there_is_exit_code_3(command: str) -> None:
    code, out, err = ctl(None, command)
    assert (code, out) == (3, "")
    assert "the bus at unix:path=/nonexistent/bus cannot be reached: No such file" in err
    assert "hint: start it, or name another one with --address" in err


@pytest.mark.parametrize(
    "arguments",
    [("list",), ("show", "eth0"), ("stop", "eth0"), ("run", "-f", FILTER, "eth0"), ("monitor",)],
)
def test_a_daemon_that_is_not_there_is_exit_code_3(
    bus: PrivateBus, arguments: tuple[str, ...]
) -> None:
    code, out, err = ctl(bus, *arguments)
    assert (code, out) == (3, "")
    assert err.startswith(f"mimicctl: mimicd is not on the bus at {bus.address}\nhint: start it")


def test_bad_usage_and_bad_settings_are_exit_code_2_and_need_no_daemon(tmp_path: Path) -> None:
    config = tmp_path / "bad.conf"
    config.write_text(f"filter = {FILTER}\npaddin = 3\nhandshake = x:1\n")
    code, out, err = ctl(None, "run", "-F", str(config), "eth0")
    assert (code, out) == (2, "")
    assert f'mimicctl: {config}:2:1: unknown key "paddin"' in err
    assert "did you mean padding?" in err
    assert f"{config}:3:13: " in err

    code, _, err = ctl(None, "run", "eth0")
    assert (code, "no filter given" in err) == (2, True)
    code, _, err = ctl(None, "run", "-F", str(tmp_path / "none.conf"), "eth0")
    assert code == 2
    assert err == f"mimicctl: {tmp_path}/none.conf cannot be read: No such file or directory\n"
    code, _, err = ctl(None, "run", "--colour", "eth0")
    assert code == 2
    assert err == (
        "mimicctl: option --colour not recognized\nhint: mimicctl run --help lists the options\n"
    )


def test_run_check_checks_without_a_daemon(tmp_path: Path) -> None:
    checked = ctl(None, "run", "--check", "-f", FILTER, "eth0")
    assert checked == (0, "eth0: the settings are good\n", "")
    assert ctl(None, "run", "--check", "-f", "remote=203.0.113.5", "eth0")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (("--help",), "Usage: mimicctl [OPTION...] COMMAND"),
        (("run", "-?"), "Usage: mimicctl run [OPTION...] <interface>\nDisguise"),
        (("show", "--usage"), "Usage: mimicctl show [OPTION...] [<interface>]\n"),
        (("-V",), "mimicctl "),
        (("list", "--version"), "mimicctl "),
    ],
)
def test_help_usage_and_version_are_data(arguments: tuple[str, ...], start: str) -> None:
    code, out, err = ctl(None, *arguments)
    assert (code, err) == (0, "")
    assert out.startswith(start)


@pytest.mark.root
def test_what_the_policy_refuses_is_exit_code_4(bus: PrivateBus) -> None:
    with StandIn(bus):
        done = subprocess.run(
            [
                *AS_NOBODY,
                *(sys.executable, "-B", "-m", "mimicctl", "run", "-f", FILTER, "eth0"),
            ],
            cwd=ROOT,
            env={**os.environ, names.ADDRESS_VARIABLE: bus.address},
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
        )
        assert done.returncode == 4
        assert done.stderr == (
            "mimicctl: changing anything needs root, the caller is user 65534\nhint: use sudo\n"
        )
        assert running(bus) == []


def test_reload_hands_over_the_settings_of_the_command_line(bus: PrivateBus) -> None:
    with StandIn(bus, "--running", "eth0"):
        assert ctl(bus, "reload", "-f", FILTER, "-p", "7", "eth0") == (0, "", "")
        (view,) = json.loads(ctl(bus, "list", "--json")[1])
        assert view["settings"]["padding"] == "7"
        code, _, err = ctl(bus, "reload", "-p", "7")
        assert code == 2
        assert "these settings are for no interface" in err


def test_reload_without_settings_reads_the_file_of_every_running_interface(
    bus: PrivateBus, tmp_path: Path
) -> None:
    (tmp_path / "eth0.conf").write_text(f"filter = {FILTER}\npadding = 5\n")

    async def scene() -> None:
        async with serving(bus) as (manager, _):
            for name in ("eth0", "eth1"):
                manager.add(name, {"filter": [FILTER]})

            async def reload(interface: str) -> None:
                request = Request("reload", interface, address=bus.address)
                commands = Commands(request, Output(), Unstopped(), tmp_path)
                await commands.perform()

            await reload("")
            expected = ("reload", "eth0", {"filter": [FILTER], "padding": "5"})
            assert manager.calls == [expected]
            await reload("eth0")
            assert manager.calls == [expected, expected]
            with pytest.raises(InvalidConfigError, match=r"eth1\.conf cannot be read"):
                await reload("eth1")
            with pytest.raises(InvalidConfigError, match="is not the name of an interface"):
                await reload("../eth0")
            assert len(manager.calls) == 2

    run(scene())


class Unstopped(StopSignals):
    """No signal ever comes, and none is caught."""

    def __init__(self) -> None:
        pass

    async def race(self, work: Coroutine[Any, Any, T]) -> T:
        return await work


def test_monitor_prints_what_happens_until_ctrl_c(bus: PrivateBus) -> None:
    with (
        StandIn(bus) as daemon,
        client(bus, "monitor") as people,
        client(bus, "monitor", "--json", "eth0", log="json.log") as program,
    ):
        for monitor in (people, program):
            monitor.until_says(WATCHING)
        ctl(bus, "run", "--detach", "-f", FILTER, "eth1")
        ctl(bus, "run", "--detach", "-f", FILTER, "eth0")
        daemon.signal(signal.SIGUSR1)
        program.until_says("eth0 says hello")
        ctl(bus, "stop", "eth0")
        program.until_says("interface-removed")
        people.until_says("eth0: stopped")
        for monitor in (people, program):
            monitor.signal(signal.SIGINT)
            assert monitor.wait() == 0
        events = [json.loads(line) for line in program.words.removeprefix(WATCHING).splitlines()]
        assert events == [
            {"event": "interface-added", "interface": "eth0"},
            {"event": "log", "interface": "eth0", "level": "info", "text": "eth0 says hello"},
            {"event": "interface-removed", "interface": "eth0"},
        ]
        words = people.words.removeprefix(WATCHING)
        assert [line.partition(" ")[2] for line in words.splitlines()] == [
            "eth1: running",
            "eth0: running",
            "info  eth1: eth1 says hello",
            "info  eth0: eth0 says hello",
            "eth0: stopped",
        ]


def test_monitor_says_that_the_daemon_left_and_came_back(bus: PrivateBus) -> None:
    with StandIn(bus) as daemon, client(bus, "monitor") as monitor:
        monitor.until_says(WATCHING)
        daemon.kill()
        monitor.until_says("mimicctl: mimicd has left the bus")
        daemon.start()
        monitor.until_says("mimicctl: mimicd is on the bus")


def test_output_that_nobody_reads_is_no_traceback(bus: PrivateBus) -> None:
    with StandIn(bus, "--running", "eth0"):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [*PYTHON, "-m", "mimicctl", "show"],
            cwd=ROOT,
            stdout=writing,
            stderr=subprocess.PIPE,
            env={**os.environ, names.ADDRESS_VARIABLE: bus.address},
            timeout=15,
            check=False,
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (1, b"")


def shown_on_a_terminal(bus: PrivateBus, columns: int, **environ: str) -> bytes:
    """What `show eth0` writes to one that is so wide; 0: it does not know."""
    controller, terminal = pty.openpty()
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
        given = {
            names.ADDRESS_VARIABLE: bus.address,
            "NO_COLOR": "",
            "TERM": "xterm",
            "COLUMNS": "",
        }
        given |= environ
        done = subprocess.run(
            [*PYTHON, "-m", "mimicctl", "show", "eth0"],
            cwd=ROOT,
            stdout=terminal,
            env={**os.environ, **given},
            timeout=15,
            check=False,
        )
        assert done.returncode == 0
        return os.read(controller, 65536)
    finally:
        os.close(terminal)
        os.close(controller)


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_is_for_a_terminal_only(bus: PrivateBus, no_color: str, coloured: bool) -> None:
    with StandIn(bus, "--running", "eth0"):
        assert "\x1b[" not in ctl(bus, "show")[1]
        shown = shown_on_a_terminal(bus, 0, NO_COLOR=no_color)
        assert (b"\x1b[32mestablished\x1b[0m" in shown) is coloured
        assert (b"\x1b" in shown) is coloured


def test_what_is_shown_fits_the_terminal(bus: PrivateBus) -> None:
    note = "waiting for 203.0.113.5:3 for 9 s: nothing was received; does a firewall drop it?"
    with StandIn(bus, "--running", "eth0", "--note", note):
        # A pipe has no width.
        assert max(map(len, ctl(bus, "show")[1].splitlines())) > 120
        for columns in (80, 120):
            shown = shown_on_a_terminal(bus, columns, NO_COLOR="1").decode()
            assert max(map(len, shown.splitlines())) <= columns
            assert shown.count("seq ") == 4
            assert note in " ".join(shown.split())


def test_events_that_come_faster_than_they_are_taken_are_counted_and_told(
    bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimicctl.client._EVENTS_LIMIT", 10)

    async def scene() -> None:
        async with serving(bus) as (manager, _):
            client = await Client.open(bus.address)
            try:
                await client.follow("eth0")
                for number in range(100):
                    manager.say("eth0", 2, f"line {number}")
                await until(lambda: client.missed == 90, "the tenth line and no more is kept")
                told = [(await client.next_event()).text for _ in range(11)]
            finally:
                client.close()
            assert told == ["90 events are lost, they came too fast"] + [
                f"line {number}" for number in range(10)
            ]

    run(scene(), asyncio.new_event_loop)


def test_how_long_other_sockets_wait_is_not_changed_by_a_connection(bus: PrivateBus) -> None:
    async def scene() -> None:
        client = await Client.open(bus.address)
        client.close()
        with socket.socket() as other:
            assert other.gettimeout() is None

    run(scene(), asyncio.new_event_loop)


def test_the_log_level_is_set_of_one_interface_or_all(bus: PrivateBus) -> None:
    with StandIn(bus, "--running", "eth0"):
        assert ctl(bus, "log", "debug", "eth0") == (0, "", "")
        assert ctl(bus, "log", "3") == (0, "", "")
        code, _, err = ctl(bus, "log", "trcae")
        assert (code, "did you mean trace?" in err) == (2, True)
        code, _, err = ctl(bus, "log", "info", "eth9")
        assert (code, err.startswith("mimicctl: eth9 is not running")) == (1, True)


def test_check_needs_no_daemon_and_tells_every_fault_of_every_file(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.conf", tmp_path / "bad.conf"
    good.write_text(f"filter = {FILTER}\nuse_libxdp = true\n")
    bad.write_text("handshake = x:1\r\n\r\npaddin = 3\r\nfilter = remote=203.0.113.5\r\n")
    code, out, err = ctl(None, "check", "-F", str(good))
    assert (code, out) == (0, f"{good}: the settings are good, 1 filter\n")
    assert err.startswith(f"mimicctl: {good}:2:14: use_libxdp has no effect")

    code, out, err = ctl(None, "check", "-F", str(bad))
    assert (code, out) == (2, "")
    first, second, third = err.splitlines()
    assert first.startswith(f'mimicctl: {bad}:1:13: handshake: interval "x" is not a number')
    assert second == f'{bad}:3:1: unknown key "paddin" (did you mean padding?)'
    assert third.startswith(f'{bad}:4:17: filter "remote=203.0.113.5": ')

    code, _, err = ctl(None, "check", "-F", str(good), "-f", FILTER, "-p", "17")
    assert (code, "padding" in err, "same address and port" in err) == (2, True, True)
    (tmp_path / "empty.conf").write_text("# nothing yet\n")
    code, _, err = ctl(None, "check", "-F", str(tmp_path / "empty.conf"))
    assert (code, "empty.conf: no filter given" in err) == (2, True)
    code, _, err = ctl(None, "check", "-F", str(tmp_path / "none.conf"))
    assert (code, "cannot be read: No such file" in err) == (2, True)


def test_check_without_a_file_reads_those_in_the_configuration_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(names.ADDRESS_VARIABLE, "unix:path=/nonexistent/bus")

    def check(interface: str = "") -> None:
        commands = Commands(Request("check", interface), Output(), Unstopped(), tmp_path)
        run(commands.perform())

    with pytest.raises(InvalidConfigError, match="no file"):
        check()
    for name in ("eth0", "eth1"):
        (tmp_path / f"{name}.conf").write_text(f"filter = {FILTER}\n")
    check("eth1")
    assert capsys.readouterr().out == f"{tmp_path}/eth1.conf: the settings are good, 1 filter\n"
    check()
    assert len(capsys.readouterr().out.splitlines()) == 2
    for name in ("eth1", "eth2"):
        (tmp_path / f"{name}.conf").write_text("padding = 99\n")
    with pytest.raises(InvalidConfigError) as caught:
        check()
    assert [problem.name for problem in caught.value.problems] == [
        f"{tmp_path}/eth{number}.conf" for number in (1, 2)
    ]
