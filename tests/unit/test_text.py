# SPDX-License-Identifier: GPL-2.0-only
"""What no file of the tree may hold, whoever wrote it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Made by tools; so is what is in hidden folders, but for one. The licence is not ours to word.
SKIPPED_FOLDERS = {"build", "dist", "__pycache__"}
OWN_HIDDEN_FOLDER = ".ci"
SKIPPED_FILES = {"LICENSE"}
LICENCE = "SPDX-License-Identifier: GPL-2.0-only"
LICENSED = {".py", ".c", ".h", ".sh"}

# Somebody's home: a path that stands on no other machine.
HOME = re.compile(r"/(?:home|Users)/\w|/root/")
# Folders every machine has: a checkout there says nothing about the machine it is on.
COMMON = {"/", "/home", "/mnt", "/opt", "/root", "/srv", "/tmp", "/usr", "/var"}


def is_made_by_a_tool(folder: str) -> bool:
    hidden = folder.startswith(".") and folder != OWN_HIDDEN_FOLDER
    return hidden or folder in SKIPPED_FOLDERS or folder.endswith(".egg-info")


def texts() -> Iterator[tuple[str, str]]:
    """Path within the tree and content of each text file."""
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = sorted(name for name in subfolders if not is_made_by_a_tool(name))
        for name in sorted(names):
            path = Path(folder, name)
            if name in SKIPPED_FILES or not path.is_file():
                continue
            data = path.read_bytes()
            if b"\0" not in data:
                yield str(path.relative_to(ROOT)), data.decode()


TEXTS = dict(texts())
PYTHON = [path for path in TEXTS if path.endswith(".py")]


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()}"
        for path, text in TEXTS.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def is_program(text: str) -> bool:
    return text.startswith("#!")


def test_every_source_file_names_its_licence() -> None:
    without = [
        path
        for path, text in TEXTS.items()
        if (Path(path).suffix in LICENSED or is_program(text))
        and not any(LICENCE in line for line in text.splitlines()[:3])
    ]
    assert PYTHON
    assert not without


def test_python_is_indented_with_spaces() -> None:
    assert not [path for path in PYTHON if "\t" in TEXTS[path]]


def test_no_file_names_the_folder_it_was_written_in() -> None:
    places = [str(place) for place in (ROOT, ROOT.parent) if str(place) not in COMMON]
    either = "|".join(map(re.escape, places)) or "(?!)"
    assert not lines_with(re.compile(rf"(?:{either})(?![\w-])"))


def test_no_file_names_a_home_folder() -> None:
    # Written so that this file does not find itself.
    found = [line for line in lines_with(HOME) if not line.startswith("tests/unit/test_text.py:")]
    assert not found


def test_every_document_named_is_there() -> None:
    named = re.compile(r"(?<![\w/.*<-])[\w/-]+\.md\b")
    names = {Path(path).name for path in TEXTS}
    missing = {
        f"{path}: {name}"
        for path, text in TEXTS.items()
        for name in named.findall(text)
        if Path(name).name not in names
    }
    assert not missing


def test_no_file_refers_to_a_list_of_tasks() -> None:
    assert not lines_with(re.compile(r"\b(?:issue|ticket)s? #?\d", re.IGNORECASE))


@pytest.mark.parametrize("script", ["setup.sh", "demo.sh", "test.sh", ".ci/run"])
def test_scripts_can_be_started(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert is_program(TEXTS[script])


def test_no_file_is_in_the_way_of_a_merge() -> None:
    assert not lines_with(re.compile(r"^(?:<{7}|>{7}|\|{7})(?: |$)"))
