# SPDX-License-Identifier: GPL-2.0-only
"""Which varlink socket a process serves, and who may open it."""

import contextlib
import grp
import logging
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from mimicd.command_line import Invocation
from mimicd.core.errors import FailedError
from mimicd.core.manager import Manager
from mimicd.core.options import UsageError
from mimicd.varlink import names
from mimicd.varlink.service import VarlinkService

log = logging.getLogger(__name__)

_ROOT_ALONE = 0o600
_GROUP_TOO = 0o660


@contextlib.asynccontextmanager
async def socket_of(
    manager: Manager, invocation: Invocation, bound: Iterable[str] = ()
) -> AsyncIterator[bool]:
    """Serve it; whether that could be, which is logged if not. Raises UsageError.

    `bound`: interfaces of a predecessor whose callers may come back to it.
    """
    mode, group = _ROOT_ALONE, None
    if invocation.socket_group:
        try:
            mode, group = _GROUP_TOO, grp.getgrnam(invocation.socket_group).gr_gid
        except KeyError:
            raise UsageError(
                f"there is no group {invocation.socket_group!r}", "`getent group` lists them"
            ) from None
    service = VarlinkService(manager, bound)
    try:
        yield _open(service, _paths(invocation), mode, group)
    finally:
        await service.close()


def _paths(invocation: Invocation) -> list[Path]:
    """The first one that is free is taken."""
    folder = Path(names.runtime_folder(os.environ))
    name = names.daemon_name(invocation.netns)
    files = [name]
    if invocation.interface:
        files.append(names.foreground_name(name, invocation.interface))
    return [folder / file for file in files]


def _open(service: VarlinkService, paths: list[Path], mode: int, group: int | None) -> bool:
    try:
        for path in paths:
            if service.open(path, mode, group):
                return True
    except FailedError as error:
        log.warning("%s; %s", error, error.hint)
        return False
    log.warning("no varlink socket: another mimicd serves %s", paths[-1])
    return False
