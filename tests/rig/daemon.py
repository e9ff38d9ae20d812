# SPDX-License-Identifier: GPL-2.0-only
"""The program under test at a host: the daemon on a private bus, the client, or one bare interface.

with Daemon(net.a) as daemon:
    daemon.ctl("run", "--detach", "-f", "remote=198.51.100.2:51820", "eth0", check=True)
    print(daemon.ctl("show", "eth0").stdout)

with Foreground(net.a, "run", "-f", "remote=198.51.100.2:51820", "eth0") as bare: ...
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.rig.attachments import attachments
from tests.rig.bus import Bus, private_bus
from tests.rig.namespace import RigError, scratch_folder, wait_until
from tests.rig.network import Host

ROOT = Path(__file__).resolve().parents[2]
BUS_NAME = "org.mimicd1"
READY_WITHIN_S = 60.0  # a shared machine may be slow to compile; nobody waits longer than needed
END_WITHIN_S = 10.0


@dataclass(frozen=True)
class Answer:
    """What a command said and how it ended."""

    exit_code: int
    stdout: str
    stderr: str


def command_path(name: str) -> str:
    """mimicd or mimicctl beside the running Python, else in the project's .venv."""
    for folder in (Path(sys.executable).parent, ROOT / ".venv" / "bin"):
        if (folder / name).exists():
            return str(folder / name)
    raise RigError(f"{name} is not installed: run ./setup.sh")


class Program:
    """One long-running command at a host, its output in a file; ended when the context is left."""

    def __init__(self, host: Host, argv: list[str], log: Path, env: Mapping[str, str]) -> None:
        self.host = host
        self.log_path = log
        self._argv = argv
        self._env = dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, also again after it has ended; the log goes on."""
        if self._process is not None and self._process.poll() is None:
            raise RigError(f"{self._argv[0]} runs already, process {self._process.pid}")
        with self.log_path.open("ab") as log:
            self._process = self.host.namespace.start(
                *self._argv, stdout=log, stderr=log, env=self._env
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RigError(f"{self._argv[0]} was not started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def check_running(self) -> None:
        """RigError with its words if it has ended."""
        if (code := self.process.poll()) is not None:
            raise RigError(f"{self._argv[0]} ended with {code}: {self.log.strip()}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float = END_WITHIN_S) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise RigError(f"{self._argv[0]} still runs after {within_s:g} s: {self.log}") from None

    def terminate(self, within_s: float = END_WITHIN_S) -> int:
        """SIGTERM and wait; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within_s)

    def kill(self) -> None:
        """SIGKILL and wait."""
        self.process.kill()
        self.process.wait()

    def await_words(self, words: str, within_s: float = READY_WITHIN_S) -> None:
        """Wait until these words are in its output."""

        def said() -> bool:
            self.check_running()
            return words in self.log

        wait_until(said, within_s, f"{words!r} in the output", every_s=0.02)

    def resident_kib(self) -> int:
        """Memory that it has in RAM now (VmRSS of proc(5))."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1])

    def maps_kib(self) -> int:
        """Memory of the BPF maps that it has open, each once (memlock of proc(5), fdinfo)."""
        maps: dict[str, int] = {}
        for path in Path(f"/proc/{self.pid}/fdinfo").iterdir():
            lines = path.read_text(encoding="ascii").splitlines()
            facts = dict(line.split(":", 1) for line in lines if ":" in line)
            if "map_id" in facts:
                maps[facts["map_id"].strip()] = int(facts["memlock"])
        return sum(maps.values()) // 1024

    def cpu_s(self) -> float:
        """Processor time it has used so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        user, system = fields.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End it however it stands; RigError if a SIGTERM did not do."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RigError(f"{self._argv[0]} did not end on SIGTERM: {self.log}") from None


class Daemon(Program):
    """mimicd at a host, on a private bus of its own, with a state folder of its own."""

    def __init__(
        self,
        host: Host,
        *options: str,
        may_own: bool = True,
        env: Mapping[str, str] | None = None,
        wait: bool = True,
        program: Sequence[str] = (),
    ) -> None:
        """`options` go to mimicd; `wait` off does not wait for its name on the bus.

        `program` stands in for mimicd; it gets --address and the options too.
        """
        program = program or [command_path("mimicd")]
        self._stack = ExitStack()
        self.folder = self._stack.enter_context(scratch_folder())
        self._may_own = may_own
        self._wait = wait
        self.runtime = self.folder / "run"
        address = f"unix:path={self.folder / 'bus'}"
        self._bus: Bus | None = None
        own_env = {**_clean_environment(), "RUNTIME_DIRECTORY": str(self.runtime), **(env or {})}
        self._arguments = ["--address", address, *options]
        argv = [*program, *self._arguments]
        super().__init__(host, argv, self.folder / "mimicd.log", own_env)
        self._client_env = {**_clean_environment(), "DBUS_SYSTEM_BUS_ADDRESS": address}

    def __enter__(self) -> Self:
        try:
            self.runtime.mkdir(mode=0o755)
            self._bus = self._stack.enter_context(
                private_bus(self.host.namespace, self.folder, self._may_own)
            )
            self._stack.callback(self.end)
            self.start()
            if self._wait:
                self.await_ready()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def bus(self) -> Bus:
        if self._bus is None:
            raise RigError("the bus runs only inside the daemon's context")
        return self._bus

    def run_as(self, *program: str) -> None:
        """From the next start on this stands in for mimicd, with the same arguments."""
        self._argv = [*program, *self._arguments]

    def await_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until this very process owns its name on the bus."""

        def owns() -> bool:
            self.check_running()
            return self.bus.owned(BUS_NAME) and self.bus.owner_pid(BUS_NAME) == self.pid

        wait_until(owns, within_s, f"mimicd owns {BUS_NAME}")

    def ctl(self, *arguments: str, check: bool = False, timeout_s: float = 30) -> Answer:
        """Run mimicctl at the host and wait; with `check`, RigError unless it exits 0."""
        argv = [command_path("mimicctl"), *arguments]
        done = self.host.namespace.run(
            *argv, check=False, timeout_s=timeout_s, env=self._client_env
        )
        if check and done.returncode != 0:
            words = f"{done.stderr.strip()}; log of mimicd: {self.log.strip()}"
            raise RigError(f"mimicctl {' '.join(arguments)} exited {done.returncode}: {words}")
        return Answer(done.returncode, done.stdout, done.stderr)

    def client(self, *arguments: str) -> "Foreground":
        """mimicctl in the foreground (a plain `run`, `monitor`), as a context."""
        argv = [command_path("mimicctl"), *arguments]
        return Foreground(self.host, argv=argv, env=self._client_env)


class Foreground(Program):
    """A command of the project that stays in the foreground; by default mimicd without a bus."""

    def __init__(
        self,
        host: Host,
        *arguments: str,
        argv: list[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        command = argv or [command_path("mimicd"), *arguments]
        self._stack = ExitStack()
        self.folder = self._stack.enter_context(scratch_folder())
        own_env = {"RUNTIME_DIRECTORY": str(self.folder), **(env or _clean_environment())}
        super().__init__(host, command, self.folder / "log", own_env)

    def __enter__(self) -> Self:
        self._stack.callback(self.end)
        try:
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def await_attached(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait for TC filters on both sides of the interface: the last to be attached."""

        def attached() -> bool:
            self.check_running()
            return attachments(self.host).is_complete

        wait_until(attached, within_s, "TC filters attached", every_s=0.05)


def _clean_environment() -> dict[str, str]:
    """This process's, without what would lead to another bus or another daemon's state."""
    unwanted = ("DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS", "RUNTIME_DIRECTORY")
    return {key: value for key, value in os.environ.items() if key not in unwanted}
