# SPDX-License-Identifier: GPL-2.0-only
"""Which interfaces this process serves, as which names: those that run, and those it waits for.

A name is what people and edges know, a link may have another one by now: so whatever changes an
interface holds the lock of the name as which it is served, and locks move with names.
"""

import asyncio
from dataclasses import dataclass

from mimicd.core.connection import InterfaceView
from mimicd.core.errors import NotRunningError
from mimicd.core.settings import config_texts
from mimicd.follower import Follower
from mimicd.instance import Instance
from mimicd.state import Phase, SavedInterface
from mimicd.waiting import Waiting


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """One that runs, and who follows what its filters are made from."""

    instance: Instance
    follower: Follower

    @property
    def key(self) -> str:
        """Of its records."""
        return str(self.instance.link.ifindex)

    def saved(self, phase: Phase, holder: str) -> SavedInterface:
        """What the next daemon must know."""
        instance, plane, config = self.instance, self.instance.plane, self.instance.config
        rules, hosts = instance.book.saved(config.flow)
        return SavedInterface(
            name=instance.name,
            ifindex=instance.link.ifindex,
            link_type=plane.link_type,
            xdp_mode=plane.xdp_mode,
            made_clsact=plane.made_clsact,
            started_at=instance.started_at,
            options=config_texts(config),
            rules=rules,
            hosts=hosts,
            mtus=self.follower.mtus.saved,
            phase=phase,
            holder=holder,
        )


class Roster:
    """Kept in memory alone, so that everybody may ask; what is written down of it: the ledger."""

    def __init__(self) -> None:
        self._running: dict[str, Served] = {}
        self._waiting: dict[str, Waiting] = {}
        self._holders: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def lock(self, name: str) -> asyncio.Lock:
        """One change of an interface at a time."""
        return self._locks.setdefault(name, asyncio.Lock())

    def locks(self) -> list[asyncio.Lock]:
        """Of all that ever changed."""
        return list(self._locks.values())

    # --- those that run ---

    def find(self, name: str) -> Served | None:
        """What runs as `name`."""
        return self._running.get(name)

    def running(self, name: str) -> Served:
        """Raises NotRunningError."""
        served = self._running.get(name)
        if served is None:
            raise NotRunningError(
                f"{name} is not running",
                f"start it with `mimicctl run -f FILTER {name}`",
            )
        return served

    def all_running(self) -> list[Served]:
        """As of now: nobody who goes through them is held up by what comes and goes."""
        return list(self._running.values())

    def running_names(self) -> list[str]:
        """As which they are served."""
        return list(self._running)

    def name_of(self, served: Served) -> str:
        """As which it is served, "" if it no longer is; its link may have another name by now."""
        return next((name for name, one in self._running.items() if one is served), "")

    def of(self, instance: Instance) -> Served | None:
        """None for one that is no longer served."""
        return next((one for one in self._running.values() if one.instance is instance), None)

    def verbosity_of(self, name: str) -> int | None:
        """None for one that does not run."""
        served = self._running.get(name)
        return served.instance.config.verbosity if served else None

    def add(self, served: Served) -> None:
        """It runs, as its link is called."""
        self._running[served.instance.name] = served

    def remove(self, name: str) -> None:
        """It is served no more; its holder is still known."""
        del self._running[name]

    def rename(self, before: str, name: str) -> None:
        """Whoever waits for its lock goes on waiting for it."""
        # Of two that swap their names the other one is looked at next.
        other = self._running.pop(name, None)
        self._running[name] = self._running.pop(before)
        held, other_held = self.holder_of(before), self.holder_of(name)
        self._holders |= {name: held, before: other_held if other is not None else ""}
        if other is not None:
            self._running[before] = other
        locks = self.lock(before), self.lock(name)
        self._locks[name], self._locks[before] = locks

    # --- those that are waited for ---

    def waiting(self, name: str) -> Waiting | None:
        """What is waited for as `name`."""
        return self._waiting.get(name)

    def all_waiting(self) -> list[Waiting]:
        """As of now."""
        return list(self._waiting.values())

    def wait_for(self, waiting: Waiting) -> None:
        """In place of what was waited for by that name."""
        self._waiting[waiting.name] = waiting

    def wait_no_more(self, name: str) -> bool:
        """Whether it was waited for."""
        return self._waiting.pop(name, None) is not None

    # --- all of them ---

    def names(self) -> list[str]:
        """Of those that run, then of those that are waited for."""
        return [*self._running, *self._waiting]

    def views(self) -> list[InterfaceView]:
        """The running interfaces, with counters as of now, and those that are waited for."""
        return [
            *(served.instance.view() for served in self._running.values()),
            *(waiting.view() for waiting in self._waiting.values()),
        ]

    def clear(self) -> None:
        """None of them is this process's any more."""
        self._running.clear()
        self._waiting.clear()

    def holder_of(self, name: str) -> str:
        """Who holds an interface, "" for nobody."""
        return self._holders.get(name, "")

    def hold(self, name: str, holder: str) -> None:
        """It is to be stopped once `holder` has left."""
        self._holders[name] = holder

    def hold_no_more(self, name: str) -> None:
        """It was stopped."""
        self._holders.pop(name, None)

    def holders(self) -> dict[str, str]:
        """Of those interfaces that somebody holds."""
        return {name: held for name, held in self._holders.items() if held}
