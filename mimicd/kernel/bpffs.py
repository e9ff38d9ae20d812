# SPDX-License-Identifier: GPL-2.0-only
"""Where pins live: the system's bpffs, or one of our own where the system has none."""

import ctypes
import os
import shutil
from pathlib import Path

from mimicd.core.abi import VERSION

SYSTEM = Path("/sys/fs/bpf")
_FOLDER_MODE = 0o700

_libc = ctypes.CDLL(None, use_errno=True)


def is_bpffs(path: Path) -> bool:
    """Whether a bpffs is mounted there."""
    try:
        with Path("/proc/self/mounts").open() as mounts:
            return any(line.split()[1:3] == [str(path), "bpf"] for line in mounts)
    except OSError:
        return False


def namespace_inode() -> int:
    """Names the network namespace that this process is in."""
    return os.stat("/proc/self/ns/net").st_ino


def pin_root(state_folder: Path) -> Path | None:
    """The folder for this network namespace's pins, made if it is missing.

    Without a bpffs at /sys/fs/bpf one is mounted in `state_folder`. None where that is not
    allowed: then the data path ends with the daemon.
    """
    for mount_point in (SYSTEM, state_folder / "bpf"):
        if mount_point is not SYSTEM and not is_bpffs(mount_point) and not _mount(mount_point):
            continue
        if not is_bpffs(mount_point):
            continue
        root = mount_point / "mimicd" / str(namespace_inode())
        try:
            root.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        except OSError:
            continue
        return root
    return None


def _mount(point: Path) -> bool:
    try:
        point.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    except OSError:
        return False
    if _libc.mount(b"bpf", os.fsencode(point), b"bpf", 0, b"mode=0700") == 0:
        return True
    _remove_if_empty(point, point.parent)
    return False


def _remove_if_empty(*folders: Path) -> bool:
    """From the first one on, as far as they are empty; whether all of them were."""
    try:
        for folder in folders:
            folder.rmdir()
    except OSError:
        return False
    return True


def leave(root: Path, state_folder: Path) -> None:
    """Remove empty folders, and the bpffs that we mounted once nothing is pinned in it."""
    own = state_folder / "bpf"
    if not _remove_if_empty(root, root.parent):
        return
    if root.is_relative_to(own) and _libc.umount2(os.fsencode(own), 0) == 0:
        _remove_if_empty(own, state_folder)


class Pins:
    """The folder for a process's pins, from the first `make` to `leave`."""

    def __init__(self, state_folder: Path) -> None:
        self.root: Path | None = None
        """None where there is none, or not yet: see pin_root."""
        self._state_folder = state_folder

    def make(self) -> Path | None:
        """It, made again where somebody removed it."""
        self.root = pin_root(self._state_folder)
        return self.root

    def leave(self) -> None:
        """What is pinned in it stays."""
        if self.root is not None:
            leave(self.root, self._state_folder)


def pin_folder(root: Path, ifindex: int) -> Path:
    """The pins of one interface, in the layout of this version."""
    return root / str(ifindex) / f"v{VERSION}"


def pinned_versions(root: Path, ifindex: int) -> list[str]:
    """The layouts of which an interface has pins, such as "v1"."""
    try:
        return sorted(entry.name for entry in (root / str(ifindex)).iterdir())
    except OSError:
        return []


def remove_pins(root: Path, ifindex: int) -> None:
    """Of any version."""
    shutil.rmtree(root / str(ifindex), ignore_errors=True)


def pinned_interfaces(root: Path) -> list[int]:
    """ifindex of each interface that has pins, of any version."""
    try:
        return sorted(int(entry.name) for entry in root.iterdir() if entry.name.isdecimal())
    except OSError:
        return []
