# SPDX-License-Identifier: GPL-2.0-only
"""All interfaces of this daemon: the manager that the bus, and whoever else, talks to.

What is asked here is done by the parts beneath, each of which knows only those that are made
before it: who is served as what (roster, ledger), what one interface goes through (attaching,
upkeep, ending), what happens by itself (surroundings, heritage), and the end of all (shutdown).
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence

from mimicd import __version__, facts, logs
from mimicd.attaching import Attaching
from mimicd.audience import Audience
from mimicd.core.connection import Connection, InterfaceView
from mimicd.core.errors import AlreadyRunningError, FailedError
from mimicd.core.manager import Listener, Options
from mimicd.core.model import InterfaceConfig
from mimicd.core.part import WHOLE, Part
from mimicd.core.preflight import Line
from mimicd.core.settings import build_config
from mimicd.core.values import parse_verbosity
from mimicd.ending import Ending
from mimicd.heritage import Heritage
from mimicd.kernel.bpffs import Pins
from mimicd.kernel.netlink import Netlink
from mimicd.ledger import Ledger
from mimicd.logs import INFO
from mimicd.records import Records
from mimicd.roster import Roster, Served
from mimicd.shutdown import Shutdown
from mimicd.strict import StrictGuards
from mimicd.surroundings import Surroundings
from mimicd.upkeep import Upkeep


class Supervisor:
    """A core.manager.Manager. `open` first, then either `stop_all` or `leave_all`."""

    version = __version__

    def __init__(self) -> None:
        self._only = ""
        self._net = net = Netlink()
        self._guards = guards = StrictGuards(net)
        self._roster = roster = Roster()
        self._tell = tell = Audience(roster.verbosity_of)
        self._records = records = Records(tell)
        self._pins = pins = Pins(records.folder)
        self._ledger = ledger = Ledger(roster, records, tell)
        self._upkeep = upkeep = Upkeep(roster, ledger, records, guards, tell)
        self._attaching = attaching = Attaching(net, pins, ledger, records, guards, upkeep, tell)
        self._ending = ending = Ending(net, roster, ledger, records, guards, tell)
        self._surroundings = surroundings = Surroundings(
            net, roster, ledger, attaching, upkeep, ending, tell
        )
        self._heritage = Heritage(
            net, pins, roster, ledger, records, attaching, upkeep, surroundings, tell
        )
        self._shutdown = Shutdown(roster, records, surroundings, ending)

    async def open(self, only: str = "") -> None:
        """Find out where pins live, and take over what an earlier daemon left attached.

        `only`: take over and serve this interface and no other.
        """
        self._only = only
        await self._net.open()
        self._pins.make()
        self._surroundings.open()
        for saved in self._records.load():
            if only in ("", saved.name):
                await self._heritage.take_over(saved)

    async def open_to_look(self) -> None:
        """For `check` alone: nothing is taken over, made or watched."""
        await self._net.open()

    async def close_after_looking(self) -> None:
        """The end of `open_to_look`."""
        await self._net.close()

    async def stop_all(self) -> None:
        """Stop every interface, also when one of them fails."""
        await self._shutdown.stop_all()
        await self._close()

    async def leave_all(self) -> None:
        """Leave everything attached for the next daemon."""
        await self._shutdown.leave_all()
        await self._close()

    async def _close(self) -> None:
        self._surroundings.close()
        self._guards.close()
        await self._net.close()
        self._pins.leave()

    # --- changes ---

    async def run(self, interface: str, options: Options) -> None:
        """Attach to an interface; returns when traffic is disguised."""
        if self._only not in ("", interface):
            raise FailedError(
                f"this mimicd serves {self._only} alone, in the foreground",
                f"`mimicd run {interface}` serves another one, mimicd without `run` all of them",
            )
        async with self._roster.lock(interface):
            self._shutdown.check_goes_on()
            if self._roster.find(interface) is not None:
                raise AlreadyRunningError(
                    f"{interface} is running already",
                    f"`mimicctl reload` changes its filters, `mimicctl stop {interface}` ends it",
                )
            await self._attaching.attach(interface, build_config(options), time.time())
            self._surroundings.look_at_all()

    async def stop(self, interface: str) -> None:
        """Detach from an interface; returns when everything is as before `run`."""
        await self._ending.stop(interface)

    async def reload(self, interface: str, options: Options) -> None:
        """Apply the difference between the running configuration and `options`."""
        async with self._roster.lock(interface):
            self._shutdown.check_goes_on()
            config = build_config(options)
            waiting = self._roster.waiting(interface)
            if waiting is None:
                await self._upkeep.reload(self._roster.running(interface), config)
                return
            waiting = self._ledger.wait_for(interface, config, waiting.started_at, waiting.known)
            self._tell.added(waiting.view())

    async def set_log_level(self, interface: str, level: str) -> None:
        """Of one running interface, of the daemon and all of them for ""."""
        if interface:
            async with self._roster.lock(interface):
                self._set_verbosity(self._roster.running(interface), level)
            return
        number = parse_verbosity(level, INFO)
        for name in self._roster.running_names():
            async with self._roster.lock(name):
                served = self._roster.find(name)
                if served is not None:
                    self._set_verbosity(served, level)
        logs.set_daemon_level(number)

    def _set_verbosity(self, served: Served, level: str) -> None:
        instance = served.instance
        instance.set_verbosity(parse_verbosity(level, instance.config.verbosity))
        self._ledger.save(served)
        self._tell.added(instance.view())

    def set_holder(self, interface: str, holder: str) -> None:
        """Remember who holds a running interface, also for the next daemon."""
        self._ledger.set_holder(interface, holder)

    # --- looking ---

    async def check(self, interface: str, options: Options) -> list[Line]:
        """See core.manager."""
        texts = dict(options)
        probe = texts.pop("probe", "") == "true"
        config = (
            build_config(texts) if {"filter", "wireguard"} & texts.keys() else InterfaceConfig()
        )
        runs = self._roster.find(interface) is not None
        return await facts.check(self._net, interface, config, runs, probe)

    def count_connections(self) -> int:
        """Of all interfaces, about."""
        return sum(one.instance.count_connections() for one in self._roster.all_running())

    async def connections(
        self, interface: str, part: Part = WHOLE
    ) -> AsyncIterator[Sequence[Connection]]:
        """The connections of one running interface, of all of them for "", in portions."""
        if self._roster.waiting(interface) is not None:
            return
        roster = self._roster
        for served in [roster.running(interface)] if interface else roster.all_running():
            async for portion in served.instance.connections(part):
                yield portion

    def interfaces(self) -> list[InterfaceView]:
        """The running interfaces, with counters as of now, and those that are waited for."""
        return self._roster.views()

    def holder_of(self, interface: str) -> str:
        """Who holds an interface, "" for nobody."""
        return self._roster.holder_of(interface)

    def holders(self) -> dict[str, str]:
        """Of those interfaces that somebody holds."""
        return self._roster.holders()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` from now on; returns what ends that."""
        return self._tell.subscribe(listener)
