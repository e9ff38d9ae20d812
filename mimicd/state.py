# SPDX-License-Identifier: GPL-2.0-only
"""What the next daemon must know of an interface, in a file beside the pins.

/run/mimicd/<namespace inode>/<ifindex>.json, mode 0600, replaced as a whole; beside it
<ifindex>.lock, locked by the process that serves the interface.
"""

import contextlib
import fcntl
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


@dataclass(frozen=True, slots=True)
class Claim:
    """This process serves an interface. The claim ends with the process, however that ends."""

    path: Path
    fd: int

    def release(self) -> None:
        """Let others have it, and remove the folder if this was the last thing in it."""
        self.path.unlink(missing_ok=True)
        os.close(self.fd)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


def claim(folder: Path, ifindex: int) -> Claim | None:
    """None where another process serves the interface. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{ifindex}.lock"
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if os.fstat(fd).st_nlink:
            return Claim(path, fd)
        os.close(fd)  # whoever had it released it, and removed the file, in between


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
    with contextlib.suppress(OSError):
        folder.rmdir()
