# SPDX-License-Identifier: GPL-2.0-only
"""How the daemon ends: every interface is stopped, or left as it is for the next daemon.

What has begun comes to its end first: an interface that is half attached can be neither.
"""

import asyncio
import contextlib
import logging

from mimicd.core.errors import FailedError, MimicError
from mimicd.ending import Ending
from mimicd.records import Records
from mimicd.roster import Roster
from mimicd.surroundings import Surroundings

log = logging.getLogger(__name__)

_SETTLE_S = 5.0
"""Less than a service manager waits for the end of a service."""


class Shutdown:
    """`stop_all` or `leave_all`, once; both close nothing that others may still use."""

    def __init__(
        self, roster: Roster, records: Records, surroundings: Surroundings, ending: Ending
    ) -> None:
        self._roster = roster
        self._records = records
        self._surroundings = surroundings
        self._ending = ending
        self._has_begun = False

    def check_goes_on(self) -> None:
        """Raises FailedError: what would begin now could not be brought to its end."""
        if self._has_begun:
            raise FailedError("mimicd is about to end", "ask again once it is back")

    async def stop_all(self) -> None:
        """Stop every interface, also when one of them fails."""
        await self._settle()
        for name in self._roster.names():
            try:
                await self._ending.stop(name)
            except MimicError as error:
                log.error("%s: %s", name, error)

    async def leave_all(self) -> None:
        """Leave everything attached for the next daemon."""
        await self._settle()
        for served in self._roster.all_running():
            await served.follower.close(restore=False)
            if self._roster.name_of(served):  # else it is lost meanwhile, and detached by that
                served.instance.leave()
        self._records.release_all()
        self._roster.clear()

    async def _settle(self) -> None:
        """What has begun comes to its end, if that takes no longer; nothing new begins."""
        self._has_begun = True
        self._surroundings.rest()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                for lock in self._roster.locks():
                    async with lock:
                        pass
