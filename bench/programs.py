# SPDX-License-Identifier: GPL-2.0-only
"""Time that BPF programs take, as the kernel counts it.

The kernel counts while somebody holds a descriptor of BPF_ENABLE_STATS (Linux 5.8), and stops when
that process ends, however it ends: nothing has to be put back. The sysctl
kernel.bpf_stats_enabled is not touched.
"""

import contextlib
import functools
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.rig.bpf_call import Command, bpf_call
from tests.rig.namespace import Namespace, RigError
from tests.rig.tcx import tcx_programs

_STATS_RUN_TIME = 0


@dataclass(frozen=True, slots=True)
class Runs:
    """What a program has done while times were counted."""

    count: int
    time_ns: int


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """The kernel counts the run time of every program meanwhile."""
    try:
        fd, _ = bpf_call(Command.ENABLE_STATS, struct.pack("=I", _STATS_RUN_TIME))
    except OSError as exc:
        raise RigError(f"the kernel does not count the time of BPF programs: {exc}") from exc
    try:
        yield
    finally:
        os.close(fd)


def runs(ids: Iterable[int]) -> dict[int, Runs]:
    """By program id; those that are gone are left out."""
    found = {}
    for number in ids:
        try:
            fd, _ = bpf_call(Command.PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))
        except OSError:
            continue
        try:
            text = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii")
        finally:
            os.close(fd)
        fields = dict(re.findall(r"^(\w+):\s*(\S+)", text, re.MULTILINE))
        found[number] = Runs(int(fields["run_cnt"]), int(fields["run_time_ns"]))
    return found


def spent(before: Mapping[int, Runs], after: Mapping[int, Runs]) -> dict[int, Runs]:
    """What each program did between two looks."""
    none = Runs(0, 0)
    return {
        number: Runs(now.count - then.count, now.time_ns - then.time_ns)
        for number, now in after.items()
        for then in (before.get(number, none),)
    }


def attached_to(namespace: Namespace) -> dict[int, str]:
    """Program ids with "hook name" of all that is attached to interfaces in a namespace."""
    found = {}
    links = json.loads(namespace.run("ip", "-json", "-details", "link", "show").stdout)
    for link in links:
        xdp = link.get("xdp")
        if isinstance(xdp, dict):
            for one in xdp.get("attached") or [xdp]:
                if number := one.get("prog", {}).get("id"):
                    found[int(number)] = "xdp"
        for hook in ("ingress", "egress"):
            words = namespace.run(
                *("tc", "filter", "show", "dev", str(link["ifname"]), hook), check=False
            ).stdout
            for name, number in re.findall(r"handle \S+ (\S+)[^\n]*? id (\d+)", words):
                found.setdefault(int(number), f"{hook} {name}")
            index = int(link["ifindex"])
            linked = namespace.call(functools.partial(tcx_programs, index, hook))
            found.update((number, f"{hook} {name}") for number, name in linked)
    return found


def held_by(pids: Iterable[int]) -> set[int]:
    """Ids of the programs, and of those behind links, that processes have open."""
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for info in Path(f"/proc/{pid}/fdinfo").iterdir():
                with contextlib.suppress(OSError):
                    text = info.read_text(encoding="ascii", errors="replace")
                    found |= {int(n) for n in re.findall(r"^prog_id:\s*(\d+)", text, re.MULTILINE)}
    return found
