# SPDX-License-Identifier: GPL-2.0-only
"""What was attached is detached again: at a stop, and where attaching fails half-way.

Before and after are compared: links, qdiscs, TC filters, XDP, pins, packet sockets, mounts, files
of state, and the programs themselves, which the kernel keeps as long as anything holds them.
"""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mimicd.kernel import bpf
from tests.rig.attachments import Attachments, attachments, bpf_mounts
from tests.rig.daemon import Daemon, Foreground
from tests.rig.foreign import foreign_xdp
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network
from tests.rig.tcx import detach_tcx, fill_tcx

FILTER = ("-f", "remote=192.0.2.9:5000")
MODES = pytest.mark.parametrize("mode", ["native", "skb", "none"])
MATCH_ALL = ("u32", "match", "u32", "0", "0", "classid", "1:1")
"""A classifier that matches everything and does nothing with it."""
WITHIN_S = 30.0


@dataclass(frozen=True)
class Traces:
    """All that a daemon could leave."""

    attached: Attachments
    mounts: list[Path]
    files: list[str]
    """In the folder of its state."""


def traces(host: Host, runtime: Path) -> Traces:
    mounts = [mount for mount in bpf_mounts() if mount.is_relative_to(runtime)]
    files = sorted(str(path.relative_to(runtime)) for path in runtime.rglob("*"))
    return Traces(attachments(host), mounts, [name for name in files if name != "log"])


def without_daemon(host: Host) -> Traces:
    """What is there now, less the empty folders of a daemon that has only started."""
    return Traces(replace(attachments(host), pins=()), [], [])


def programs(attached: Attachments) -> set[int]:
    """Ids of the BPF programs on the interfaces."""
    lines = (*attached.filters, *(f"id {line.split()[1]}" for line in attached.xdp))
    return {int(number) for line in lines for number in re.findall(r"\bid (\d+)", line)}


def await_gone(ids: set[int]) -> None:
    """The kernel frees a program a moment after its last user has gone."""
    wait_until(lambda: not any(map(bpf.program_name, ids)), 5, f"programs {ids} are freed")


@pytest.fixture
def host(direct_network: Network) -> Host:
    return direct_network.a


@pytest.fixture(params=["nothing", "a clsact qdisc with filters"])
def user_has(request: pytest.FixtureRequest, host: Host) -> None:
    """What the user had put on the interface before."""
    if request.param == "nothing":
        return
    host.namespace.run("tc", "qdisc", "add", "dev", host.interface, "clsact")
    for hook in ("ingress", "egress"):
        for priority in ("1", "200"):
            add = ("tc", "filter", "add", "dev", host.interface, hook, "prio", priority)
            host.namespace.run(*add, "protocol", "all", *MATCH_ALL)


# --- a stop ---


@MODES
@pytest.mark.usefixtures("user_has")
def test_a_stop_over_the_bus_leaves_nothing_behind(host: Host, mode: str) -> None:
    with Daemon(host) as daemon:
        before = traces(host, daemon.runtime)
        for _ in range(2):
            daemon.ctl("run", "--detach", "-x", mode, *FILTER, host.interface, check=True)
            during = traces(host, daemon.runtime)
            assert during.attached.filters != before.attached.filters
            assert bool(during.attached.xdp) == (mode != "none")
            assert during.files != before.files
            daemon.ctl("stop", host.interface, check=True)
            assert traces(host, daemon.runtime) == before
            await_gone(programs(during.attached) - programs(before.attached))


@MODES
@pytest.mark.usefixtures("user_has")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(host: Host, mode: str, number: signal.Signals) -> None:
    with Foreground(host, "run", "-x", mode, *FILTER, host.interface) as program:
        before = without_daemon(host)
        program.await_words("attached")
        during = attachments(host)
        program.signal(number)
        assert program.wait() == 0
        assert traces(host, program.folder) == before
        await_gone(programs(during) - programs(before.attached))


def test_a_stop_leaves_links_of_the_user_that_have_our_names(host: Host) -> None:
    """The hop is a veth pair beside the interface, found by its alias and not by its name, and
    called after the interface's number where that name is taken."""
    near = f"{host.interface}-hop0"
    host.namespace.run("ip", "link", "add", near, "type", "veth", "peer", "name", "theirs")
    before = attachments(host)
    with Foreground(host, "run", *FILTER, host.interface) as program:
        program.await_words("attached")
        number = host.namespace.call(lambda: socket.if_nametoindex(host.interface))
        ours = {f"m{number}-hop0", f"m{number}-hop1"}
        assert set(attachments(host).links) == {*before.links, *ours}
    assert attachments(host) == before


def test_an_interface_that_goes_away_takes_everything_with_it(host: Host) -> None:
    with Daemon(host) as daemon:
        before = traces(host, daemon.runtime)
        add = ("ip", "link", "add", "gone0", "type", "veth", "peer", "name", "gone1")
        host.namespace.run(*add)
        host.namespace.run("ip", "link", "set", "gone0", "up")
        daemon.ctl("run", "--detach", *FILTER, "gone0", check=True)
        ids = programs(attachments(host))
        host.namespace.run("ip", "link", "del", "gone0")
        wait_until(lambda: attachments(host) == before.attached, 5, "all of it is gone")
        await_gone(ids)
        assert "the interface is gone" in daemon.log
        # It is waited for, until somebody stops that.
        assert "waiting" in daemon.ctl("list", check=True).stdout
        daemon.ctl("stop", "gone0", check=True)
        assert traces(host, daemon.runtime) == before
        assert daemon.ctl("list", check=True).stdout == ""
        assert "Traceback" not in daemon.log


# --- a failure half-way ---


def take_priority(hook: str) -> Callable[[Host], None]:
    def take(host: Host) -> None:
        host.namespace.run("tc", "qdisc", "add", "dev", host.interface, "clsact")
        add = ("tc", "filter", "add", "dev", host.interface, hook, "prio", "109")
        host.namespace.run(*add, "protocol", "all", *MATCH_ALL)

    return take


def add_ingress_qdisc(host: Host) -> None:
    host.namespace.run("tc", "qdisc", "add", "dev", host.interface, "ingress")


def fill_hook(host: Host) -> None:
    host.namespace.call(lambda: fill_tcx(socket.if_nametoindex(host.interface), "ingress"))


def remove_obstacles(host: Host) -> None:
    host.namespace.call(lambda: detach_tcx(socket.if_nametoindex(host.interface), "ingress"))
    for kind in ("clsact", "ingress"):
        host.namespace.run("tc", "qdisc", "del", "dev", host.interface, kind, check=False)


OBSTACLES = {
    "as many programs of others as there may be": fill_hook,
    "an ingress qdisc where clsact would be": add_ingress_qdisc,
    "our TC priority taken on egress": take_priority("egress"),
    "our TC priority taken on ingress": take_priority("ingress"),
}
EACH_OBSTACLE = pytest.mark.parametrize("obstruct", OBSTACLES.values(), ids=OBSTACLES)


@pytest.fixture
def with_filters(obstruct: Callable[[Host], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the way of filters is in the way of no link."""
    if obstruct is not fill_hook:
        monkeypatch.setenv("MIMICD_NO_TCX", "1")


@MODES
@EACH_OBSTACLE
@pytest.mark.usefixtures("with_filters")
def test_mimicd_run_that_fails_half_way_leaves_nothing(
    host: Host, obstruct: Callable[[Host], None], mode: str
) -> None:
    obstruct(host)
    before = without_daemon(host)
    with Foreground(host, "run", "-x", mode, *FILTER, host.interface) as program:
        assert program.wait(WITHIN_S) == 1
        assert_refused(program.log, "mimicd")
        assert traces(host, program.folder) == before


@EACH_OBSTACLE
@pytest.mark.usefixtures("with_filters")
def test_run_over_the_bus_that_fails_half_way_leaves_nothing_and_can_be_repeated(
    host: Host, obstruct: Callable[[Host], None]
) -> None:
    with Daemon(host) as daemon:
        obstruct(host)
        before = traces(host, daemon.runtime)
        answer = daemon.ctl("run", "--detach", *FILTER, host.interface)
        assert answer.exit_code == 1
        assert_refused(answer.stderr, "mimicctl")
        assert traces(host, daemon.runtime) == before
        remove_obstacles(host)
        daemon.ctl("run", "--detach", *FILTER, host.interface, check=True)
        daemon.ctl("stop", host.interface, check=True)
        assert "Traceback" not in daemon.log


def assert_refused(words: str, program: str) -> None:
    sentence, hint = words.strip().splitlines()
    assert sentence.startswith(f"{program}: ")
    assert hint.startswith("hint: ")


# --- what happens while the programs are being loaded ---


class Held:
    """`mimicd run` that waits for its compiled programs.

    It has looked at the interface by then, and attached nothing yet.
    """

    def __init__(self, program: Foreground, pipe: Path, compiled: bytes) -> None:
        self.program = program
        self._compiled = compiled
        self._pipe = wait_until(lambda: open_if_read(pipe), WITHIN_S, "mimicd loads its programs")

    def go_on(self) -> None:
        os.set_blocking(self._pipe, True)
        with os.fdopen(self._pipe, "wb") as pipe:
            pipe.write(self._compiled)


def open_if_read(pipe: Path) -> int:
    """A descriptor to write to; 0 while nobody reads."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


@contextmanager
def held_while_loading(host: Host, cache: Path) -> Iterator[Held]:
    """A pipe stands in the cache for a part of what an earlier start has compiled."""
    env = {**os.environ, "CACHE_DIRECTORY": str(cache)}
    arguments = ("run", "-x", "skb", *FILTER, host.interface)
    with Foreground(host, *arguments, env=env) as first:
        first.await_words("attached")
    kept = min(cache.iterdir())
    compiled = kept.read_bytes()
    kept.unlink()
    os.mkfifo(kept, 0o600)
    with Foreground(host, *arguments, env=env) as program:
        yield Held(program, kept, compiled)


def test_xdp_of_somebody_else_that_comes_meanwhile_is_named_and_stays(
    host: Host, tmp_path: Path
) -> None:
    with held_while_loading(host, tmp_path / "cache") as held, foreign_xdp(host):
        before = without_daemon(host)
        held.go_on()
        assert held.program.wait(WITHIN_S) == 1
        assert_refused(held.program.log, "mimicd")
        assert "XDP program of somebody else: somebody_xdp (id " in held.program.log
        assert traces(host, held.program.folder) == before


def test_an_interface_that_goes_away_meanwhile_is_told(host: Host, tmp_path: Path) -> None:
    with held_while_loading(host, tmp_path / "cache") as held:
        host.namespace.run("ip", "link", "del", host.interface)
        before = without_daemon(host)
        held.go_on()
        assert held.program.wait(WITHIN_S) == 1
        assert_refused(held.program.log, "mimicd")
        assert traces(host, held.program.folder) == before


def test_a_signal_that_comes_meanwhile_ends_it_without_a_trace(host: Host, tmp_path: Path) -> None:
    with held_while_loading(host, tmp_path / "cache") as held:
        before = without_daemon(host)
        held.program.signal(signal.SIGTERM)
        held.go_on()
        assert held.program.wait(WITHIN_S) == 0
        assert traces(host, held.program.folder) == before
        assert "Traceback" not in held.program.log
