# SPDX-License-Identifier: GPL-2.0-only
"""What the rig starts is measured and ended, and nothing outlives a test that dies."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.attachments import attachments
from tests.rig.bpffs import system_bpffs
from tests.rig.bus import private_bus
from tests.rig.daemon import ROOT, Daemon, Program
from tests.rig.endpoint import RawEndpoint
from tests.rig.namespace import (
    NETNS_FOLDER,
    Namespace,
    RigError,
    names_of,
    scratch_folder,
    wait_until,
)
from tests.rig.network import Network

CHILD = """
import subprocess, sys, time
from tests.rig.namespace import scratch_folder
from tests.rig.network import routed
with routed(wire=True) as net, scratch_folder() as folder:
    inside = net.a.namespace.start("sleep", "1000")
    print(inside.pid, folder, net.a.namespace.name, net.router.namespace.name, flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_everything_is_gone_after_the_process_was_killed(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        pid, folder, *names = child.stdout.readline().decode().split()
        assert all((NETNS_FOLDER / name).exists() for name in names)
        assert Path(folder).is_dir()
        assert len(names_of(child.pid)) == 5
        child.send_signal(number)
        child.wait(10)
    wait_until(lambda: not names_of(child.pid), 10, "everything of the dead process removed")
    wait_until(lambda: not process_runs(int(pid)), 10, "what ran inside is ended")


def process_runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_namespace_takes_what_runs_inside_with_it() -> None:
    with Namespace("solo") as namespace:
        sleeper = namespace.start("sleep", "1000")
        wait_until(lambda: sleeper.pid in namespace.processes(), 5, "sleep runs inside")
    assert sleeper.wait(5) == -signal.SIGKILL
    assert not namespace.path.exists()


def test_a_scratch_folder_goes_with_what_is_mounted_in_it() -> None:
    with scratch_folder() as folder:
        (folder / "inside").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", folder / "inside"], check=True)
        (folder / "inside" / "file").touch()
    assert not folder.exists()
    assert str(folder) not in Path("/proc/self/mounts").read_text()


def test_a_bpffs_in_a_mount_namespace_of_its_own_is_seen_from_outside() -> None:
    with Namespace("solo") as namespace, system_bpffs(namespace) as mounts:
        folder = mounts.path("/sys/fs/bpf") / "mine"
        subprocess.run(mounts.command("mkdir", "/sys/fs/bpf/mine"), check=True)
        assert folder.is_dir()
        assert not Path("/sys/fs/bpf/mine").exists()


def test_a_failing_command_is_an_error_with_its_words() -> None:
    with Namespace("solo") as namespace, pytest.raises(RigError, match=r"exited 1: .*eth9"):
        namespace.run("ip", "link", "set", "eth9", "up")


def test_a_private_bus_answers_and_can_refuse_names() -> None:
    for may_own, words in ((True, "uint32 1"), (False, "AccessDenied")):
        with (
            Namespace("solo") as namespace,
            scratch_folder() as folder,
            private_bus(namespace, folder, may_own) as bus,
        ):
            assert bus.owned("org.freedesktop.DBus")
            assert not bus.owned("org.mimicd1")
            request = ("RequestName", "string:org.mimicd1", "uint32:4")
            if may_own:
                assert words in bus.call(*request)
            else:
                with pytest.raises(RigError, match=words):
                    bus.call(*request)


def test_a_program_is_started_measured_and_ended(direct_network: Network, tmp_path: Path) -> None:
    program = Program(
        direct_network.a,
        ["sh", "-c", "echo ready; while :; do sleep 0.1; done"],
        tmp_path / "log",
        dict(os.environ),
    )
    try:
        program.start()
        wait_until(lambda: "ready" in program.log, 5, "its first words")
        program.check_running()
        assert 100 < program.resident_kib() < 100_000
        assert program.cpu_s() < 5
        assert program.pid in direct_network.a.namespace.processes()
        assert program.terminate() == -signal.SIGTERM
        with pytest.raises(RigError, match="ended with -15: ready"):
            program.check_running()
    finally:
        program.end()


STANDIN = """
import asyncio, os, signal, sys
from dbus_next.aio.message_bus import MessageBus

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    bus = await MessageBus(sys.argv[sys.argv.index("--address") + 1]).connect()
    print("state in", os.environ["RUNTIME_DIRECTORY"], flush=True)
    await bus.request_name("org.mimicd1")
    await stop.wait()

asyncio.run(main())
"""


def test_a_daemon_is_ready_when_it_owns_its_name_and_again_after_a_kill(
    direct_network: Network,
) -> None:
    with Daemon(direct_network.a, program=[sys.executable, "-c", STANDIN]) as daemon:
        assert daemon.bus.owner_pid("org.mimicd1") == daemon.pid
        assert f"state in {daemon.runtime}" in daemon.log
        assert daemon.runtime.is_dir()
        assert daemon.ctl("--version", check=True).stderr == ""
        with pytest.raises(RigError, match="exited 2"):
            daemon.ctl("--no-such-option", check=True)
        daemon.kill()
        wait_until(lambda: not daemon.bus.owned("org.mimicd1"), 3, "the name free")
        daemon.start()
        daemon.await_ready()
        assert daemon.terminate() == 0
        folder = daemon.folder
    assert not folder.exists()
    assert not direct_network.a.namespace.processes()


def test_a_daemon_that_ends_at_once_is_an_error_with_its_words(direct_network: Network) -> None:
    failing = ["sh", "-c", "echo no such luck; exit 3"]
    with (
        pytest.raises(RigError, match="ended with 3: no such luck"),
        Daemon(direct_network.a, program=failing),
    ):
        pass
    assert not direct_network.a.namespace.processes()


def test_attachments_show_what_was_added_and_that_it_is_gone(direct_network: Network) -> None:
    net = direct_network
    before = attachments(net.a)
    assert attachments(net.b) == before
    assert not before.is_complete
    net.a.namespace.run("tc", "qdisc", "add", "dev", "eth0", "clsact")
    net.a.namespace.run("ip", "link", "add", "extra", "type", "veth", "peer", "name", "other")
    with RawEndpoint(net.a, 1, (net.b.address(), 1)):
        during = attachments(net.a)
    assert set(during.links) - set(before.links) == {"extra", "other"}
    assert len(during.qdiscs) > len(before.qdiscs)
    assert len(during.packet_sockets) == 1
    net.a.namespace.run("tc", "qdisc", "del", "dev", "eth0", "clsact")
    net.a.namespace.run("ip", "link", "del", "extra")
    assert attachments(net.a) == before
