# SPDX-License-Identifier: GPL-2.0-only
"""How much the programs ask of the verifier: it gives up at a million instructions.

What it walks through grows with every branch, and differs between kernels: hence the margin.
"""

from pathlib import Path

import pytest

from mimicd.kernel import compiler
from tests.bpf.plane import Plane

LIMIT = 100_000
PROGRAMS = (compiler.EGRESS, compiler.INGRESS, compiler.REPLY)


def verified_instructions(fd: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "verified_insns":
            return int(value)
    raise AssertionError("the kernel does not tell")


@pytest.mark.parametrize("build", ["plane", "whole_sum_plane", "headerless_plane"])
def test_the_verifier_is_far_from_giving_up(
    build: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    plane: Plane = request.getfixturevalue(build)
    counts = {name: verified_instructions(plane.fds[name]) for name in PROGRAMS}
    with capsys.disabled():
        print(f"\n{build}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    assert all(0 < count < LIMIT for count in counts.values()), counts
