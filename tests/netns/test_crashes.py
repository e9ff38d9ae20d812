# SPDX-License-Identifier: GPL-2.0-only
"""The daemon dies at any moment, and the next one finds what it left, in whatever state."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mimicd import state
from mimicd.core import abi
from mimicd.kernel import bpf
from tests.netns.disguise import remote_and_local, wire_capture
from tests.netns.talk import heard, say_until
from tests.netns.test_lifecycle import connections
from tests.rig.attachments import attachments
from tests.rig.bpffs import system_bpffs
from tests.rig.daemon import ROOT, Daemon, Foreground, command_path
from tests.rig.namespace import scratch_folder, wait_until
from tests.rig.network import Network
from tests.rig.traffic import exchange, flow

PORT = 51820
WITHIN_S = 60.0
SOME, ALL = 7, 1
STEPS_MIN = 20


@pytest.mark.parametrize(
    "every", [pytest.param(SOME, id="some"), pytest.param(ALL, id="all", marks=pytest.mark.slow)]
)
def test_whatever_step_it_dies_at_the_next_one_adopts_or_clears_away(
    direct_network: Network, every: int
) -> None:
    host = direct_network.a
    before = attachments(host)
    # a bpffs is mounted there, which no test that is killed may leave behind
    with scratch_folder() as folder:
        done = host.namespace.run(
            *(sys.executable, "-m", "tests.netns.dying", host.interface, str(folder), str(every)),
            check=False,
            timeout_s=240,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    assert done.stdout.count("dies before") * every > STEPS_MIN
    assert "adopted" in done.stdout
    assert "cleared away" in done.stdout
    assert attachments(host) == before


# --- a version that knows other maps ---


def rename_layout(pins: Path) -> None:
    (folder,) = pins.glob("*/v*")
    folder.rename(folder.with_name("v99"))


def change_layout(pins: Path) -> None:
    """The pin of a map leads to one with larger values."""
    (pin,) = pins.rglob("conns")
    pin.unlink()
    hash_map = 1
    fd = bpf.create_map(bpf.MapSpec(hash_map, 36, 512, 16, 0), "conns")
    bpf.pin(fd, pin)
    os.close(fd)


def lose_one(pins: Path) -> None:
    (pin,) = pins.rglob("rules")
    pin.unlink()


def lose_all(pins: Path) -> None:
    for folder in pins.iterdir():
        shutil.rmtree(folder)


FAKES = {
    rename_layout: f"its maps have layout v99, this mimicd knows v{abi.VERSION}",
    change_layout: f"has entries of 36 and 512 bytes, not 36 and {abi.CONN_BYTES}",
    lose_one: "No such file or directory",
    lose_all: "No such file or directory",
}
RARE = (lose_one, lose_all)


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        pytest.param(*one, id=one[0].__name__, marks=[pytest.mark.slow] * (one[0] in RARE))
        for one in FAKES.items()
    ],
)
def test_what_cannot_be_adopted_is_told_and_replaced(
    routed_network: Network, tmp_path: Path, fake: Callable[[Path], None], words: str
) -> None:
    net = routed_network
    at_a, at_b = remote_and_local(net, 4, PORT)
    with (
        system_bpffs(net.a.namespace) as mounts,
        Daemon(net.a, program=mounts.command(command_path("mimicd"))) as daemon,
        Foreground(net.b, "run", "-f", at_b, "eth0") as other,
        flow(net.a, net.b, family=4, port_b=PORT) as (a, b),
    ):
        other.await_words("attached")
        daemon.ctl("run", "--detach", "-f", at_a, "eth0", check=True)
        assert all(one.clean for one in exchange(a, b, [100] * 100))
        daemon.kill()
        attached = shape(net)
        fake(mounts.path("/sys/fs/bpf") / "mimicd" / str(net.a.namespace.inode))
        daemon.start()
        daemon.await_ready()
        assert words in daemon.log
        assert "it is replaced and its connections begin anew" in daemon.log
        assert shape(net) == attached
        with wire_capture(net, tmp_path / "wire.pcap") as capture:
            say_until(a, b"anew", lambda: bool(heard(b, 1, within_s=0.05)), WITHIN_S, "it crosses")
            heard(b, 1000, within_s=0.2)
            assert all(one.clean for one in exchange(a, b, [100] * 100))
        assert capture.analysis().flow(a.text, b.text).udp == 0
        assert [one["state"] for one in connections(daemon)] == ["established"]
        assert daemon.terminate() == 0
        assert attachments(net.a).pins == ()


def shape(net: Network) -> tuple[object, ...]:
    found = attachments(net.a)
    return found.links, len(found.filters), len(found.qdiscs)


def test_a_state_that_this_version_does_not_understand_holds_up_nothing(
    direct_network: Network, tmp_path: Path
) -> None:
    host = direct_network.a
    folder = tmp_path / str(host.namespace.inode)
    known = state.SavedInterface(
        name="gone0",
        ifindex=0,
        link_type="",
        xdp_mode="",
        made_clsact=False,
        started_at=0.0,
        options={"filter": ["remote=192.0.2.9:5000"], "a key of tomorrow": "1"},
        phase=state.Phase.WAITING,
    )
    state.save(folder, known)
    env = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)}
    with Foreground(host, "--no-bus", env=env) as daemon:
        daemon.await_words("gone0: this mimicd does not know how it was run")
        wait_until((tmp_path / "org.mimicd1").is_socket, WITHIN_S, "it serves all the same")
        assert not list(tmp_path.rglob("*.json"))
        assert daemon.terminate() == 0
