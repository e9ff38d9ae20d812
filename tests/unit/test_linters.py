# SPDX-License-Identifier: GPL-2.0-only
"""Format, lint and types of the whole tree, as tests, so that one command runs everything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = {
    "the source is formatted": ["ruff", "format", "--check", "."],
    "the linter has nothing to say": ["ruff", "check", "."],
    "types hold": ["mypy", "--strict"],
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS.keys())
def test_linter(arguments: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, f"{' '.join(arguments)}:\n{run.stdout}"
