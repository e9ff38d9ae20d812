# SPDX-License-Identifier: GPL-2.0-only
"""What shells complete: bash is asked, the files of the others are read."""

import subprocess
import sys
from pathlib import Path

import pytest

from completions.build import PROGRAMS, Program, bash, files, fish, zsh

ROOT = Path(__file__).resolve().parents[2]

_ASK = """
. "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
"_$1"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    subprocess.run(
        [sys.executable, "-m", "completions.build", str(folder)], cwd=ROOT, check=True, timeout=30
    )
    return folder


def completed(folder: Path, *words: str) -> list[str]:
    """What bash has for the last of these words."""
    file = folder / "bash-completion" / "completions" / words[0]
    done = subprocess.run(
        ["bash", "-c", _ASK, "bash", str(file), *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["mimicctl", "sh"], ["show"]),
        (["mimicctl", "run", "-L", ""], ["auto", "eth", "none"]),
        (["mimicctl", "run", "--link-type", "=", "e"], ["eth"]),
        (["mimicctl", "run", "--xdp-mode", "="], ["auto", "skb", "native", "none"]),
        (["mimicctl", "run", "--pad"], ["--padding"]),
        (["mimicctl", "run", "-p", ""], ["random"]),
        (["mimicctl", "show", "-p", "--con"], ["--connections"]),
        (["mimicctl", "reload", "-f", "re"], ["remote="]),
        (["mimicctl", "log", "tr"], ["trace"]),
        (["mimicctl", "stop", "l"], ["lo"]),
        (["mimicctl", "--address", ""], []),
        (["mimicctl", "check", "-F", "/etc/hostn"], ["/etc/hostname"]),
        (["mimicd", "--verb"], ["--verbose"]),
        (["mimicd", "run", "--max"], ["--max-window"]),
        (["mimicd", "ru"], ["run"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_bash_completes(folder: Path, words: list[str], expected: list[str]) -> None:
    assert completed(folder, *words) == expected


def test_the_files_are_where_shells_look_for_them(folder: Path) -> None:
    written = {
        str(one.relative_to(folder)): one.read_text() for one in folder.rglob("*") if one.is_file()
    }
    assert written == files()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_every_command_and_option_is_completed_in_every_shell(program: Program) -> None:
    for make in (bash, zsh, fish):
        text = make(program)
        for command in (program.whole, *program.commands):
            assert command.name in text
            for option in command.options:
                assert (f"-l {option.long[2:]} " if make is fish else option.long) in text
                assert make is bash or option.help.split(":")[0] in text
