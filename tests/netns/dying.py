# SPDX-License-Identifier: GPL-2.0-only
"""A daemon that dies at each step in turn: python -m tests.netns.dying INTERFACE STATE [EVERY].

A step is a change that it makes: to the network, to what is pinned, to its files. For each step
of Run, then of Stop, a child does that and is killed right before it; a second child begins as
any daemon does, runs the interface and stops it. What is attached is looked at after each. Prints
a line for each step, the steps that were left out of every EVERY aside, and ends with 1 where
something was wrong.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mimicd import state, supervisor
from mimicd.core.errors import MimicError
from mimicd.kernel import bpf, bpffs
from mimicd.kernel.netlink import Netlink
from tests.rig.tcx import tcx_programs

OPTIONS = {"filter": ["remote=192.0.2.9:5000"], "xdp_mode": "native"}
CHANGING_CALLS = {"MAP_UPDATE_ELEM", "OBJ_PIN", "LINK_CREATE", "LINK_DETACH"}
LATEST_STEP = 200


class Steps:
    """Counts the changes and dies before one of them."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.made = 0
        self.counts = False
        """Not before what is under test has begun."""

    def step(self, what: str) -> None:
        if not self.counts:
            return
        self.made += 1
        if self.made == self.last:
            print(f"dies before {what}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Put a step before everything that changes something."""
        for name in ("save", "remove"):
            self._wrap(state, name)
        for name in ("remove_pins", "leave"):
            self._wrap(bpffs, name)
        for name in vars(Netlink):
            if name.startswith(("make_", "set_", "remove_", "add_")):
                self._wrap(Netlink, name)
        call = bpf._call

        def stepping(command: Any, attr: bytes) -> Any:
            if command.name in CHANGING_CALLS:
                self.step(f"bpf {command.name}")
            return call(command, attr)

        bpf._call = stepping

    def _wrap(self, owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def stepping(*args: Any, **kwargs: Any) -> Any:
            self.step(name)
            return function(*args, **kwargs)

        setattr(owner, name, stepping)


async def die(interface: str, steps: Steps, phase: str) -> None:
    one = supervisor.Supervisor()
    await one.open()
    steps.counts = phase == "run"
    await one.run(interface, OPTIONS)
    if phase == "stop":
        steps.counts = True
        await one.stop_all()
        steps.counts = False
    else:
        steps.counts = False
        await one.leave_all()


async def come_after(interface: str, before: str, running: str) -> None:
    """Begin as any daemon, whatever is there; in the end nothing is."""
    one = supervisor.Supervisor()
    await one.open()
    adopted = bool(one.interfaces())
    if not adopted:
        assert attached(interface) == before, "neither adopted nor cleared away"
        await one.run(interface, OPTIONS)
    assert shape(attached(interface)) == running, "it runs, but not with all that belongs to it"
    await one.stop_all()
    assert attached(interface) == before, "a stop leaves something"
    print("adopted" if adopted else "cleared away", flush=True)


def attached(interface: str) -> str:
    """What stands on the interface and beside it."""
    commands = (
        "ip -o link show",
        "tc qdisc show",
        f"tc filter show dev {interface} ingress",
        f"tc filter show dev {interface} egress",
    )
    found = [subprocess.run(c.split(), capture_output=True, text=True).stdout for c in commands]
    index = socket.if_nametoindex(interface)
    hooks = ("ingress", "egress")
    found += [f"link {one}\n" for hook in hooks for _, one in tcx_programs(index, hook)]
    return "".join(found)


def shape(found: str) -> str:
    """How much of what there is."""
    words = ("mimic_egress", "mimic_reply", "clsact", "-hop0", "-hop1", "prog/xdp")
    return " ".join(f"{word} {found.count(word)}" for word in words)


def in_child(work: Callable[[], None]) -> int:
    """Its wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        work()
    except (AssertionError, MimicError, OSError) as error:
        print(f"WRONG: {error!r}", flush=True)
        os._exit(1)
    os._exit(0)


def main() -> int:
    interface, folder, every = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    os.environ["RUNTIME_DIRECTORY"] = str(folder)
    before = attached(interface)

    async def look() -> None:
        one = supervisor.Supervisor()
        await one.open()
        await one.run(interface, OPTIONS)
        print(f"shape {shape(attached(interface))}", file=sys.stderr)
        (folder / "shape").write_text(shape(attached(interface)))
        await one.stop_all()

    assert in_child(lambda: asyncio.run(look())) == 0
    running = (folder / "shape").read_text()
    (folder / "shape").unlink()
    wrong = 0
    for phase in ("run", "stop"):
        for last in range(1, LATEST_STEP, every):
            steps = Steps(last)

            def dying(steps: Steps = steps, phase: str = phase) -> None:
                steps.watch()
                asyncio.run(die(interface, steps, phase))

            status = in_child(dying)
            print(f"{phase} {last}:", end=" ", flush=True)
            wrong += in_child(lambda: asyncio.run(come_after(interface, before, running))) != 0
            left = sorted(str(path) for path in folder.rglob("*"))
            if left:
                print(f"WRONG: files are left: {left}")
                wrong += 1
            if not os.WIFSIGNALED(status):
                print(f"{phase} has fewer steps", flush=True)
                break
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
