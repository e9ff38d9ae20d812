# SPDX-License-Identifier: GPL-2.0-only
"""This machine: its package manager, its units, its log, and the command mimicctl."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rig.namespace import wait_until

UNIT = "mimicd.service"
CONFIG = Path("/etc/mimic")
WITHIN_S = 60.0


class CommandError(Exception):
    """A command failed that had to succeed."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def words(self) -> str:
        """The first line of what it said."""
        return (self.stderr or self.stdout).strip().partition("\n")[0]


def do(
    *argv: str, check: bool = True, user: str = "", env: Mapping[str, str] | None = None
) -> Done:
    """Run a command; CommandError unless it exits 0 or `check` is off."""
    who = ("runuser", "-u", user, "--") if user else ()
    done = subprocess.run(
        [*who, *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        check=False,
    )
    if check and done.returncode:
        raise CommandError(f"{' '.join(argv)} exited {done.returncode}: {done.stderr.strip()}")
    return Done(done.returncode, done.stdout, done.stderr)


def apt(*argv: str) -> Done:
    """apt-get without questions."""
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    return do("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", *argv, env=quiet)


def ctl(*argv: str, check: bool = True, user: str = "") -> Done:
    """mimicctl."""
    return do("mimicctl", *argv, check=check, user=user)


def systemctl(*argv: str, check: bool = True) -> Done:
    return do("systemctl", *argv, check=check)


def unit_property(unit: str, name: str) -> str:
    return systemctl("show", "-P", name, unit).stdout.strip()


def is_active(unit: str) -> bool:
    return systemctl("is-active", "-q", unit, check=False).exit_code == 0


def await_active(unit: str, active: bool = True) -> None:
    word = "active" if active else "not active"
    wait_until(lambda: is_active(unit) == active, WITHIN_S, f"{unit} is {word}", every_s=0.05)


def main_pid() -> int:
    """Of the daemon; 0 while there is none."""
    return int(unit_property(UNIT, "MainPID") or 0)


def journal(*matches: str) -> list[dict[str, Any]]:
    """Records of this boot, with their fields."""
    do("journalctl", "--sync")
    lines = do("journalctl", "-b", "-o", "json", "--no-pager", *matches).stdout.splitlines()
    return [json.loads(line) for line in lines]


def messages(*matches: str) -> str:
    return "\n".join(str(record.get("MESSAGE", "")) for record in journal(*matches))


def exposure(unit: str) -> float:
    """What `systemd-analyze security` thinks of it; less is better."""
    summary = do("systemd-analyze", "security", "--no-pager", unit).stdout.strip().splitlines()[-1]
    return float(summary.split(": ", 1)[1].split()[0])


def owned(*paths: Path) -> list[tuple[str, str, str]]:
    """Path, owner and mode in octal of each that exists."""
    return [
        (str(path), pwd.getpwuid(path.stat().st_uid).pw_name, f"{path.stat().st_mode & 0o7777:o}")
        for path in paths
        if path.exists()
    ]


def traces(
    names: Sequence[str] = ("mimicd", "mimicctl", "kaminari", "mimic@", "mimic-guard@"),
) -> list[str]:
    """Files, pins and links with one of these in their names, where a package could leave any."""
    found = []
    for top in ("/etc", "/lib/systemd", "/run", "/sys/fs/bpf", "/usr", "/var"):
        for folder, folders, files in os.walk(top):
            found += [
                f"{folder}/{name}" for name in (*folders, *files) if any(n in name for n in names)
            ]
    return sorted(found)
