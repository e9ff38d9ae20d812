# SPDX-License-Identifier: GPL-2.0-only
"""Files that say, by being locked, that a process lives: the lock ends however that does."""

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Claim:
    """This process serves what the file is named after."""

    path: Path
    fd: int

    def release(self) -> None:
        """Let others have it, and remove the folder if this was the last thing in it."""
        self.path.unlink(missing_ok=True)
        os.close(self.fd)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


def claim(folder: Path, key: str) -> Claim | None:
    """None where another process serves what is called `key`. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{key}.lock"
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
