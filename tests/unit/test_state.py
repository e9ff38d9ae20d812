# SPDX-License-Identifier: GPL-2.0-only
"""The files that one daemon leaves for the next, and the locks beside them."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from mimicd import state
from mimicd.claims import claim
from mimicd.state import Phase, SavedInterface

SAVED = SavedInterface(
    name="eth0",
    ifindex=3,
    link_type="eth",
    xdp_mode="native",
    made_clsact=True,
    started_at=1.5,
    options={"filter": ["remote=192.0.2.9:5000"], "padding": "5"},
    rules={"1": "remote=192.0.2.9:5000"},
    phase=Phase.STOPPING,
    holder="dbus 0123 :1.7",
)


def test_what_is_saved_is_loaded_and_removed_with_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "4026531840"
    waiting = SavedInterface(**{**asdict(SAVED), "ifindex": 0, "phase": Phase.WAITING})
    for one in (SAVED, waiting):
        state.save(folder, one)
        assert state.is_saved(folder, one.key)
    assert sorted(path.name for path in folder.iterdir()) == ["3.json", "waiting-eth0.json"]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert state.load(folder) == [SAVED, waiting]
    for one in (SAVED, waiting):
        state.remove(folder, one.key)
    assert not folder.exists()
    assert state.load(folder) == []


def test_a_file_of_another_version_is_read_as_far_as_it_is_understood(tmp_path: Path) -> None:
    older = {key: value for key, value in asdict(SAVED).items() if key not in ("phase", "holder")}
    (tmp_path / "3.json").write_text(json.dumps({**older, "of a newer version": 1}))
    (loaded,) = state.load(tmp_path)
    assert (loaded.phase, loaded.holder) == (Phase.RUNNING, "")
    assert loaded.options == SAVED.options


BROKEN = [
    "",
    "[]",
    "{}",
    *(
        json.dumps({**asdict(SAVED), key: value})
        for key, value in (
            ("phase", "elsewhere"),
            ("phase", None),
            ("ifindex", "3"),
            ("options", None),
            ("rules", {"1": 7}),
            ("name", "../../etc/passwd"),
            ("started_at", "long ago"),
        )
    ),
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "3.json").write_text(text)
    assert state.load(tmp_path) == []


def test_one_process_has_a_claim_until_it_lets_go(tmp_path: Path) -> None:
    folder = tmp_path / "claims"
    first = claim(folder, "eth0")
    assert first is not None
    assert claim(folder, "eth0") is None
    other = claim(folder, "eth1")
    assert other is not None
    other.release()
    first.release()
    assert not folder.exists()
    again = claim(folder, "eth0")
    assert again is not None
    again.release()
