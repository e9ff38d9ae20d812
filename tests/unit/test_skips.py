# SPDX-License-Identifier: GPL-2.0-only
"""The rule of tests/conftest.py that CI runs every test, tried on small test runs of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"

SKIPPED_TEST = """
import pytest

def test_passes():
    pass

@pytest.mark.skip(reason="no such kernel feature")
def test_skipped_by_mark():
    pass

def test_skips_itself():
    pytest.skip("no such program")
"""

SKIPPED_MODULE = """
import pytest

pytest.skip("no such library", allow_module_level=True)
"""

EXPECTED_FAILURE = """
import pytest

@pytest.mark.xfail(reason="known")
def test_fails_as_expected():
    raise AssertionError
"""


def run_pytest(folder: Path, source: str, ci: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, folder)
    (folder / "test_sample.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    root: needs root\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA"],
        cwd=folder,
        env=os.environ | {"CI": ci, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_skip_is_a_failure_in_ci_and_its_reason_is_told(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, SKIPPED_TEST, ci="true")
    assert run.returncode == 1, run.stdout
    assert "1 passed" in run.stdout
    assert "no such kernel feature" in run.stdout
    assert "no such program" in run.stdout
    assert "skipped" not in run.stdout.splitlines()[-1]


def test_a_skipped_module_is_a_failure_in_ci(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, SKIPPED_MODULE, ci="true")
    assert run.returncode not in (0, 5), run.stdout
    assert "no such library" in run.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, EXPECTED_FAILURE, ci="true")
    assert run.returncode == 0, run.stdout
    assert "1 xfailed" in run.stdout


@pytest.mark.parametrize("ci", ["", "false", "0"])
def test_a_skip_is_a_skip_elsewhere(tmp_path: Path, ci: str) -> None:
    run = run_pytest(tmp_path, SKIPPED_TEST, ci=ci)
    assert run.returncode == 0, run.stdout
    assert "1 passed, 2 skipped" in run.stdout
