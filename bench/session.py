# SPDX-License-Identifier: GPL-2.0-only
"""One arm that runs in a network of its own, with a receiver, ready to be measured."""

import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import arms
from bench.arms import Arm
from bench.machine import tree
from bench.traffic import RECEIVER_CPU, SENDER_CPU, NoAnswerError, Receiver, Sender, Tally
from tests.rig.daemon import Program
from tests.rig.namespace import RigError, scratch_folder
from tests.rig.network import Host, Network, direct, routed

READY_WITHIN_S = 180.0
"""What is slow to start, or compiles at first, on a machine that others use."""
ASK_MS = 200
ETH_P_ALL = 3
PROTOCOL = {"tcp": 6, "udp": 17}
FIRST_COLD_PORT = 20_000

_runs = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Where the arms run."""

    topology: str = "direct"
    """ "direct", or "router" for a firewall with connection tracking in between."""
    family: int = 4
    offload: bool = True
    """Checksum offload of every interface."""
    apart: bool = False
    """Each host receives on a CPU of its own, instead of on the sender's."""

    def __str__(self) -> str:
        words = f"{self.topology} IPv{self.family} offload {'on' if self.offload else 'off'}"
        return f"{words} CPUs apart" if self.apart else words


@dataclass
class Session:
    """A running arm. The sender is at host A, the receiver at host B."""

    arm: Arm
    scenario: Scenario
    net: Network
    folder: Path
    load: Path
    programs: list[Program]
    receiver: Receiver
    sender: Sender
    ready_s: float = 0.0
    """From the start of its processes to the first answer."""
    ports: Iterator[int] = field(default_factory=lambda: itertools.count(FIRST_COLD_PORT))

    def begin(self) -> tuple[int, Tally]:
        """Number of a new run, which the receiver counts from now on, and its state."""
        run = next(_runs)
        return run, self.receiver.begin(run)

    def processes(self) -> list[int]:
        """The arm's, with their children."""
        return tree(program.pid for program in self.programs)

    def check_running(self) -> None:
        """RigError with its words if a program of the arm has ended."""
        for program in self.programs:
            program.check_running()

    def listener(self) -> tuple[str, int]:
        return self.arm.listener(self.net.b.address(self.scenario.family), self._loopback)

    def target(self) -> tuple[str, int]:
        return self.arm.target(self.net.b.address(self.scenario.family), self._loopback)

    @property
    def _loopback(self) -> str:
        return "127.0.0.1" if self.scenario.family == 4 else "::1"


@contextlib.contextmanager
def running(
    arm: Arm, scenario: Scenario, load: Path, prepare: Mapping[str, str] | None = None
) -> Iterator[Session]:
    """Make the network, start the arm, wait until its wire is seen to carry answers.

    `prepare` is files, by name, to be written to the folder of each side before.
    """
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(direct() if scenario.topology == "direct" else routed())
        if not scenario.offload:
            _switch_offload_off(net)
        if scenario.apart:
            _receive_on(net.a, SENDER_CPU)
            _receive_on(net.b, RECEIVER_CPU)
        folder = stack.enter_context(scratch_folder())
        address = net.b.address(scenario.family)
        loopback = "127.0.0.1" if scenario.family == 4 else "::1"
        end = arm.listener(address, loopback)
        receiver = Receiver(load, net.b.namespace, *end)
        stack.callback(receiver.close)
        sender = Sender(load, net.a.namespace, *arm.target(address, loopback))
        session = Session(arm, scenario, net, folder, load, [], receiver, sender)
        with _wire(net.a) as wire:
            start_s = time.monotonic()
            for side, host in (("server", net.b), ("client", net.a)):
                _start(stack, session, side, host, prepare or {})
            _await_answer(session, wire)
            session.ready_s = time.monotonic() - start_s
        yield session


def _start(
    stack: contextlib.ExitStack, session: Session, side: str, host: Host, files: Mapping[str, str]
) -> None:
    folder = session.folder / side
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    family = session.scenario.family
    peer = session.net.other(host)
    values = arms.values_for(
        host.interface, host.address(family), peer.address(family), family, str(folder)
    )
    command = session.arm.command(side, values)
    if not command:
        return
    # Two daemons on one machine keep their states apart by this.
    env = {**os.environ, "RUNTIME_DIRECTORY": str(folder)}
    program = Program(host, command, folder / "log", env)
    stack.callback(_end, program)
    program.start()
    session.programs.append(program)


def _end(program: Program) -> None:
    # One that does not end on SIGTERM was killed: no reason to lose what was measured.
    with contextlib.suppress(RigError):
        program.end()


def _await_answer(session: Session, wire: "_Wire") -> None:
    arm, deadline_s = session.arm, time.monotonic() + READY_WITHIN_S
    while True:
        session.check_running()
        with contextlib.suppress(NoAnswerError):
            session.sender.ask(count=1, ms=ASK_MS, warm_ms=ASK_MS)
            # An answer alone may have gone round as plain UDP before the arm stood.
            if wire.shows(arm.on_wire):
                return
        if time.monotonic() > deadline_s:
            words = " / ".join(program.log.strip()[-300:] for program in session.programs)
            raise RigError(
                f"{arm.name}: no answer over {arm.on_wire} within {READY_WITHIN_S:g} s: {words}"
            )


class _Wire:
    """What crosses the interface of a host, since the last look."""

    def __init__(self, sniffer: socket.socket) -> None:
        self._sniffer = sniffer

    def shows(self, protocol: str) -> bool:
        """Whether the latest IP packets are of this transport protocol, and of no other."""
        seen = set()
        with contextlib.suppress(BlockingIOError):
            while frame := self._sniffer.recv(128):
                kind = frame[12:14]
                if kind == b"\x08\x00":
                    seen.add(frame[14 + 9])
                elif kind == b"\x86\xdd" and frame[14 + 6] in PROTOCOL.values():
                    seen.add(frame[14 + 6])
        return seen & set(PROTOCOL.values()) == {PROTOCOL[protocol]}


@contextlib.contextmanager
def _wire(host: Host) -> Iterator[_Wire]:
    with host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as raw:
        raw.bind((host.interface, ETH_P_ALL))
        raw.setblocking(False)
        yield _Wire(raw)


def _switch_offload_off(net: Network) -> None:
    for host in (net.a, net.b):
        host.set_offload(tx=False)
    if net.maybe_router is not None:
        router = net.router
        for side in ("a", "b"):
            router.namespace.run("ethtool", "-K", router.interface(side), "tx", "off")


def _receive_on(host: Host, cpu: int) -> None:
    """What arrives at the host's interface is handled on this CPU from there on (RPS)."""
    queues = f"/sys/class/net/{host.interface}/queues/rx-*/rps_cpus"
    script = f"for queue in {queues}; do echo {1 << cpu:x} >$queue || exit; done"
    # /sys shows the interfaces of the namespace in which it was mounted: here a fresh one.
    argv = ["ip", "netns", "exec", host.namespace.name, "sh", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode != 0:
        raise RigError(f"{host.interface} cannot receive on CPU {cpu}: {done.stderr.strip()}")
