# SPDX-License-Identifier: GPL-2.0-only
"""What the next daemon must know of an interface, in a file beside the pins.

/run/mimicd/<namespace inode>/<ifindex>.json, mode 0600, replaced as a whole.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mimicd.kernel.bpffs import namespace_inode

RUNTIME = Path("/run/mimicd")


@dataclass(frozen=True, slots=True)
class SavedInterface:
    """One interface as it was run."""

    name: str
    ifindex: int
    link_type: str
    xdp_mode: str
    made_clsact: bool
    started_at: float
    options: dict[str, str | list[str]]
    """Configuration texts, with which it was run."""
    rules: dict[str, str] = field(default_factory=dict)
    """Rule number -> filter text with its settings, names resolved."""


def state_folder() -> Path:
    """This network namespace's folder; RUNTIME_DIRECTORY, as systemd sets it, comes first."""
    base = Path(os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or RUNTIME)
    return base / str(namespace_inode())


def save(folder: Path, saved: SavedInterface) -> None:
    """Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{saved.ifindex}.json"
    partial = path.with_suffix(".new")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(saved), file)
    partial.replace(path)


def load(folder: Path) -> list[SavedInterface]:
    """What can be read; a broken file counts as none."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(SavedInterface(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    return found


def remove(folder: Path, ifindex: int) -> None:
    """Remove one file, and the folder with the last."""
    (folder / f"{ifindex}.json").unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        return
