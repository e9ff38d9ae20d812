# SPDX-License-Identifier: GPL-2.0-only
"""Running as a SIP003 plugin of shadowsocks: arguments from the environment, life with the parent.

https://shadowsocks.org/doc/sip003.html
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from kaminari.address import Address, build_address
from kaminari.errors import UsageError
from kaminari.options import Role

VARIABLES = ("SS_LOCAL_HOST", "SS_LOCAL_PORT", "SS_REMOTE_HOST", "SS_REMOTE_PORT")


@dataclass(frozen=True, slots=True)
class Arguments:
    listen: Address
    connect: Address
    options: str
    plugin: bool
    """Started by shadowsocks, and to end when it does."""


def read_environment(environment: Mapping[str, str], role: Role) -> Arguments | None:
    """What SIP003 gives, or None if it gives nothing. Raises UsageError if it gives a part.

    A client listens on SS_LOCAL and connects to SS_REMOTE, a server the other way round.
    """
    given = [name for name in VARIABLES if environment.get(name)]
    if not given:
        return None
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise UsageError(f"{given[0]} is set, but {missing[0]} is not", "SIP003 sets all four")
    local = build_address(
        environment["SS_LOCAL_HOST"], environment["SS_LOCAL_PORT"], "SS_LOCAL_HOST"
    )
    remote = build_address(
        environment["SS_REMOTE_HOST"], environment["SS_REMOTE_PORT"], "SS_REMOTE_HOST"
    )
    listen, connect = (local, remote) if role is Role.CLIENT else (remote, local)
    return Arguments(listen, connect, environment.get("SS_PLUGIN_OPTIONS", ""), True)


@contextlib.contextmanager
def watch_parent(
    loop: asyncio.AbstractEventLoop, parent: int, gone: Callable[[], None]
) -> Iterator[None]:
    """Call `gone` once the process `parent` ends, or has ended before this was called."""
    try:
        fd = os.pidfd_open(parent)
    except OSError:
        gone()
        yield
        return
    try:
        if os.getppid() != parent:  # it ended, and its number may be another process's by now
            gone()
        else:
            loop.add_reader(fd, _once(loop, fd, gone))
        yield
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _once(loop: asyncio.AbstractEventLoop, fd: int, gone: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        loop.remove_reader(fd)
        gone()

    return call
