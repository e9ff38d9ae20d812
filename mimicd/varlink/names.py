# SPDX-License-Identifier: GPL-2.0-only
"""Names of the varlink interface, and where its sockets stand. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

INTERFACE = "org.mimicd1"
SERVICE = "org.varlink.service"

RUNTIME = "/run/mimicd"
RUNTIME_VARIABLE = "RUNTIME_DIRECTORY"
_ADDRESS_PREFIX = "unix:"
_FOREGROUND = ".run."

PORTION = 200
"""Connections in one reply of ListConnections, where the caller takes more than one."""

MESSAGE_LIMIT_BYTES = 256 * 1024
"""Largest call that the daemon reads: several thousand filters."""

REPLY_LIMIT_BYTES = 64 << 20
"""Largest reply that the client reads."""


def daemon_name(netns: str) -> str:
    """What the daemon of a named network namespace is called, of the usual one for ""."""
    return f"{INTERFACE}.netns.{netns}" if netns else INTERFACE


def runtime_folder(environ: Mapping[str, str]) -> PurePosixPath:
    """RUNTIME_DIRECTORY, as systemd sets it, else /run/mimicd."""
    return PurePosixPath(environ.get(RUNTIME_VARIABLE, "").split(":")[0] or RUNTIME)


def foreground_name(daemon: str, interface: str) -> str:
    """File name of the socket of a `mimicd run`, where another process has the usual one."""
    return f"{daemon}{_FOREGROUND}{interface}"


def is_foreground_name(file: str, daemon: str) -> bool:
    """Whether `foreground_name` makes such a name, and no lock is called so."""
    return file.startswith(daemon + _FOREGROUND) and not file.endswith(".lock")


def path_of_address(address: str) -> str | None:
    """The socket of a varlink address, `unix:/path`; None for an address of a bus."""
    path = address.removeprefix(_ADDRESS_PREFIX).partition(";")[0]
    return path if address.startswith(_ADDRESS_PREFIX) and path.startswith(("/", "@")) else None


def address_of(path: object) -> str:
    """The varlink address of a socket."""
    return f"{_ADDRESS_PREFIX}{path}"
