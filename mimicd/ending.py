# SPDX-License-Identifier: GPL-2.0-only
"""How an interface ends to be served: somebody stops it, or it is gone.

Its record comes last, so that the next process knows what one that died on the way left.
"""

import contextlib
from collections.abc import Iterable

from mimicd.audience import Audience
from mimicd.core.errors import MimicError, NoSuchInterfaceError
from mimicd.core.model import Filter, InterfaceConfig
from mimicd.core.sources import guarded_filters
from mimicd.kernel.netlink import Link, Netlink
from mimicd.ledger import Ledger
from mimicd.logs import ERROR, INFO, WARNING
from mimicd.records import Records
from mimicd.roster import Roster, Served
from mimicd.state import Phase
from mimicd.strict import StrictGuards
from mimicd.waiting import Waiting


class Ending:
    """Of one interface at a time; what ends them all is the shutdown."""

    def __init__(
        self,
        net: Netlink,
        roster: Roster,
        ledger: Ledger,
        records: Records,
        guards: StrictGuards,
        tell: Audience,
    ) -> None:
        self._net = net
        self._roster = roster
        self._ledger = ledger
        self._records = records
        self._guards = guards
        self._tell = tell

    async def stop(self, name: str) -> None:
        """Detach from an interface, or wait for it no more. Raises NotRunningError."""
        async with self._roster.lock(name):
            waiting = self._roster.waiting(name)
            if waiting is not None:
                await self._stop_waiting(waiting)
            else:
                await self._stop(self._roster.running(name))

    async def lose(self, served: Served) -> None:
        """The interface is gone, or in another network namespace. The caller holds its lock."""
        instance, name = served.instance, self._roster.name_of(served)
        self._tell.log(name, WARNING, "the interface is gone; it is run again once there is one")
        self._roster.remove(name)
        known = served.follower.known
        waiting = self._ledger.wait_for(name, instance.config, instance.started_at, known)
        self._guards.forget(instance.link.ifindex)
        try:
            await served.follower.close(restore=True)
        finally:
            await self._detach(served)
            self._tell.added(waiting.view())

    async def _stop_waiting(self, waiting: Waiting) -> None:
        name, config = waiting.name, waiting.config
        self._ledger.wait_no_more(name)
        with contextlib.suppress(NoSuchInterfaceError):
            link = await self._net.link(name)
            await self._uncover(link, config, guarded_filters(config, waiting.known.tunnels))
        self._removed(name, config)

    async def _stop(self, served: Served) -> None:
        instance, name = served.instance, self._roster.name_of(served)
        self._roster.remove(name)
        self._ledger.save(served, Phase.STOPPING)
        try:
            await served.follower.close(restore=True)
            guarded = served.follower.guarded(instance.config)
            await self._uncover(instance.link, instance.config, guarded)
        finally:
            await self._detach(served)
            self._removed(name, instance.config)

    async def _uncover(
        self, link: Link, config: InterfaceConfig, guarded: Iterable[Filter]
    ) -> None:
        """A guard that cannot be changed keeps nobody from stopping."""
        try:
            await self._guards.uncover(link, config, guarded)
        except MimicError as error:
            self._tell.log(link.name, ERROR, f"its guard cannot be changed: {error}")

    async def _detach(self, served: Served) -> None:
        """Cut short, its record stays, and the next process clears away what is left."""
        key = served.key
        try:
            await served.instance.stop()
        except BaseException:
            self._records.release(key)
            raise
        self._records.forget(key)

    def _removed(self, name: str, config: InterfaceConfig) -> None:
        self._roster.hold_no_more(name)
        self._tell.log(name, INFO, "stopped", verbosity=config.verbosity)
        self._tell.removed(name)
