# SPDX-License-Identifier: GPL-2.0-only
"""What the next daemon must know of an interface, in a file beside the pins.

/run/mimicd/<namespace inode>/<ifindex>.json, mode 0600, replaced as a whole; beside it
<ifindex>.lock, locked by the process that serves the interface. An interface that is waited for
has no number: its files are named waiting-<name>.

The file is there before anything is attached and until everything is detached, so that a process
that dies on the way leaves a note of what its successor has to clear away.
"""

import contextlib
import enum
import json
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from mimicd.kernel.bpffs import namespace_inode

RUNTIME = Path("/run/mimicd")


class Phase(enum.StrEnum):
    """How far an interface had come."""

    ATTACHING = "attaching"
    RUNNING = "running"
    STOPPING = "stopping"
    WAITING = "waiting"
    """There is no interface of this name, or it cannot be attached to now."""


@dataclass(frozen=True, slots=True)
class SavedInterface:
    """One interface as it was run."""

    name: str
    ifindex: int
    """0 for one that is waited for."""
    link_type: str
    xdp_mode: str
    made_clsact: bool
    started_at: float
    options: dict[str, str | list[str]]
    """Configuration texts, with which it was run."""
    rules: dict[str, str] = field(default_factory=dict)
    """Rule number -> filter text with its settings and address."""
    hosts: dict[str, str] = field(default_factory=dict)
    """Rule number -> the name, or whatever else, that its address came from."""
    mtus: dict[str, list[int]] = field(default_factory=dict)
    """WireGuard interface -> its ifindex, the MTU that it had, the MTU that it got."""
    phase: Phase = Phase.RUNNING
    holder: str = ""
    """The caller whose end is its end too, as the edge wrote that he came by; "" for none."""

    @property
    def key(self) -> str:
        """What its files are called."""
        return str(self.ifindex) if self.ifindex else waiting_key(self.name)


def waiting_key(name: str) -> str:
    """What the files of an interface are called that is waited for."""
    return f"waiting-{name}"


def state_folder() -> Path:
    """This network namespace's folder; RUNTIME_DIRECTORY, as systemd sets it, comes first."""
    base = Path(os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or RUNTIME)
    return base / str(namespace_inode())


def save(folder: Path, saved: SavedInterface) -> None:
    """Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{saved.key}.json"
    partial = path.with_suffix(".new")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(saved), file)
    partial.replace(path)


def is_saved(folder: Path, key: str) -> bool:
    """Whether the file is there."""
    return (folder / f"{key}.json").exists()


def load(folder: Path) -> list[SavedInterface]:
    """What can be read; a broken file counts as none."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            values = json.loads(path.read_text())
            # what a newer version says beyond that is not for us
            known = {
                one.name: values[one.name] for one in fields(SavedInterface) if one.name in values
            }
            saved = SavedInterface(**known)
            if not _is_whole(saved):
                raise ValueError("a value of the wrong type")
            found.append(replace(saved, phase=Phase(saved.phase)))
        except (OSError, ValueError, TypeError):
            continue
    return found


def _is_whole(saved: SavedInterface) -> bool:
    texts = (saved.name, saved.link_type, saved.xdp_mode, saved.phase, saved.holder)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(saved.ifindex, int)
        and isinstance(saved.started_at, int | float)
        and isinstance(saved.options, dict)
        and isinstance(saved.rules, dict)
        and all(isinstance(text, str) for text in saved.rules.values())
        and "/" not in saved.name
    )


def remove(folder: Path, key: str) -> None:
    """Remove one file, and the folder with the last."""
    (folder / f"{key}.json").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
