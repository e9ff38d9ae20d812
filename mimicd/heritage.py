# SPDX-License-Identifier: GPL-2.0-only
"""What earlier processes left: gone on with where that can be, else cleared away and begun again.

What is attached goes on without a daemon, so this is what happens after an upgrade, and after a
daemon that was killed.
"""

import logging

from mimicd.attaching import Attaching
from mimicd.audience import Audience
from mimicd.core.errors import AlreadyRunningError, MimicError
from mimicd.core.model import InterfaceConfig
from mimicd.core.rules import RuleBook
from mimicd.core.settings import build_config
from mimicd.core.sources import Known, known_of
from mimicd.follower import Follower
from mimicd.kernel.bpffs import Pins
from mimicd.kernel.netlink import Netlink
from mimicd.ledger import Ledger
from mimicd.logs import WARNING
from mimicd.predecessor import adopt, clear_away
from mimicd.records import Records
from mimicd.roster import Roster, Served
from mimicd.state import Phase, SavedInterface
from mimicd.surroundings import Surroundings
from mimicd.upkeep import Upkeep

log = logging.getLogger(__name__)


class Heritage:
    """One record at a time, before anybody else is served."""

    def __init__(
        self,
        net: Netlink,
        pins: Pins,
        roster: Roster,
        ledger: Ledger,
        records: Records,
        attaching: Attaching,
        upkeep: Upkeep,
        surroundings: Surroundings,
        tell: Audience,
    ) -> None:
        self._net = net
        self._pins = pins
        self._roster = roster
        self._ledger = ledger
        self._records = records
        self._attaching = attaching
        self._upkeep = upkeep
        self._surroundings = surroundings
        self._tell = tell

    async def take_over(self, saved: SavedInterface) -> None:
        """Nothing where another process serves it."""
        try:
            self._records.claim(saved.name, saved.key)
        except AlreadyRunningError:
            return
        if saved.phase is Phase.RUNNING and await self._adopt(saved):
            return
        if saved.ifindex:
            await clear_away(self._net, self._pins.root, saved, self._tell)
            self._records.forget(saved.key)
        await self._begin_again(saved)

    async def _adopt(self, saved: SavedInterface) -> bool:
        """Whether it runs on."""
        instance = await adopt(self._net, self._pins.root, saved, self._tell)
        if instance is None:
            return False
        self._roster.hold(instance.name, saved.holder)
        known = known_of(instance.book.filters.values())
        served = Served(instance, Follower(self._net, instance.name, self._tell, known, saved.mtus))
        self._attaching.add(served)
        self._surroundings.look_at_all()
        if instance.name != saved.name:
            self._tell.log(instance.name, WARNING, f"it was called {saved.name} before")
        await self._upkeep.guard_again(served)
        await self._upkeep.repair(served)
        return True

    async def _begin_again(self, saved: SavedInterface) -> None:
        if saved.phase not in (Phase.RUNNING, Phase.WAITING):
            log.warning(
                "%s: the last mimicd died while it was %s; what it left is cleared away",
                saved.name,
                saved.phase.value,
            )
            return
        try:
            config = build_config(saved.options)
        except MimicError as error:
            log.error("%s: this mimicd does not know how it was run: %s", saved.name, error)
            self._records.forget(saved.key)
            return
        self._roster.hold(saved.name, saved.holder)
        self._ledger.wait_for(saved.name, config, saved.started_at, _known_of(saved, config))
        await self._surroundings.come_back(saved.name)


def _known_of(saved: SavedInterface, config: InterfaceConfig) -> Known:
    try:
        book = RuleBook.from_saved(saved.rules, saved.hosts, config.flow)
    except (MimicError, ValueError):
        return Known()
    return known_of(book.filters.values())
