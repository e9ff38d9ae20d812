# SPDX-License-Identifier: GPL-2.0-only
"""The commands as processes: usage, environment, signals, limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kaminari import __version__
from kaminari.options import TABLE, Role
from tests.kaminari.peers import EchoService, assert_echoes
from tests.kaminari.rig import (
    PROJECT,
    STREAM_LAYERS,
    TLS_CLIENT,
    TLS_SERVER,
    WS,
    Layers,
    Rig,
    command,
    free_port,
    is_listening,
    read_until_reset,
    receive,
    wait_for,
)

ROLES = ("client", "server")


def run(role: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SS_")}
    return subprocess.run(
        command(role, *arguments),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**clean, "PYTHONPATH": str(PROJECT), **environment},
    )


@pytest.mark.parametrize("role", ROLES)
def test_help_is_a_short_manual_on_stdout(role: str) -> None:
    for flag in ("--help", "-h"):
        done = run(role, flag)
        assert (done.returncode, done.stderr) == (0, "")
        sections = (
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "SIGNALS",
            "EXIT STATUS",
            "EXAMPLES",
        )
        lines = done.stdout.splitlines()
        assert [line for line in lines if line and line[0].isupper()] == list(sections)
        shown = {line.strip().partition("=")[0] for line in lines}
        assert {row.key for row in TABLE if Role(role) in row.roles} <= shown
        assert all(len(line) <= 79 for line in lines[: lines.index("EXAMPLES")])


@pytest.mark.parametrize("role", ROLES)
def test_the_version_is_on_stdout(role: str) -> None:
    for flag in ("--version", "-V"):
        done = run(role, flag)
        name = {"client": "kaminaric", "server": "kaminaris"}[role]
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{name} {__version__}\n", "")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "three arguments are wanted, 0 are given"),
        (("127.0.0.1:1", "127.0.0.1:2"), "three arguments are wanted, 2 are given"),
        (("127.0.0.1:1", "127.0.0.1:2", "", "x"), "three arguments are wanted, 4 are given"),
        (("--frob",), "unknown argument '--frob'"),
        (("nonsense", "127.0.0.1:2", ""), "local address 'nonsense' has no port"),
        (("127.0.0.1:1", "127.0.0.1:x", ""), "remote address has the port 'x'"),
        (("127.0.0.1:1", "127.0.0.1:2", "ws"), "option 'ws' needs 'host'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    role: str, arguments: tuple[str, ...], words: str
) -> None:
    done = run(role, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("role", ROLES)
def test_a_port_in_use_is_one_line_and_exit_1(rig: Rig, role: str) -> None:
    port = rig.listen().getsockname()[1]
    for options in ("", "workers=2"):
        done = run(role, f"127.0.0.1:{port}", "127.0.0.1:1", options)
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}: address already in use" in done.stderr
        assert done.stderr.count("\n") == 1


def test_an_address_that_is_not_here_is_one_line_and_exit_1() -> None:
    done = run("client", "192.0.2.1:1080", "127.0.0.1:1", "")
    assert done.returncode == 1
    assert "192.0.2.1:1080: cannot assign requested address" in done.stderr


def test_an_unknown_option_is_a_warning_and_the_tunnel_works(rig: Rig) -> None:
    echo, entry = EchoService(rig), free_port()
    client = rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{echo.port}", "frobnicate=1")
    assert "option 'frobnicate' is unknown and ignored" in client.wait_for_line("warning")
    assert_echoes(rig.connect(entry), b"works")


def test_the_log_says_what_listens_where_with_which_layers(rig: Rig) -> None:
    entry = free_port()
    client = rig.client(f"127.0.0.1:{entry}", "server.example:443", f"uot;{WS};{TLS_CLIENT}")
    assert client.lines == [
        f"kaminaric: info: listening on 127.0.0.1:{entry}, uot in ws in tls in tcp, "
        "connecting to server.example:443"
    ]


def test_debug_tells_how_each_connection_ended_and_what_it_carried(rig: Rig) -> None:
    echo, entry = EchoService(rig), free_port()
    client = rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{echo.port}", "", log="debug")
    assert_echoes(rig.connect(entry), b"seven b")
    line = client.wait_for_line("closed (both sides closed)")
    assert "7 bytes onward, 7 bytes back" in line


def environment(listen: int, remote: int, options: str, role: str) -> dict[str, str]:
    local, far = (listen, remote) if role == "client" else (remote, listen)
    return {
        "SS_LOCAL_HOST": "127.0.0.1",
        "SS_LOCAL_PORT": str(local),
        "SS_REMOTE_HOST": "127.0.0.1",
        "SS_REMOTE_PORT": str(far),
        "SS_PLUGIN_OPTIONS": options,
    }


def test_the_environment_of_a_plugin_is_obeyed(rig: Rig) -> None:
    echo, entry, middle = EchoService(rig), free_port(), free_port()
    server = rig.start(command("server"), environment(middle, echo.port, TLS_SERVER, "server"))
    client = rig.start(command("client"), environment(entry, middle, TLS_CLIENT, "client"))
    for process in (server, client):
        process.wait_for_line("listening on")
    assert_echoes(rig.connect(entry), b"works")


def test_a_plugin_may_have_no_options_and_bare_ipv6_hosts(rig: Rig) -> None:
    echo, entry = EchoService(rig), free_port(host="::1")
    variables = environment(entry, echo.port, "", "client") | {"SS_LOCAL_HOST": "::1"}
    del variables["SS_PLUGIN_OPTIONS"]
    rig.start(command("client"), variables).wait_for_line(f"listening on [::1]:{entry}")
    assert_echoes(rig.connect(entry, "::1"), b"works")


def test_a_server_plugin_listens_on_every_host_of_a_list(rig: Rig) -> None:
    echo, middle = EchoService(rig), free_port()
    variables = environment(middle, echo.port, "", "server") | {"SS_REMOTE_HOST": "::|0.0.0.0"}
    rig.start(command("server"), variables).wait_for_line("listening on")
    assert_echoes(rig.connect(middle), b"works")
    assert_echoes(rig.connect(middle, "::1"), b"works")


def test_a_part_of_the_environment_is_refused_and_arguments_win_over_it() -> None:
    done = run("client", SS_LOCAL_HOST="127.0.0.1", SS_LOCAL_PORT="1080")
    assert done.returncode == 2
    assert "SS_LOCAL_HOST is set, but SS_REMOTE_HOST is not" in done.stderr
    done = run("client", "x", "y", "", SS_LOCAL_HOST="127.0.0.1")
    assert "local address 'x'" in done.stderr


@pytest.mark.parametrize("workers", ["", "workers=2"])
def test_a_plugin_ends_with_its_parent_even_a_killed_one(rig: Rig, workers: str) -> None:
    entry = free_port()
    script = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    parent = rig.start(
        [sys.executable, "-c", script, *command("client")],
        environment(entry, 1, workers, "client"),
    )
    parent.wait_for_line("listening on")
    children = Path(f"/proc/{parent.popen.pid}/task/{parent.popen.pid}/children").read_text()
    child = int(children)
    parent.popen.kill()

    def gone() -> bool:
        return not Path(f"/proc/{child}").exists()

    wait_for(gone, "end of the plugin", 5)
    with pytest.raises(ConnectionRefusedError):
        rig.connect(entry)


def test_a_standalone_command_outlives_the_shell_that_started_it(rig: Rig) -> None:
    echo, entry = EchoService(rig), free_port()
    arguments = command("client", f"127.0.0.1:{entry}", f"127.0.0.1:{echo.port}", "")
    parent = rig.start(["sh", "-c", '"$@" & exit 0', "sh", *arguments])
    parent.wait_for_line("listening on")
    wait_for(lambda: parent.popen.poll() is not None, "end of the shell")
    assert_echoes(rig.connect(entry), b"still here")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("options", ["", "workers=2", "workers=8", "uot"])
def test_a_stop_signal_ends_it_with_0(rig: Rig, number: int, options: str) -> None:
    client = rig.client(f"127.0.0.1:{free_port()}", "127.0.0.1:1", options)
    assert client.stop(number) == 0
    assert len(client.lines) == 1, client.log


def test_a_stop_signal_lets_open_connections_finish(rig: Rig) -> None:
    service, entry = rig.listen(), free_port()
    client = rig.client(
        f"127.0.0.1:{entry}", f"127.0.0.1:{service.getsockname()[1]}", "drain-timeout=20"
    )
    near = rig.connect(entry)
    near.sendall(b"begin")
    far = rig.accept(service)
    assert receive(far, 5) == b"begin"
    client.popen.send_signal(signal.SIGTERM)
    wait_for(lambda: not is_listening(entry), "closed port")
    far.sendall(b"end")
    far.close()
    assert receive(near, 100) == b"end"
    near.close()
    assert client.wait() == 0


def test_what_is_still_open_after_the_drain_is_reset(rig: Rig) -> None:
    service, entry = rig.listen(), free_port()
    client = rig.client(
        f"127.0.0.1:{entry}", f"127.0.0.1:{service.getsockname()[1]}", "drain-timeout=0.2"
    )
    near = rig.connect(entry)
    far = rig.accept(service)
    assert client.stop() == 0
    assert read_until_reset(near) == read_until_reset(far) == b""


def test_a_second_stop_signal_ends_it_at_once(rig: Rig) -> None:
    service, entry = rig.listen(), free_port()
    client = rig.client(
        f"127.0.0.1:{entry}", f"127.0.0.1:{service.getsockname()[1]}", "drain-timeout=1000"
    )
    rig.connect(entry)
    rig.accept(service)
    client.popen.send_signal(signal.SIGTERM)
    wait_for(lambda: not is_listening(entry), "closed port")
    assert client.stop() == 0


def test_an_idle_connection_is_ended_and_a_busy_one_is_not(rig: Rig) -> None:
    echo, entry = EchoService(rig), free_port()
    client = rig.client(
        f"127.0.0.1:{entry}", f"127.0.0.1:{echo.port}", "idle-timeout=0.6", log="debug"
    )
    busy, idle = rig.connect(entry), rig.connect(entry)
    stop = threading.Event()
    echoes = []

    def keep_busy() -> None:
        while not stop.wait(0.1):
            busy.sendall(b"x")
            echoes.append(busy.recv(1))

    thread = threading.Thread(target=keep_busy)
    thread.start()
    try:
        assert read_until_reset(idle) == b""
    finally:
        stop.set()
        thread.join()
    assert "idle for 0.6 s" in client.wait_for_line("closed (")
    assert len(echoes) >= 3
    assert set(echoes) == {b"x"}


def test_connections_beyond_the_limit_wait_until_another_ends(rig: Rig) -> None:
    echo, entry = EchoService(rig), free_port()
    rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{echo.port}", "max-connections=2")
    first, second, third = (rig.connect(entry) for _ in range(3))
    for sock in (first, second, third):
        sock.sendall(b"x")
    assert first.recv(1) == second.recv(1) == b"x"
    third.settimeout(0.3)
    with pytest.raises(TimeoutError):
        third.recv(1)
    first.close()
    third.settimeout(30)
    assert third.recv(1) == b"x"


@pytest.mark.parametrize("layers", STREAM_LAYERS, ids=lambda layers: layers.name)
def test_workers_share_a_port(rig: Rig, layers: Layers) -> None:
    echo = EchoService(rig)
    several = Layers("workers", f"{layers.client};workers=2", f"{layers.server};workers=3")
    tunnel = rig.tunnel(several, echo.port)
    for _ in range(12):
        assert_echoes(rig.connect(tunnel.entry), b"works")
    assert tunnel.client.stop() == 0
    assert tunnel.server.stop() == 0


def test_a_worker_that_dies_ends_them_all_with_1(rig: Rig) -> None:
    entry = free_port()
    client = rig.client(f"127.0.0.1:{entry}", "127.0.0.1:1", "workers=2")
    pid = client.popen.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[0]), signal.SIGKILL)
    assert client.wait() == 1
    client.wait_for_line("a worker ended unexpectedly")


def test_it_works_where_splice_numpy_and_uvloop_are_missing(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, sys\ndel os.splice\n")
    for name in ("numpy", "uvloop"):
        (tmp_path / f"{name}.py").write_text("raise ImportError\n")
    echo = EchoService(rig)
    bare = {"PYTHONPATH": f"{tmp_path}:{PROJECT}"}
    for layers in (STREAM_LAYERS[0], STREAM_LAYERS[1], STREAM_LAYERS[3]):
        entry, middle = free_port(), free_port()
        for role, port, remote, options in (
            ("server", middle, echo.port, layers.server),
            ("client", entry, middle, layers.client),
        ):
            arguments = command(role, f"127.0.0.1:{port}", f"127.0.0.1:{remote}", options)
            rig.start(arguments, bare).wait_for_line("listening on")
        assert_echoes(rig.connect(entry), os.urandom(3 << 20))
