# SPDX-License-Identifier: GPL-2.0-only
"""The stand-in daemon and the real client as processes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from mimicd.bus import names
from tests.bus.dbus_daemon import PrivateBus
from tests.rig.namespace import RigError, wait_until

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 15.0
# A leaked socket or an unawaited coroutine of the client shows in its stderr.
PYTHON = (sys.executable, "-W", "error")


class Program:
    """A process whose words go to a file; killed when the context is left."""

    def __init__(self, log: Path, *argv: str, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        self._argv = argv
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()

    @property
    def words(self) -> str:
        return self.log.read_text()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float = WITHIN_S) -> int:
        """Its exit code."""
        return self.process.wait(within_s)

    def until_says(self, words: str, count: int = 1) -> None:
        def said() -> bool:
            if self.process.poll() is not None and self.words.count(words) < count:
                raise RigError(f"ended with {self.process.returncode}: {self.words}")
            return self.words.count(words) >= count

        wait_until(said, WITHIN_S, f"{words!r} is said {count} times in {self.words!r}")


class StandIn(Program):
    """The daemon; the context begins when it owns its name."""

    def __init__(self, bus: PrivateBus, *arguments: str) -> None:
        self._bus = bus
        argv = (*PYTHON, "-m", "tests.bus.standin", bus.address, *arguments)
        super().__init__(bus.folder / "standin.log", *argv)

    def start(self) -> None:
        super().start()
        wait_until(self._owns_name, WITHIN_S, "the stand-in owns its name")

    def longest_stall_s(self) -> float:
        """End it; how long its event loop was held up at most."""
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.words
        words = re.findall(r"longest stall (\S+) s", self.words)
        return float(words[-1])

    def _owns_name(self) -> bool:
        if self.process.poll() is not None:
            raise RigError(f"the stand-in ended: {self.words}")
        asked = subprocess.run(
            [
                *("dbus-send", f"--bus={self._bus.address}", "--print-reply=literal"),
                *(f"--dest={names.DRIVER_NAME}", names.DRIVER_PATH),
                *(f"{names.DRIVER}.GetConnectionUnixProcessID", f"string:{names.BUS_NAME}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        return asked.stdout.split()[-1:] == [str(self.process.pid)]


def client(bus: PrivateBus, *arguments: str, log: str = "client.log") -> Program:
    """mimicctl, to be left running."""
    argv = (*PYTHON, "-m", "mimicctl", *arguments)
    return Program(bus.folder / log, *argv, env={names.ADDRESS_VARIABLE: bus.address})


def ctl(bus: PrivateBus | None, *arguments: str) -> tuple[int, str, str]:
    """Run mimicctl: exit code, stdout, stderr."""
    address = bus.address if bus else "unix:path=/nonexistent/bus"
    done = subprocess.run(
        [*PYTHON, "-m", "mimicctl", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, names.ADDRESS_VARIABLE: address},
        timeout=WITHIN_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@contextlib.contextmanager
def foreground(bus: PrivateBus, interface: str = "eth0") -> Iterator[Program]:
    """`mimicctl run` that has begun."""
    with client(bus, "run", "-f", "remote=203.0.113.5:51820", interface) as run:
        run.until_says(f"{interface} is running, Ctrl-C stops it")
        yield run


def running(bus: PrivateBus) -> list[str]:
    """The names that `mimicctl list` prints."""
    code, out, err = ctl(bus, "list")
    assert (code, err) == (0, "")
    return [line.split()[0] for line in out.splitlines()[1:]]
