# SPDX-License-Identifier: GPL-2.0-only
"""The load program (load/): compiled when it is needed, run at a host, its answers as values."""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rig.namespace import Namespace, RigError

SOURCES = Path(__file__).resolve().parent / "load"
SENDER_CPU = 0
RECEIVER_CPU = 1
COMMAND_WITHIN_S = 180.0
END_WITHIN_S = 5.0


class NoAnswerError(RigError):
    """The load was sent and nothing came back."""


def build(folder: Path) -> Path:
    """Compile the load program into a folder; its path. RigError with gcc's words."""
    program = folder / "load"
    sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
    argv = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), *sources, "-lpthread"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    except FileNotFoundError:
        raise RigError("there is no gcc to compile the load: run ./setup.sh --dev") from None
    if done.returncode != 0:
        raise RigError(f"gcc cannot compile the load: {done.stderr.strip()}")
    return program


@dataclass(frozen=True, slots=True)
class Tally:
    """What one run brought to the receiver. Times are CLOCK_MONOTONIC ns."""

    packets: int
    """Different ones."""
    twice: int
    broken: int
    """Not as sent, of any run."""
    late: int
    """Arrived behind one that was sent after them."""
    first_ns: int
    last_ns: int
    first_latency_ns: int
    last_latency_ns: int
    receiver_s: float
    """Processor time of the receiving thread since its start."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the sender did, and what it cost the whole machine."""

    offered: int
    """Datagrams handed over, with those that were refused."""
    refused: int
    refusal: str
    seconds: float
    wall_s: float
    """With the wait for what was still on its way: the time that busy_s is of."""
    sender_s: float
    """Processor time of the sending thread; what others run does not lengthen it."""
    busy_s: float
    """Sum over all CPUs of the time that they were not idle."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Round trips of one datagram at a time."""

    answers: int
    lost: int
    p50_ns: int
    p99_ns: int


class Receiver:
    """Counts and answers datagrams at one host until it is closed."""

    def __init__(self, program: Path, namespace: Namespace, address: str, port: int) -> None:
        argv = [str(program), "serve", address, str(port), f"cpu={_cpu(RECEIVER_CPU)}"]
        self._process = namespace.start(
            *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def begin(self, run: int) -> Tally:
        """Count the datagrams of this run from now on, and no others."""
        return Tally(**self._order(f"begin {run}"))

    def tell(self) -> Tally:
        """What has arrived so far."""
        return Tally(**self._order("tell"))

    def settle(self, wanted: int = 0, within_s: float = 4.0) -> Tally:
        """What arrived, once nothing more does or `wanted` have."""
        deadline_s = time.monotonic() + within_s
        last, same = self.tell(), 0
        while time.monotonic() < deadline_s and same < 3 and (not wanted or last.packets < wanted):
            time.sleep(0.05)
            now = self.tell()
            same = same + 1 if now.packets == last.packets and not wanted else 0
            last = now
        return last

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait(END_WITHIN_S)

    def _order(self, words: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(words.encode() + b"\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            words = self._process.stderr.read().decode(errors="replace").strip()
            raise RigError(f"the receiver ended: {words}")
        return dict(json.loads(line))


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends to one end from one host, each time a process of its own."""

    program: Path
    namespace: Namespace
    address: str
    port: int

    def send(self, **options: int) -> Sent:
        """Options as load/main.c names them. Raises NoAnswerError if warming up brought none."""
        return Sent(**self._run("send", options))

    def ask(self, **options: int) -> Asked:
        return Asked(**self._run("ask", options))

    def _run(self, mode: str, options: dict[str, int]) -> dict[str, Any]:
        words = [f"{key}={value}" for key, value in {"cpu": _cpu(SENDER_CPU), **options}.items()]
        argv = [str(self.program), mode, self.address, str(self.port), *words]
        done = self.namespace.run(*argv, check=False, timeout_s=COMMAND_WITHIN_S)
        if done.returncode == 3:
            raise NoAnswerError(done.stderr.strip() or "load: no answer at all")
        if done.returncode != 0:
            raise RigError(f"load {mode} {' '.join(words)}: {done.stderr.strip()}")
        return dict(json.loads(done.stdout))


def _cpu(wanted: int) -> int:
    """A CPU of this machine; -1, none in particular, where there is only one."""
    return wanted if (os.cpu_count() or 1) > wanted else -1
