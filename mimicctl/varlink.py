# SPDX-License-Identifier: GPL-2.0-only
"""mimicd asked over varlink, where there is no bus: the same questions as `client.Client` has.

Calls take turns on one connection; what happens comes on a second one. Every failure becomes a
MimicError.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from mimicctl.client import CALL_TIMEOUT_S, Event, lost_events
from mimicd.core.errors import (
    BusError,
    FailedError,
    MimicError,
    NotAuthorizedError,
    error_from_name,
)
from mimicd.varlink import names, values
from mimicd.varlink.wire import Call, MessageBuffer, Reply, WireError, decode_reply

_CONNECT_TIMEOUT_S = 5.0
_READ_BYTES = 256 * 1024
_EVENTS_LIMIT = 10_000


class VarlinkClient:
    """One daemon at one socket. Made by `open`; `close` it in the end."""

    def __init__(self, path: str, wire: _Wire) -> None:
        self._path = path
        self._wire = wire
        self._turn = asyncio.Lock()
        self._events: asyncio.Queue[Event] = asyncio.Queue(_EVENTS_LIMIT)
        self._following: asyncio.Task[None] | None = None
        self.missed = 0
        """Events dropped because nobody took them in time."""

    @classmethod
    async def open(cls, path: str) -> VarlinkClient:
        """Raises BusError where nobody listens, NotAuthorizedError where this user may not."""
        return cls(path, await _Wire.open(path))

    def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
        self._wire.close()

    async def run(self, interface: str, texts: Mapping[str, Any], bind: bool) -> None:
        await self._change("Run", interface, texts, bind)

    async def reload(self, interface: str, texts: Mapping[str, Any], bind: bool = False) -> None:
        await self._change("Reload", interface, texts, bind)

    async def _change(
        self, method: str, interface: str, texts: Mapping[str, Any], bind: bool
    ) -> None:
        options = values.write_options(texts)
        await self._call(method, interface=interface, options=options, bind_to_caller=bind)

    async def stop(self, interface: str, timeout_s: float | None = None) -> None:
        await self._call("Stop", timeout_s or CALL_TIMEOUT_S, interface=interface)

    async def check(self, interface: str, texts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """(check, "ok", "warn" or "fail", words) of each matter."""
        options = values.write_options(texts)
        lines = (await self._call("Check", interface=interface, options=options))["lines"]
        return [(str(one["check"]), str(one["result"]), str(one["words"])) for one in lines]

    async def set_log_level(self, interface: str, level: str) -> None:
        await self._call("SetLogLevel", interface=interface, level=level)

    async def interfaces(self) -> list[dict[str, Any]]:
        """The running interfaces by name, with the keys of Describe."""
        listed = (await self._call("ListInterfaces"))["interfaces"]
        return sorted(map(values.kebab, listed), key=lambda view: str(view["name"]))

    async def describe(self) -> dict[str, Any]:
        """Everything: version, pid, interfaces, connections."""
        described = await self._call("Describe")
        connections: list[dict[str, Any]] = []
        call = Call(f"{names.INTERFACE}.ListConnections", {}, more=True)
        async with self._turn:
            async for reply in _replies(self._wire, call):
                connections += map(values.kebab, reply.parameters["connections"])
        return {
            "version": described["version"],
            "pid": described["pid"],
            "interfaces": [values.kebab(view) for view in described["interfaces"]],
            "connections": connections,
        }

    async def follow(self, interface: str) -> None:
        """From now on events come: of one interface, of all of them for ""."""
        if self._following is not None:
            return  # an interface that is renamed is followed by the daemon
        wire = await _Wire.open(self._path)
        parameters = {"interface": interface} if interface else {}
        replies = _replies(wire, Call(f"{names.INTERFACE}.Monitor", parameters, more=True))
        # The first one says that from now on nothing is missed.
        await anext(replies)
        self._following = asyncio.get_running_loop().create_task(self._follow(wire, replies))

    async def _follow(self, wire: _Wire, replies: AsyncIterator[Reply]) -> None:
        try:
            async for reply in replies:
                self._put(_event(reply.parameters["event"]))
        except (MimicError, KeyError):
            pass  # it hung up, which is told in any case
        finally:
            wire.close()
        self._put(Event("daemon-left"))
        self._put(Event("bus-left"))

    def _put(self, event: Event) -> None:
        if event.kind == "missed":
            self.missed += event.level
            return
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            self.missed += 1

    async def next_event(self) -> Event:
        """The next event; how many were dropped is told as a line of the log."""
        if self.missed:
            count, self.missed = self.missed, 0
            return lost_events(count)
        return await self._events.get()

    async def daemon_is_there(self) -> bool:
        """Whether mimicd still listens."""
        return self._wire.connected

    async def ping(self) -> None:
        """Raises BusError."""
        await self._call("Describe")

    async def _call(
        self, method: str, timeout_s: float = CALL_TIMEOUT_S, **parameters: Any
    ) -> Mapping[str, Any]:
        call = Call(f"{names.INTERFACE}.{method}", parameters)
        try:
            async with self._turn, asyncio.timeout(timeout_s):
                async for reply in _replies(self._wire, call):
                    return reply.parameters
        except TimeoutError:
            # What it still says would be taken for the answer to the next call.
            self._wire.close()
            raise BusError(f"mimicd did not answer within {timeout_s:.0f} s") from None
        raise FailedError(f"mimicd did not answer {method}")


class _Wire:
    """One connection."""

    def __init__(
        self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.path = path
        self._reader = reader
        self._writer = writer
        self._buffer = MessageBuffer(names.REPLY_LIMIT_BYTES)
        self._waiting: list[bytes] = []

    @classmethod
    async def open(cls, path: str) -> _Wire:
        """Raises BusError or NotAuthorizedError."""
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(path)
        except TimeoutError:
            reason = f"no answer within {_CONNECT_TIMEOUT_S:.0f} s"
        except PermissionError:
            raise NotAuthorizedError(
                f"this user may not open the varlink socket {path}", "use sudo"
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return cls(path, reader, writer)
        raise BusError(f"the varlink socket {path} cannot be reached: {reason}", "start mimicd")

    @property
    def connected(self) -> bool:
        return not self._writer.is_closing() and not self._reader.at_eof()

    def close(self) -> None:
        self._writer.close()

    async def send(self, call: Call) -> None:
        """Raises OSError."""
        self._writer.write(call.encode())
        await self._writer.drain()

    async def receive(self) -> Reply:
        """Raises BusError, OSError or WireError."""
        while not self._waiting:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                raise BusError("mimicd hung up before it answered", "see its log")
            self._waiting += self._buffer.feed(data)
        return decode_reply(self._waiting.pop(0))


async def _replies(wire: _Wire, call: Call) -> AsyncIterator[Reply]:
    """All replies to a call. Raises MimicError."""
    try:
        await wire.send(call)
        while True:
            reply = await wire.receive()
            if reply.error:
                raise _translated(reply)
            yield reply
            if not reply.continues:
                return
    except (OSError, WireError) as error:
        raise BusError(f"mimicd at {wire.path} is gone: {error}") from error


def _event(plain: Mapping[str, Any]) -> Event:
    return Event(
        str(plain["kind"]).replace("_", "-"),
        str(plain["interface"]),
        level=plain.get("level") or 0,
        text=plain.get("text") or "",
        connection=values.kebab(plain.get("connection") or {}),
    )


def _translated(reply: Reply) -> MimicError:
    """The error that an error reply stands for."""
    interface, _, name = reply.error.rpartition(".")
    if interface == names.INTERFACE:
        message, hint = (str(reply.parameters.get(key, "")) for key in ("message", "hint"))
        return error_from_name(name, message, hint)
    words = ", ".join(str(value) for value in reply.parameters.values())
    return FailedError(f"this mimicd cannot do that: {name} {words}", "it may be an older version")
