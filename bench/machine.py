# SPDX-License-Identifier: GPL-2.0-only
"""The machine under the benchmarks: what it is, and what others take of it meanwhile."""

import contextlib
import os
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")
KERNEL_THREAD = 0x00200000  # PF_KTHREAD of linux/sched.h
CALM_SHARE = 0.10
"""Of one CPU: below it the machine counts as ours."""


def description() -> dict[str, str | int]:
    """What to know about the machine when reading figures."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count() or 1,
        "cpu": _cpu_model(),
    }


def _cpu_model() -> str:
    for line in (PROC / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def tree(roots: Iterable[int]) -> list[int]:
    """These processes and all that descend from them, as far as they live."""
    children: dict[int, list[int]] = {}
    for pid in _processes():
        with contextlib.suppress(OSError, IndexError):
            stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(pid)
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        if (PROC / str(pid)).exists():
            found.append(pid)
        todo += children.get(pid, [])
    return found


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir(PROC) if name.isdigit())


def memory_bytes(pids: Iterable[int]) -> int:
    """Resident memory of processes, each one's in full (Rss of proc(5), smaps_rollup)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines():
                if line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
    return total


def used_s(pids: Iterable[int]) -> float:
    """Processor time that all threads of processes have used (schedstat of proc(5))."""
    total_ns = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in (PROC / str(pid) / "task").iterdir():
                total_ns += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total_ns / 1e9


class Strangers:
    """How much processor time others take, as a share of one CPU, since this was made.

    Kernel threads are not counted: they may well work for us.
    """

    def __init__(self) -> None:
        self._at_s = time.monotonic()
        self._used_s = _strangers_s()
        self._stolen_s = stolen_s()

    def share(self) -> float:
        """Of processes that are not ours: 1.0 is one whole CPU."""
        used_s = max(0.0, _strangers_s() - self._used_s)
        return used_s / (time.monotonic() - self._at_s)

    def stolen_share(self) -> float:
        """Of other machines on the same hardware, where the hypervisor tells."""
        return (stolen_s() - self._stolen_s) / (time.monotonic() - self._at_s)


def _strangers_s() -> float:
    """User and system time of all processes that are not ours, and of their ended children.

    Both are in stat of proc(5). What a process used moves to its parent when it has been waited
    for, so that the sum does not lose what short-lived ones did.
    """
    mine = set(tree([os.getpid()]))
    ticks = 0
    for pid in _processes():
        if pid not in mine:
            with contextlib.suppress(OSError, IndexError):
                text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
                fields = text.rpartition(")")[2].split()
                if not int(fields[6]) & KERNEL_THREAD:
                    ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_for_calm(limit_s: float) -> None:
    """Wait, at most so long, until others leave the machine alone."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        strangers = Strangers()
        time.sleep(0.3)
        if strangers.share() + strangers.stolen_share() < CALM_SHARE:
            return


def idle_s() -> float:
    """Time in which a CPU had no work, and what the hypervisor took, of all CPUs so far."""
    idle, iowait, steal = _cpu_ticks(4, 5, 8)
    return (idle + iowait + steal) / os.sysconf("SC_CLK_TCK")


def stolen_s() -> float:
    """Time in which a CPU had work and the hypervisor ran somebody else, of all CPUs so far."""
    return sum(_cpu_ticks(8)) / os.sysconf("SC_CLK_TCK")


def _cpu_ticks(*columns: int) -> list[int]:
    words = (PROC / "stat").read_text(encoding="ascii").splitlines()[0].split()
    return [int(words[column]) for column in columns]
