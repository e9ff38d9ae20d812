# SPDX-License-Identifier: GPL-2.0-only
"""A machine with a bpffs at /sys/fs/bpf, as systemd mounts it, also where this one has none."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.rig.namespace import Namespace, RigError

_MOUNT = "mount -t bpf bpf /sys/fs/bpf && echo mounted && exec sleep infinity"


@dataclass(frozen=True)
class MountNamespace:
    """A mount namespace that lives as long as one process in it."""

    pid: int

    def command(self, *argv: str) -> list[str]:
        """The argument list that runs argv inside."""
        return ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--", *argv]

    def path(self, inside: str) -> Path:
        """Where an absolute path of the inside is seen from here."""
        return Path(f"/proc/{self.pid}/root{inside}")


@contextmanager
def system_bpffs(namespace: Namespace) -> Iterator[MountNamespace]:
    """A mount namespace of its own, with a fresh bpffs in the usual place."""
    argv = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT)
    process = namespace.start(*argv, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"mounted\n":
            raise RigError("a bpffs cannot be mounted in a mount namespace of its own")
        yield MountNamespace(process.pid)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
