# SPDX-License-Identifier: GPL-2.0-only
"""A network namespace, or a folder, that never outlives the process that made it.

The name tells the owner (process id and its start time). Three things remove it: leaving its
context, the guard process when the owner dies without doing so, and the next `sweep()`.
Commands enter by nsenter, which unlike "ip netns exec" keeps /sys/fs/bpf.
This file also runs as a script (the guard), so it imports the standard library only.
"""

import atexit
import contextlib
import ctypes
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self, TypeVar

NETNS_FOLDER = Path("/run/netns")
SCRATCH_FOLDER = Path(tempfile.gettempdir())
PIN_FOLDER = Path("/sys/fs/bpf/mimicd")
NAME_PREFIX = "mimicrig"
CLONE_NEWNET = 0x40000000
KILL_WITHIN_S = 5.0

T = TypeVar("T")


class RigError(Exception):
    """A part of the rig could not do its work; says what failed, on what and why."""


class Namespace:
    """One named network namespace with loopback up; a context manager that removes it."""

    def __init__(self, role: str) -> None:
        _start_guard()
        self.role = role
        self.name = f"{_owner_prefix(os.getpid())}-{secrets.token_hex(3)}-{role}"
        self.path = NETNS_FOLDER / self.name
        _run(["ip", "netns", "add", self.name])
        try:
            self.run("ip", "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what still runs inside, then remove the namespace. Harmless when repeated."""
        remove(self.name)

    @property
    def inode(self) -> int:
        return self.path.stat().st_ino

    def command(self, *argv: str) -> list[str]:
        """The argument list that runs argv inside this namespace."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(
        self,
        *argv: str,
        stdin: str | None = None,
        check: bool = True,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and wait for it; RigError with its words unless it exits 0."""
        return _run(self.command(*argv), stdin=stdin, check=check, timeout_s=timeout_s, env=env)

    def start(
        self,
        *argv: str,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.DEVNULL,
        stderr: int | IO[Any] | None = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command inside and do not wait; the process id is that of the command itself."""
        return subprocess.Popen(
            self.command(*argv), stdin=stdin, stdout=stdout, stderr=stderr, env=env
        )

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in a short-lived thread that has entered this namespace."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def enter() -> None:
            try:
                _enter_network(self.path)
                outcome.append(function())
            except BaseException as exc:  # handed to the caller's thread below
                failure.append(exc)

        thread = threading.Thread(target=enter, name=f"in-{self.role}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, protocol: int = 0
    ) -> socket.socket:
        """A socket that lives in this namespace and works from any thread."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def sysctl(self, values: Mapping[str, int | str]) -> None:
        """Write keys under /proc/sys/net, such as "ipv4/ip_forward"."""

        def write() -> None:
            for key, value in values.items():
                Path("/proc/sys/net", key).write_text(f"{value}\n", encoding="ascii")

        self.call(write)

    def processes(self) -> list[int]:
        """Ids of the processes whose main thread is in this namespace."""
        return list(_processes_inside(self.path))


def wait_until(condition: Callable[[], T], within_s: float, what: str, every_s: float = 0.01) -> T:
    """Ask until the answer is true and return it; RigError naming `what` at the deadline."""
    deadline = time.monotonic() + within_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise RigError(f"{what}: not so within {within_s:g} s")
        time.sleep(every_s)
    return answer


def remove(name: str) -> None:
    """Kill the processes inside a namespace by id; delete its name and the BPF pins of it."""
    path = NETNS_FOLDER / name
    deadline = time.monotonic() + KILL_WITHIN_S
    while (inside := list(_processes_inside(path))) and time.monotonic() < deadline:
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    if path.exists():
        # Programs pin below the number of their namespace, which is given again once that is
        # gone: to whoever makes the next one, perhaps another run of tests.
        shutil.rmtree(PIN_FOLDER / str(path.stat().st_ino), ignore_errors=True)
        _run(["ip", "netns", "delete", name], check=False)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder with a path short enough for a socket in it."""
    _start_guard()
    folder = SCRATCH_FOLDER / f"{_owner_prefix(os.getpid())}-{secrets.token_hex(3)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        _remove_folder(folder)


def sweep() -> list[str]:
    """Remove everything of this rig whose owner is dead; the names removed."""
    orphans = [name for name, prefix, pid in _made_by_rig() if _owner_prefix(pid) != prefix]
    for name in orphans:
        _remove_any(name)
    return orphans


def names_of(pid: int) -> list[str]:
    """What a process, living or dead, has made and that still exists."""
    return [name for name, _prefix, owner_pid in _made_by_rig() if owner_pid == pid]


def _made_by_rig() -> Iterator[tuple[str, str, int]]:
    """(name, owner prefix, owner process id) of every namespace and folder of this rig."""
    folders = [folder for folder in (NETNS_FOLDER, SCRATCH_FOLDER) if folder.is_dir()]
    for name in sorted(name for folder in folders for name in os.listdir(folder)):
        if match := re.match(rf"({NAME_PREFIX}-(\d+)-\d+)-", name):
            yield name, match[1], int(match[2])


def _remove_any(name: str) -> None:
    remove(name)
    _remove_folder(SCRATCH_FOLDER / name)


def _remove_folder(folder: Path) -> None:
    """With what is in it, also in what is mounted there: a killed daemon leaves its bpffs."""
    shutil.rmtree(folder, ignore_errors=True)
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    for where in [Path(line.split()[1]) for line in mounts]:
        if where.is_relative_to(folder):
            _run(["umount", str(where)], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _owner_prefix(pid: int) -> str | None:
    """What names made by this process begin with; None when it is dead.

    The start time (proc(5), stat field 22) tells a reused process id from its first bearer.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else f"{NAME_PREFIX}-{pid}-{rest[18]}"


def _processes_inside(path: Path) -> Iterator[int]:
    try:
        inode = path.stat().st_ino
    except FileNotFoundError:
        return
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{entry}/ns/net").st_ino == inode:
                    yield int(entry)


def _enter_network(path: Path) -> None:
    """Move the calling thread, and only it, into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise RigError(f"cannot enter network namespace {path}: {os.strerror(error)}")


def _run(
    argv: list[str],
    stdin: str | None = None,
    check: bool = True,
    timeout_s: float = 60,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, env=env, check=False
    )
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).strip()
        raise RigError(f"{' '.join(argv)} exited {done.returncode}: {words}")
    return done


_guard_lock = threading.Lock()
_guard: subprocess.Popen[bytes] | None = None
_guard_owner = 0


def _start_guard() -> None:
    """Once per process: a process of its own session that cleans up when this one is killed."""
    global _guard, _guard_owner
    with _guard_lock:
        if _guard_owner == os.getpid():
            return
        _guard_owner = os.getpid()
        sweep()
        _guard = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).resolve()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(_end_guard)


def _end_guard() -> None:
    if _guard is None or _guard_owner != os.getpid():
        return
    for name in names_of(os.getpid()):
        _remove_any(name)
    _guard.kill()
    _guard.wait()


def _guard_main(pid: int) -> None:
    """Wait for the death of a process, then remove what it left."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        descriptor = -1
    if descriptor >= 0:
        select.select([descriptor], [], [])
        os.close(descriptor)
    sweep()


if __name__ == "__main__":
    _guard_main(int(sys.argv[1]))
