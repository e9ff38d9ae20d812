# SPDX-License-Identifier: GPL-2.0-only
"""Interfaces that live only as long as the caller who ran them stays on the bus.

A caller that leaves takes its interfaces with it. When the bus itself goes away nobody can tell
who is still there, so the interfaces go on; after the bus is back their callers have some time
to bind them again before they are stopped. This outlives a bus connection.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dbus_next.message import Message

from mimicd.bus import names
from mimicd.bus.connection import Connection, ReplyError
from mimicd.core.errors import BusError, MimicError, NotRunningError

log = logging.getLogger(__name__)

REBIND_GRACE_S = 15.0
_HOLDER = "dbus"
_NOBODY: Mapping[str, str] = MappingProxyType({})


class Presence(enum.Enum):
    HERE = "here"
    LEFT = "left"
    UNKNOWN = "unknown"
    """The bus went away, and with it the knowledge."""


@dataclass(eq=False, slots=True)
class Caller:
    """One caller on one bus connection."""

    name: str
    """Unique name."""
    presence: Presence = Presence.HERE
    uses: int = 0
    """Calls in progress and interfaces that depend on it being watched."""


class Bindings:
    """Who holds which interface. `stop` is called for an interface whose caller is gone."""

    def __init__(
        self,
        stop: Callable[[str], Awaitable[None]],
        bound: Mapping[str, str] = _NOBODY,
        grace_s: float = REBIND_GRACE_S,
        remember: Callable[[str, str], None] = lambda interface, holder: None,
        holder_of: Callable[[str], str] | None = None,
    ) -> None:
        """`bound`: interfaces of a predecessor, with what `remember` was called with for each.

        `remember` is told who holds an interface from now on, "" for nobody; `holder_of` tells
        it, also where it was said by somebody else.
        """
        self._holder_of = holder_of
        self._stop = stop
        self._remember = remember
        self._bus_id = ""
        self._held_by = dict(bound)
        self._grace_s = grace_s
        self._connection: Connection | None = None
        self._callers: dict[str, Caller] = {}
        self._holders: dict[str, Caller] = {}
        self._waiting: dict[str, asyncio.TimerHandle | None] = dict.fromkeys(bound)
        """Interfaces whose caller may come back, and when that time is up (bus away: None)."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._stops: set[asyncio.Future[None]] = set()
        """What has begun to stop comes to its end, whatever becomes of this."""

    @property
    def interfaces(self) -> tuple[str, ...]:
        """The bound interfaces."""
        return (*self._holders, *self._waiting)

    def attach(self, connection: Connection, bus_id: str) -> None:
        """The bus is there (again): from now on callers may come back, for a while."""
        self._connection, self._bus_id = connection, bus_id
        for interface in tuple(self._waiting):
            self._await_holder(interface)

    def find_again(self) -> None:
        """Look for callers under their unique names, if this is the bus that they were on."""
        for interface in tuple(self._waiting):
            match self._held_by.get(interface, "").split():
                case [_, bus_id, name] if bus_id == self._bus_id:
                    self._keep(self._find_again(interface, name))

    async def _find_again(self, interface: str, name: str) -> None:
        try:
            caller = await self.watch(name)
        except (BusError, ReplyError) as error:
            log.debug("%s: its caller was not found: %s", interface, error)
            return
        if interface in self._waiting:
            self.bind(interface, caller)
        self.unwatch(caller)

    def detach(self) -> None:
        """The bus is gone."""
        self._connection = None
        for caller in self._callers.values():
            caller.presence = Presence.UNKNOWN
        self._callers.clear()
        for interface in (*self._holders, *self._waiting):
            self._await_holder(interface)
        self._holders.clear()

    async def watch(self, name: str) -> Caller:
        """Watch a caller until `unwatch`. Raises BusError or ReplyError."""
        assert self._connection is not None
        caller = self._callers.setdefault(name, Caller(name))
        caller.uses += 1
        try:
            if caller.uses == 1:
                await self._connection.ask_driver("AddMatch", "s", [_match_rule(name)])
            # Asked after the match is there: whoever left before it would never be told.
            (here,) = await self._connection.ask_driver("NameHasOwner", "s", [name])
        except BaseException:
            self.unwatch(caller)
            raise
        if not here:
            self.caller_left(name)
        return caller

    def unwatch(self, caller: Caller) -> None:
        caller.uses -= 1
        if caller.uses == 0 and self._callers.get(caller.name) is caller:
            del self._callers[caller.name]
            if self._connection is not None:
                self._connection.post(_remove_match(caller.name))

    def bind(self, interface: str, caller: Caller) -> None:
        """`caller` holds the running interface from now on, whoever held it before."""
        self._let_go(interface)
        self._held_by[interface] = f"{_HOLDER} {self._bus_id} {caller.name}"
        self._remember(interface, self._held_by[interface])
        match caller.presence:
            case Presence.HERE:
                caller.uses += 1
                self._holders[interface] = caller
            case Presence.LEFT:
                self._stop_later(interface, "its caller has left the bus")
            case Presence.UNKNOWN:
                self._await_holder(interface)

    def release(self, interface: str) -> None:
        """Nobody holds the interface any more; it may go on."""
        self._let_go(interface)
        if self._held_by.pop(interface, None) is not None:
            self._remember(interface, "")

    def _let_go(self, interface: str) -> None:
        caller = self._holders.pop(interface, None)
        if caller is not None:
            self.unwatch(caller)
        timer = self._waiting.pop(interface, None)
        if timer is not None:
            timer.cancel()

    def rename(self, before: str, name: str) -> None:
        """The interface `before` is called `name` now; two may have swapped their names."""
        names_now = {before: name, name: before}
        self._held_by = {names_now.get(one, one): held for one, held in self._held_by.items()}
        self._holders = {names_now.get(one, one): held for one, held in self._holders.items()}
        waiting = {names_now.get(one, one): timer for one, timer in self._waiting.items()}
        for one in waiting.keys() & names_now:
            timer = waiting[one]
            if timer is not None:
                timer.cancel()
                loop = asyncio.get_running_loop()
                waiting[one] = loop.call_at(timer.when(), self._give_up, one)
        self._waiting = waiting

    def caller_left(self, name: str) -> None:
        """A unique name has left the bus."""
        caller = self._callers.pop(name, None)
        if caller is None:
            return
        caller.presence = Presence.LEFT
        if self._connection is not None:
            self._connection.post(_remove_match(name))
        for interface in [one for one, holder in self._holders.items() if holder is caller]:
            del self._holders[interface]
            self._stop_later(interface, "its caller has left the bus")

    def close(self) -> None:
        """Forget the timers; what runs goes on."""
        for interface in tuple(self._waiting):
            self._let_go(interface)
        for task in self._tasks:
            task.cancel()

    def _await_holder(self, interface: str) -> None:
        timer = self._waiting.pop(interface, None)
        if timer is not None:
            timer.cancel()
        self._waiting[interface] = (
            asyncio.get_running_loop().call_later(self._grace_s, self._give_up, interface)
            if self._connection is not None
            else None
        )

    def _give_up(self, interface: str) -> None:
        if self._waiting.pop(interface, None) is not None:
            self._stop_later(interface, "its caller has not come back")

    def _stop_later(self, interface: str, reason: str) -> None:
        self._keep(self._stop_now(interface, reason))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop_now(self, interface: str, reason: str) -> None:
        if self._holder_of and self._holder_of(interface) != self._held_by.get(interface, ""):
            return  # somebody holds it who did not come by this bus
        log.info("%s: stopping, %s", interface, reason)
        try:
            stop = asyncio.ensure_future(self._stop(interface))
            self._stops.add(stop)
            stop.add_done_callback(self._stops.discard)
            await asyncio.shield(stop)
        except NotRunningError:
            pass  # somebody else was faster
        except MimicError as exc:
            log.error("%s: could not be stopped, though %s: %s", interface, reason, exc)
        except Exception:
            log.exception("%s: could not be stopped, though %s", interface, reason)


def _match_rule(name: str) -> str:
    return (
        f"type='signal',sender='{names.DRIVER_NAME}',interface='{names.DRIVER}',"
        f"member='NameOwnerChanged',arg0='{name}'"
    )


def _remove_match(name: str) -> Message:
    return Message(
        destination=names.DRIVER_NAME,
        path=names.DRIVER_PATH,
        interface=names.DRIVER,
        member="RemoveMatch",
        signature="s",
        body=[_match_rule(name)],
    )
