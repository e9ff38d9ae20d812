# SPDX-License-Identifier: GPL-2.0-only
"""How much the programs ask of the verifier: it gives up at a million instructions.

What it walks through grows with every branch, and differs between kernels: hence the margin.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from mimicd.kernel import compiler
from tests.bpf.conftest import BUILDS
from tests.bpf.plane import Plane

LIMIT = 100_000
PROGRAMS = (compiler.EGRESS, compiler.INGRESS, compiler.REPLY)


def verified_instructions(fd: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "verified_insns":
            return int(value)
    raise AssertionError("the kernel does not tell")


@pytest.mark.parametrize("name", BUILDS)
def test_the_verifier_is_far_from_giving_up(
    name: str, open_build: Callable[[str], Plane], capsys: pytest.CaptureFixture[str]
) -> None:
    fds = open_build(name).fds
    counts = {
        program: verified_instructions(fds[program]) for program in PROGRAMS if program in fds
    }
    with capsys.disabled():
        shown = ", ".join(f"{program} {count:,}" for program, count in counts.items())
        print(f"\n{name}: {shown}")
    assert {compiler.EGRESS, compiler.INGRESS} <= counts.keys()
    assert all(0 < count < LIMIT for count in counts.values()), counts
