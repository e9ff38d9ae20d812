# SPDX-License-Identifier: GPL-2.0-only
"""An interface that runs, kept as it is to be: by new settings, by what its filters are made from
now, and by what somebody removed of it.

Whoever calls holds the lock of its name, `refilter` aside.
"""

from mimicd.audience import Audience
from mimicd.core.errors import MimicError
from mimicd.core.model import InterfaceConfig
from mimicd.core.terminal import counted
from mimicd.instance import Instance
from mimicd.ledger import Ledger
from mimicd.logs import ERROR, INFO, WARNING
from mimicd.records import Records
from mimicd.roster import Roster, Served
from mimicd.strict import StrictGuards


class Upkeep:
    """Of all that run."""

    def __init__(
        self,
        roster: Roster,
        ledger: Ledger,
        records: Records,
        guards: StrictGuards,
        tell: Audience,
    ) -> None:
        self._roster = roster
        self._ledger = ledger
        self._records = records
        self._guards = guards
        self._tell = tell

    async def reload(self, served: Served, config: InterfaceConfig) -> None:
        """Apply the difference to `config`. Raises MimicError, and then nothing has changed."""
        instance, follower = served.instance, served.follower
        try:
            book = instance.book.renumbered(await follower.prepare(config))
            await self._guards.cover(instance.link, config, follower.guarded(config))
            await instance.reload(config, book)
        except BaseException:
            await self.guard_again(served)
            raise
        finally:
            follower.settle()
        self._ledger.save(served)
        self._tell.log(instance.name, INFO, f"reloaded: {counted(len(book.filters), 'filter')}")
        self._tell.added(instance.view())

    async def refilter(self, instance: Instance) -> None:
        """What its filters are made from has changed."""
        served = self._roster.of(instance)
        async with self._roster.lock(self._roster.name_of(served) if served else ""):
            served = self._roster.of(instance)
            if served is None:
                return
            await self.guard_again(served)
            try:
                book = instance.book.renumbered(served.follower.filters(instance.config))
                if book != instance.book:
                    await instance.reload(instance.config, book)
                    self._tell.added(instance.view())
            finally:
                self._ledger.save(served)  # also the MTU of a tunnel

    async def guard_again(self, served: Served) -> None:
        """What its guard is to know has changed, or is not known to this process."""
        instance = served.instance
        filters = served.follower.guarded(instance.config)
        try:
            await self._guards.cover(instance.link, instance.config, filters)
        except MimicError as error:
            self._tell.log(instance.name, ERROR, f"its strict filters cannot be guarded: {error}")

    def is_whole(self, served: Served) -> bool:
        """Whether nothing seems to be removed, of that which the kernel tells nobody."""
        return self._records.has(served.key) and served.instance.plane.is_intact()

    async def repair(self, served: Served) -> None:
        """Put back what somebody removed."""
        instance = served.instance
        try:
            repaired = await instance.plane.repair(instance.link)
            if await self._guards.repair(instance.link):
                repaired.append("the guard of its strict filters")
        except (MimicError, OSError) as error:
            if str(error) != instance.trouble:
                self._tell.log(
                    instance.name, ERROR, f"what was removed cannot be put back: {error}"
                )
            instance.trouble = str(error)
            return
        instance.trouble = ""
        for what in repaired:
            self._tell.log(instance.name, WARNING, f"somebody removed {what}; it is back")
        if repaired or not self._records.has(served.key):
            self._ledger.save(served)
