# SPDX-License-Identifier: GPL-2.0-only
"""What is served: org.varlink.service, and core.manager.Manager as org.mimicd1."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from mimicd.core.connection import Connection, InterfaceView
from mimicd.core.errors import MimicError, NotAuthorizedError, NotRunningError
from mimicd.core.manager import Manager
from mimicd.varlink import names, values
from mimicd.varlink.server import Peer, Server
from mimicd.varlink.values import ParameterError, fault, read_parameters, service_fault
from mimicd.varlink.wire import Call, Reply

log = logging.getLogger(__name__)

REBIND_GRACE_S = 15.0
_EVENTS_AHEAD = 1000
_ONE_REPLY_BYTES = 16 << 20
_FOLDER = Path(__file__).parent

Replies = AsyncGenerator[Reply, None]
_NO_TYPES: Mapping[str, type] = {}
_HOLDER = "varlink"
_USE_MORE = "call it with more"


class VarlinkService:
    """Serves `manager` on one socket.

    `bound`: interfaces that a predecessor of this process left and that were bound to their
    callers, who have `grace_s` to bind them again.
    """

    def __init__(
        self, manager: Manager, bound: Iterable[str] = (), grace_s: float = REBIND_GRACE_S
    ) -> None:
        self._manager = manager
        self._server = Server(self._answer, self._left)
        self._changes: set[asyncio.Task[Any]] = set()
        loop = asyncio.get_running_loop()
        self._timers = [
            loop.call_later(grace_s, self._give_up, interface, manager.holder_of(interface))
            for interface in bound
        ]
        self._methods: dict[str, Callable[[Peer, Call], Replies]] = {
            f"{names.SERVICE}.GetInfo": self._get_info,
            f"{names.SERVICE}.GetInterfaceDescription": self._get_description,
            f"{names.INTERFACE}.Run": self._run,
            f"{names.INTERFACE}.Stop": self._stop,
            f"{names.INTERFACE}.Reload": self._reload,
            f"{names.INTERFACE}.SetLogLevel": self._set_log_level,
            f"{names.INTERFACE}.Check": self._check,
            f"{names.INTERFACE}.ListInterfaces": self._list_interfaces,
            f"{names.INTERFACE}.ListConnections": self._list_connections,
            f"{names.INTERFACE}.Describe": self._describe,
            f"{names.INTERFACE}.Monitor": self._monitor,
        }

    def open(self, path: Path, mode: int = 0o600, group: int | None = None) -> bool:
        """Listen there; False where another process does. Raises FailedError."""
        return self._server.open(path, mode, group)

    async def close(self) -> None:
        """Hang up on everybody; what runs goes on."""
        for timer in self._timers:
            timer.cancel()
        await self._server.close()

    async def _answer(self, peer: Peer, call: Call) -> Replies:
        method = self._methods.get(call.method)
        if method is None:
            interface, _, _ = call.method.rpartition(".")
            if interface in (names.SERVICE, names.INTERFACE):
                yield service_fault("MethodNotFound", "method", call.method)
            else:
                yield service_fault("InterfaceNotFound", "interface", interface)
            return
        try:
            async with aclosing(method(peer, call)) as replies:
                async for reply in replies:
                    yield reply
        except ParameterError as error:
            yield service_fault("InvalidParameter", "parameter", str(error))
        except MimicError as error:
            yield fault(error.error_name, error.message, error.hint)
        except OSError:
            raise
        except Exception:
            log.exception("%s failed", call.method)
            yield fault("Failed", f"{call.method} failed by a fault of mimicd; its log has more")

    # --- org.varlink.service ---

    async def _get_info(self, _peer: Peer, call: Call) -> Replies:
        read_parameters(call.parameters, _NO_TYPES, _NO_TYPES)
        yield Reply(
            {
                "vendor": "mimicd",
                "product": "mimicd",
                "version": self._manager.version,
                "url": "",
                "interfaces": [names.SERVICE, names.INTERFACE],
            }
        )

    async def _get_description(self, _peer: Peer, call: Call) -> Replies:
        given = read_parameters(call.parameters, {"interface": str}, _NO_TYPES)
        if given["interface"] not in (names.SERVICE, names.INTERFACE):
            yield service_fault("InterfaceNotFound", "interface", given["interface"])
            return
        path = _FOLDER / f"{given['interface']}.varlink"
        yield Reply({"description": path.read_text("utf-8")})

    # --- changes ---

    async def _run(self, peer: Peer, call: Call) -> Replies:
        yield await self._apply(peer, call, self._manager.run)

    async def _reload(self, peer: Peer, call: Call) -> Replies:
        yield await self._apply(peer, call, self._manager.reload)

    async def _apply(
        self, peer: Peer, call: Call, change: Callable[..., Coroutine[Any, Any, None]]
    ) -> Reply:
        _authorize(peer)
        needed = {"interface": str, "options": dict}
        given = read_parameters(call.parameters, needed, {"bind_to_caller": bool})
        interface, options = given["interface"], values.read_options(given["options"])

        async def work() -> None:
            await change(interface, options)
            if given.get("bind_to_caller"):
                self._bind(interface, peer)

        await self._to_the_end(work())
        return Reply()

    async def _stop(self, peer: Peer, call: Call) -> Replies:
        _authorize(peer)
        given = read_parameters(call.parameters, {"interface": str}, _NO_TYPES)
        await self._to_the_end(self._manager.stop(given["interface"]))
        yield Reply()

    async def _set_log_level(self, peer: Peer, call: Call) -> Replies:
        _authorize(peer)
        given = read_parameters(call.parameters, {"interface": str, "level": str}, _NO_TYPES)
        await self._to_the_end(self._manager.set_log_level(given["interface"], given["level"]))
        yield Reply()

    async def _check(self, peer: Peer, call: Call) -> Replies:
        _authorize(peer)
        needed = {"interface": str, "options": dict}
        given = read_parameters(call.parameters, needed, _NO_TYPES)
        options = values.read_options(given["options"])
        lines = await self._manager.check(given["interface"], options)
        yield Reply(
            {"lines": [{"check": o.check, "result": o.grade, "words": o.words} for o in lines]}
        )

    async def _to_the_end(self, work: Coroutine[Any, Any, None]) -> None:
        """What has begun to change goes on when the caller goes away."""
        await asyncio.shield(self._keep(work))

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changed)
        return task

    def _changed(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("a change failed: %s", error)

    # --- who holds what ---

    def _bind(self, interface: str, peer: Peer) -> None:
        holder = f"{_HOLDER} {peer.pid} {id(peer)}"
        self._manager.set_holder(interface, holder)
        if peer.ended.is_set():
            self._keep(self._stop_held(interface, holder))

    def _left(self, peer: Peer) -> None:
        holder = f"{_HOLDER} {peer.pid} {id(peer)}"
        for view in self._manager.interfaces():
            if self._manager.holder_of(view.name) == holder:
                self._keep(self._stop_held(view.name, holder))

    def _give_up(self, interface: str, holder: str) -> None:
        self._keep(self._stop_held(interface, holder))

    async def _stop_held(self, interface: str, holder: str) -> None:
        if not holder or self._manager.holder_of(interface) != holder:
            return
        log.info("%s: stopping, its caller has left", interface)
        try:
            await self._manager.stop(interface)
        except NotRunningError:
            pass  # somebody else was faster
        except MimicError as error:
            log.error("%s: could not be stopped, though its caller left: %s", interface, error)

    # --- looking ---

    async def _list_interfaces(self, _peer: Peer, call: Call) -> Replies:
        read_parameters(call.parameters, _NO_TYPES, _NO_TYPES)
        yield Reply({"interfaces": self._views()})

    async def _describe(self, _peer: Peer, call: Call) -> Replies:
        read_parameters(call.parameters, _NO_TYPES, _NO_TYPES)
        version = self._manager.version
        yield Reply({"version": version, "pid": os.getpid(), "interfaces": self._views()})

    def _views(self) -> list[dict[str, Any]]:
        return [values.plain_view(view) for view in self._manager.interfaces()]

    async def _list_connections(self, _peer: Peer, call: Call) -> Replies:
        given = read_parameters(call.parameters, _NO_TYPES, {"interface": str})
        listed: list[dict[str, Any]] = []
        size_bytes = 0
        async for portion in self._manager.connections(given.get("interface", "")):
            for at in range(0, len(portion), names.PORTION):
                part = [values.plain_connection(one) for one in portion[at : at + names.PORTION]]
                if call.more:
                    yield Reply({"connections": part}, continues=True)
                else:
                    listed += part
                    size_bytes += len(json.dumps(part))
                    if size_bytes > _ONE_REPLY_BYTES:
                        yield fault("ExpectedMore", "the list is too long for one reply", _USE_MORE)
                        return
                await asyncio.sleep(0)
        yield Reply({"connections": listed})

    async def _monitor(self, peer: Peer, call: Call) -> Replies:
        given = read_parameters(call.parameters, _NO_TYPES, {"interface": str})
        if not call.more:
            yield fault("ExpectedMore", "what happens comes in many replies", _USE_MORE)
            return
        events = _Events(given.get("interface", ""))
        unsubscribe = self._manager.subscribe(events)
        ended = asyncio.ensure_future(peer.ended.wait())
        try:
            yield _event("ready", "")
            while not ended.done():
                following = asyncio.ensure_future(events.next())
                await asyncio.wait((following, ended), return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    return
                yield following.result()
        finally:
            ended.cancel()
            unsubscribe()


class _Events:
    """A core.manager.Listener that keeps what it hears until somebody takes it."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._queue: asyncio.Queue[Callable[[], Reply]] = asyncio.Queue(_EVENTS_AHEAD)
        self._missed = 0

    async def next(self) -> Reply:
        """The next event."""
        if self._missed and self._queue.empty():
            missed, self._missed = self._missed, 0
            return _event("missed", "", level=missed)
        return (await self._queue.get())()

    def interface_added(self, view: InterfaceView) -> None:
        self._put(view.name, lambda: _event("interface_added", view.name))

    def interface_removed(self, name: str) -> None:
        self._put(name, lambda: _event("interface_removed", name))

    def interface_renamed(self, before: str, view: InterfaceView) -> None:
        self._put(before, lambda: _event("interface_renamed", before, text=view.name))
        if self._interface == before:
            self._interface = view.name

    def connection_changed(self, connection: Connection) -> None:
        self._put(
            connection.interface,
            lambda: _event(
                "connection",
                connection.interface,
                connection=values.plain_connection(connection),
            ),
        )

    def log(self, interface: str, level: int, text: str) -> None:
        self._put(interface, lambda: _event("log", interface, level=level, text=text))

    def _put(self, interface: str, make: Callable[[], Reply]) -> None:
        if self._interface not in ("", interface):
            return
        try:
            self._queue.put_nowait(make)
        except asyncio.QueueFull:
            self._missed += 1


def _event(kind: str, interface: str, **more: Any) -> Reply:
    return Reply({"event": {"kind": kind, "interface": interface, **more}}, continues=True)


def _authorize(peer: Peer) -> None:
    if peer.uid not in (0, os.geteuid()):
        raise NotAuthorizedError(
            f"changing anything needs root, the caller is user {peer.uid}", "use sudo"
        )
