# SPDX-License-Identifier: GPL-2.0-only
"""What changes underneath: interfaces that go, come back or get other names, other addresses, and
what somebody else removes.

The kernel says that something changed, not reliably what; so all that is served is looked at, each
interface in a task of its own, for one may be busy for seconds.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from mimicd.attaching import Attaching
from mimicd.audience import Audience
from mimicd.beat import at_next
from mimicd.core.errors import NoSuchInterfaceError
from mimicd.ending import Ending
from mimicd.kernel.changes import Changes
from mimicd.kernel.netlink import Netlink
from mimicd.ledger import Ledger
from mimicd.logs import INFO, WARNING
from mimicd.roster import Roster, Served
from mimicd.upkeep import Upkeep

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
"""How often that is looked at of which the kernel tells nobody."""


class Surroundings:
    """`open` first, at last `close`; from `rest` on no change is followed."""

    def __init__(
        self,
        net: Netlink,
        roster: Roster,
        ledger: Ledger,
        attaching: Attaching,
        upkeep: Upkeep,
        ending: Ending,
        tell: Audience,
    ) -> None:
        self._net = net
        self._roster = roster
        self._ledger = ledger
        self._attaching = attaching
        self._upkeep = upkeep
        self._ending = ending
        self._tell = tell
        self._changes: Changes | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._to_follow: set[Served] = set()
        self._to_come_back: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rests = False

    def open(self) -> None:
        """Raises OSError."""
        self._changes = Changes(self.look_at_all)
        self._looking = at_next(asyncio.get_running_loop(), _LOOK_EVERY_S, self._look)

    def rest(self) -> None:
        """What is being followed goes on, nothing new begins."""
        self._rests = True

    def close(self) -> None:
        """Also what is being followed ends."""
        for task in self._tasks:
            task.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if self._changes is not None:
            self._changes.close()

    def look_at_all(self) -> None:
        """Links, addresses or filters changed, or may have: look at all that we serve."""
        if self._rests:
            return
        for served in self._roster.all_running():
            if served not in self._to_follow:
                self._to_follow.add(served)
                self._keep(self._follow(served))
        for name in {waiting.name for waiting in self._roster.all_waiting()} - self._to_come_back:
            self._to_come_back.add(name)
            self._keep(self.come_back(name))

    async def come_back(self, name: str) -> None:
        """Run an interface again that was waited for, if it is there and up."""
        async with self._roster.lock(name):
            self._to_come_back.discard(name)
            waiting = self._roster.waiting(name)
            if waiting is not None and await self._attaching.attach_again(waiting):
                self.look_at_all()

    def _look(self) -> None:
        """Notice what the kernel does not tell."""
        self._looking = at_next(asyncio.get_running_loop(), _LOOK_EVERY_S, self._look)
        if not all(map(self._upkeep.is_whole, self._roster.all_running())):
            self.look_at_all()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a change of the network could not be followed", exc_info=error)

    async def _follow(self, served: Served) -> None:
        name = self._roster.name_of(served)
        if name:
            served.follower.network_changed()
        async with self._roster.lock(name):
            # What comes from here on is one more change.
            self._to_follow.discard(served)
            name, instance = self._roster.name_of(served), served.instance
            if not name:
                return
            before = instance.link
            try:
                link = await self._net.link_by_index(before.ifindex)
            except NoSuchInterfaceError:
                await self._ending.lose(served)
                return
            instance.refresh_link(link)
            name = self._roster.name_of(served)
            if link.name != name:
                self._rename(served, name)
            elif link.name != before.name:
                self._ledger.save(served)
                self._tell.added(instance.view())
            if link.is_up != before.is_up:
                self._tell.log(
                    link.name, INFO, f"the interface is {'up again' if link.is_up else 'down'}"
                )
            if link.mtu_bytes != before.mtu_bytes:
                self._tell.added(instance.view())
            await instance.refresh_addresses()
            await self._upkeep.repair(served)

    def _rename(self, served: Served, before: str) -> None:
        """The interface has another name."""
        name = served.instance.name
        if self._ledger.wait_no_more(name):
            self._tell.log(name, WARNING, f"{before} has its name now, it is no longer waited for")
        self._roster.rename(before, name)
        self._ledger.save(served)
        self._tell.log(name, INFO, f"the interface was called {before} before")
        self._tell.renamed(before, served.instance.view())
