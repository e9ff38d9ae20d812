# SPDX-License-Identifier: GPL-2.0-only
"""Compiled programs, kept in files: $CACHE_DIRECTORY, as systemd sets it, or /var/cache/mimicd.

Only root can write there, and a file that somebody else owns is not read: what is in it runs in
the kernel. A cache that cannot be used costs time and nothing else.
"""

import contextlib
import hashlib
import os
import platform
from pathlib import Path

_DEFAULT = "/var/cache/mimicd"
_FILES_MAX = 16


def _folder() -> Path:
    return Path(os.environ.get("CACHE_DIRECTORY", "").split(":")[0] or _DEFAULT)


def cache_key(*texts: str) -> str:
    """Names what these texts compile to on this kernel."""
    digest = hashlib.sha256()
    for text in (platform.release(), platform.machine(), *texts):
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()[:32]


def read_object(key: str) -> bytes | None:
    """What was kept, or None."""
    try:
        fd = os.open(_folder() / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            about = os.fstat(fd)
            if about.st_uid != os.geteuid() or about.st_mode & 0o022:
                return None
            return file.read()
    except OSError:
        return None


def write_object(key: str, raw: bytes) -> None:
    """Keep it; the oldest make room."""
    folder = _folder()
    partial = folder / f".{key}.{os.getpid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(partial, flags, 0o600), "wb") as file:
            file.write(raw)
        partial.replace(folder / key)
        files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in files[:-_FILES_MAX]:
            path.unlink()
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
