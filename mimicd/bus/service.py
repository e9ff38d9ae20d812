# SPDX-License-Identifier: GPL-2.0-only
"""One stay on the bus: from the name org.mimicd1 until the bus goes away.

`open_service` connects, subscribes to the manager and takes the name; the methods of
org.mimicd1.Manager are here, each no more than: decode, call the manager, encode.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from dbus_next.constants import NameFlag, RequestNameReply
from dbus_next.message import Message

from mimicd.bus import names
from mimicd.bus.authorize import Authorizer
from mimicd.bus.bindings import Bindings, Caller
from mimicd.bus.connection import Connection, ReplyError
from mimicd.bus.dispatch import Dispatcher
from mimicd.bus.encode import ConnectionList, LongText, clean_text
from mimicd.bus.objects import Call, Handler, Objects, PackedBody
from mimicd.bus.signals import Signals
from mimicd.bus.values import decode_options, plain_view
from mimicd.core.connection import Connection as FlowConnection
from mimicd.core.errors import BusError
from mimicd.core.manager import Manager, Options
from mimicd.core.part import WHOLE, Part, parts_for

log = logging.getLogger(__name__)

T = TypeVar("T")
Change = Callable[[str, Options], Coroutine[Any, Any, None]]

_FLUSH_TIMEOUT_S = 0.5
_LISTS = 64
"""Asked for at once; the other calls that may be in progress are left for changes."""

_SLICE = 200
"""Connections encoded before the event loop gets a turn: about 5 ms."""

BODY_LIMIT_BYTES = 31 << 20
"""Largest list. The system bus ends the connection of whoever sends a message beyond 32 MiB."""


class BusService:
    """The daemon on one bus. Made by `open`; `close` leaves the bus and nothing else."""

    def __init__(
        self, manager: Manager, address: str, bindings: Bindings, bus_name: str = names.BUS_NAME
    ) -> None:
        self._bus_name = bus_name
        self._manager = manager
        self._address = address
        self._bindings = bindings
        self._changes: set[asyncio.Task[Any]] = set()
        self._lists = 0
        self._listing = asyncio.Lock()
        self._listing_for: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @classmethod
    async def open(
        cls, manager: Manager, address: str, bindings: Bindings, bus_name: str = names.BUS_NAME
    ) -> BusService:
        """Connect and take the name. Raises BusError, and then nothing is left connected."""
        service = cls(manager, address, bindings, bus_name)
        await service._open()
        return service

    async def _open(self) -> None:
        self._tree = Objects(self._manager)
        connection = self._connection = await Connection.open(self._address)
        authorizer = Authorizer(connection)
        self._dispatcher = Dispatcher(
            connection, self._tree, {**self._tree.handlers, **self._handlers()}, authorizer.check
        )
        # Subscribed first, so that nothing that happens meanwhile is missed.
        signals = Signals(
            connection, self._manager.interfaces(), self._bindings.release, self._bindings.rename
        )
        self._unsubscribe = self._manager.subscribe(signals)
        try:
            (bus_id,) = await connection.ask_driver("GetId")
            self._bindings.attach(connection, str(bus_id))
            connection.listen(self._dispatcher.on_call, self._on_signal)
            await self._take_name()
            self._bindings.find_again()
        except BaseException:
            self._leave()
            raise

    async def wait_closed(self) -> str:
        """Wait until the bus goes away; says why in a few words. What ran goes on."""
        return await self._connection.wait_closed()

    async def close(self) -> None:
        """Leave the bus; what was answered already is sent first, if the bus takes it."""
        try:
            await self._connection.drain(_FLUSH_TIMEOUT_S)
        finally:
            self._leave()

    def _leave(self) -> None:
        self._unsubscribe()
        self._dispatcher.close()
        self._bindings.detach()
        self._connection.close()

    async def _take_name(self) -> None:
        where = f"the name {self._bus_name} on the bus at {self._address}"
        try:
            (answer,) = await self._connection.ask_driver(
                "RequestName", "su", [self._bus_name, NameFlag.DO_NOT_QUEUE.value]
            )
        except ReplyError as exc:
            if exc.name != names.ACCESS_DENIED:
                raise BusError(f"{where} was refused: {exc}") from exc
            raise BusError(
                f"{where} was refused by the policy of the bus",
                f"without a policy file nobody, root included, may own a name there: put"
                f" {names.BUS_NAME}.conf into /usr/share/dbus-1/system.d (make install does)"
                " and run mimicd as root",
            ) from exc
        if RequestNameReply(answer) is not RequestNameReply.PRIMARY_OWNER:
            raise BusError(
                f"{where} is taken, another mimicd is running there",
                "stop that one first, or give this one another bus with --address",
            )

    def _on_signal(self, message: Message) -> None:
        # The bus fills in the sender, so nobody else can tell us who has left.
        if message.sender == names.DRIVER_NAME and message.member == "NameOwnerChanged":
            name, _old_owner, new_owner = message.body
            if not new_owner:
                self._bindings.caller_left(name)

    def _handlers(self) -> dict[tuple[str, str], Handler]:
        return {
            (names.MANAGER, "Run"): self._run,
            (names.MANAGER, "Stop"): self._stop,
            (names.MANAGER, "Reload"): self._reload,
            (names.MANAGER, "SetLogLevel"): self._set_log_level,
            (names.MANAGER, "Check"): self._check,
            (names.MANAGER, "ListConnections"): self._list_connections,
            (names.MANAGER, "ListInterfaces"): self._list_interfaces,
            (names.MANAGER, "Describe"): self._describe,
            (names.MANAGER, "DescribePart"): self._describe_part,
        }

    async def _run(self, call: Call) -> list[Any]:
        interface, options = call.body
        texts, bind = decode_options(options)
        await self._change(call, bind, self._manager.run, interface, texts)
        return [names.interface_path(interface)]

    async def _reload(self, call: Call) -> list[Any]:
        interface, options = call.body
        texts, bind = decode_options(options)
        await self._change(call, bind, self._manager.reload, interface, texts)
        return []

    async def _stop(self, call: Call) -> list[Any]:
        (interface,) = call.body
        await self._to_the_end(self._manager.stop(interface))
        return []

    async def _set_log_level(self, call: Call) -> list[Any]:
        interface, level = call.body
        await self._to_the_end(self._manager.set_log_level(interface, level))
        return []

    async def _check(self, call: Call) -> list[Any]:
        interface, options = call.body
        texts, _ = decode_options(options)
        lines = await self._manager.check(interface, texts)
        return [[[line.check, line.grade, clean_text(line.words)] for line in lines]]

    async def _list_connections(self, call: Call) -> PackedBody:
        (interface,) = call.body
        async with self._turn(call.sender):
            listed = ConnectionList()
            async for portion in self._manager.connections(interface):
                for part in _slices(portion):
                    listed.add(part)
                    _check_size(listed)
                    await asyncio.sleep(0)
            return PackedBody(listed.body())

    async def _list_interfaces(self, call: Call) -> list[Any]:
        return [self._tree.paths()]

    async def _describe(self, call: Call) -> PackedBody:
        async with self._turn(call.sender):
            return await self._description({}, WHOLE)

    async def _describe_part(self, call: Call) -> PackedBody:
        number, parts = call.body
        if number >= parts:
            raise ReplyError(names.INVALID_ARGS, f"of {parts} parts there is no number {number}")
        async with self._turn(call.sender):
            needed = parts_for(self._manager.count_connections())
            if parts == 1 and needed > 1:
                return await self._description({"parts": needed}, None)
            return await self._description({"parts": parts}, Part(number, parts))

    async def _description(self, more: dict[str, int], part: Part | None) -> PackedBody:
        facts = {
            "version": self._manager.version,
            "pid": os.getpid(),
            "interfaces": [plain_view(view) for view in self._manager.interfaces()],
            **more,
        }
        text = LongText()
        text.add(json.dumps(facts)[:-1])
        before = ', "connections": ['
        if part is not None:
            async for portion in self._manager.connections("", part):
                for few in _slices(portion):
                    text.add(before + ", ".join(json.dumps(one.as_plain()) for one in few))
                    before = ", "
                    _check_size(text)
                    await asyncio.sleep(0)
        text.add("]}" if before == ", " else before + "]}")
        return PackedBody(text.body())

    @contextlib.asynccontextmanager
    async def _turn(self, sender: str) -> AsyncIterator[None]:
        """One list at a time: ten thousand connections are megabytes until the bus takes them.

        Whoever asks many times waits for his own lists, others only for one of them.
        """
        if self._lists >= _LISTS:
            raise ReplyError(names.LIMITS_EXCEEDED, f"{_LISTS} lists are asked for already")
        self._lists += 1
        try:
            own = self._listing_for.setdefault(sender, asyncio.Lock())
            async with own, self._listing:
                await self._connection.drain()
                yield
        finally:
            self._lists -= 1

    async def _change(
        self, call: Call, bind: bool, work: Change, interface: str, texts: Options
    ) -> None:
        caller = await self._bindings.watch(call.sender) if bind else None
        await self._to_the_end(self._bound(caller, work(interface, texts), interface))

    async def _bound(
        self, caller: Caller | None, work: Coroutine[Any, Any, None], interface: str
    ) -> None:
        try:
            await work
            if caller is not None:
                self._bindings.bind(interface, caller)
        finally:
            if caller is not None:
                self._bindings.unwatch(caller)

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """What has begun to change goes on when the caller or the bus goes away."""
        task = asyncio.get_running_loop().create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changed)
        return await asyncio.shield(task)

    def _changed(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            # Told to the caller too, if there still is one.
            log.debug("a change failed: %s", exc)


def _check_size(body: ConnectionList | LongText) -> None:
    if len(body) > BODY_LIMIT_BYTES:
        raise ReplyError(
            names.LIMITS_EXCEEDED,
            f"the connections do not fit into one message of {BODY_LIMIT_BYTES >> 20} MiB;"
            " DescribePart gives them in parts",
        )


def _slices(connections: Sequence[FlowConnection]) -> list[Sequence[FlowConnection]]:
    return [connections[at : at + _SLICE] for at in range(0, len(connections), _SLICE)]
