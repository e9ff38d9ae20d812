# SPDX-License-Identifier: GPL-2.0-only
"""The client's side of the bus: calls and signals of mimicd as plain Python values.

The only module of the client that knows the D-Bus library. Every failure becomes a MimicError.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.errors import AuthError, InvalidAddressError
from dbus_next.message import Message
from dbus_next.signature import Variant

from mimicd.bus import names
from mimicd.core.errors import (
    BusError,
    FailedError,
    MimicError,
    NotAuthorizedError,
    error_from_name,
)

CALL_TIMEOUT_S = 30.0
"""How long mimicd may take to answer; attaching takes 2 s at most."""

INTERACTIVE_TIMEOUT_S = 200.0
"""The same while a person may be asked for a password."""

_CONNECT_TIMEOUT_S = 5.0
_EVENTS_LIMIT = 10_000

_START_HINT = "start it with: systemctl start mimicd (or mimicd in a terminal)"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: "log", "connection", "interface-added", "interface-removed",
    "interface-renamed" (`text` is the new name), "daemon-left", "daemon-back" or "bus-left"."""

    kind: str
    interface: str = ""
    level: int = 0
    text: str = ""
    connection: dict[str, Any] = field(default_factory=dict)


def lost_events(count: int) -> Event:
    """Told in the place of events that came faster than they were taken."""
    return Event("log", level=1, text=f"{count} events are lost, they came too fast")


class Client:
    """One connection to the bus. Made by `open`; `close` it in the end."""

    def __init__(
        self, bus: _Bus, address: str, interactive: bool, bus_name: str = names.BUS_NAME
    ) -> None:
        self._bus = bus
        self._name = bus_name
        self._address = address
        self._interactive = interactive
        self._owner = ""
        """Unique name of mimicd: only its signals count, anybody can send some."""
        self._events: asyncio.Queue[Event] = asyncio.Queue(_EVENTS_LIMIT)
        self.missed = 0
        """Events dropped because nobody took them in time."""
        bus.add_message_handler(self._on_message)
        self._watch = asyncio.get_running_loop().create_task(self._watch_bus())

    @classmethod
    async def open(
        cls, address: str, interactive: bool = False, bus_name: str = names.BUS_NAME
    ) -> Client:
        """Connect to the bus. `interactive`: a person is there to be asked for a password.

        Raises BusError.
        """
        reason = "no address given"
        for one in address.split(";"):
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    return cls(await _connect(one), address, interactive, bus_name)
            except InvalidAddressError as exc:
                reason = f"{exc}"
            except TimeoutError:
                reason = f"no answer within {_CONNECT_TIMEOUT_S:.0f} s"
            except BlockingIOError:
                reason = "it does not answer"
            except OSError as exc:
                reason = exc.strerror or str(exc)
            except (AuthError, EOFError, ValueError) as exc:
                reason = str(exc) or "it hung up"
        raise BusError(
            f"the bus at {address} cannot be reached: {reason}",
            f"start it, or name another one with --address or {names.ADDRESS_VARIABLE}",
        )

    def close(self) -> None:
        self._watch.cancel()
        self._bus.hang_up()

    async def run(self, interface: str, texts: Mapping[str, Any], bind: bool) -> None:
        await self._manage("Run", "sa{sv}", [interface, _options(texts, bind)])

    async def reload(self, interface: str, texts: Mapping[str, Any], bind: bool = False) -> None:
        await self._manage("Reload", "sa{sv}", [interface, _options(texts, bind)])

    async def stop(self, interface: str, timeout_s: float | None = None) -> None:
        await self._manage("Stop", "s", [interface], timeout_s)

    async def check(self, interface: str, texts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """(check, "ok", "warn" or "fail", words) of each matter."""
        signature, body = "sa{sv}", [interface, _options(texts, bind=False)]
        (lines,) = await self._manage("Check", signature, body)
        return [(str(check), str(grade), str(words)) for check, grade, words in lines]

    async def set_log_level(self, interface: str, level: str) -> None:
        await self._manage("SetLogLevel", "ss", [interface, level])

    async def interfaces(self) -> list[dict[str, Any]]:
        """The running interfaces by name, with the keys of Describe."""
        (objects,) = await self._call(names.OBJECT_MANAGER, "GetManagedObjects")
        views = [_view(one[names.INTERFACE]) for one in objects.values() if names.INTERFACE in one]
        return sorted(views, key=lambda view: str(view["name"]))

    async def describe(self) -> dict[str, Any]:
        """Everything: version, pid, interfaces, connections."""
        described = await self._describe_part(0, 1)
        parts = described["parts"]
        if parts > 1:
            for number in range(parts):
                part = await self._describe_part(number, parts)
                described["connections"] += part["connections"]
        return described

    async def _describe_part(self, number: int, parts: int) -> dict[str, Any]:
        (text,) = await self._call(names.MANAGER, "DescribePart", "uu", [number, parts])
        described = json.loads(text)
        if not isinstance(described, dict) or "parts" not in described:
            raise FailedError("mimicd described itself in a way this mimicctl does not know")
        return described

    async def follow(self, interface: str) -> None:
        """From now on events come: of one interface, of all of them for ""."""
        quoted = interface.replace("'", r"'\''")
        by_interface = f",arg0='{quoted}'" if interface else ""
        own = f"type='signal',sender='{self._name}',interface='{names.MANAGER}'{by_interface}"
        owner = (
            f"type='signal',sender='{names.DRIVER_NAME}',interface='{names.DRIVER}',"
            f"member='NameOwnerChanged',arg0='{self._name}'"
        )
        for rule in (own, owner):
            await self._ask_driver("AddMatch", "s", [rule])
        # Asked after the match is there, so that no change is missed.
        if await self.daemon_is_there():
            (self._owner,) = await self._ask_driver("GetNameOwner", "s", [self._name])

    async def next_event(self) -> Event:
        """The next event; how many were dropped is told as a line of the log."""
        if self.missed:
            count, self.missed = self.missed, 0
            return lost_events(count)
        return await self._events.get()

    async def daemon_is_there(self) -> bool:
        """Whether mimicd is on the bus now; does not start it."""
        (here,) = await self._ask_driver("NameHasOwner", "s", [self._name])
        return bool(here)

    async def ping(self) -> None:
        """Reach mimicd, which starts it where the bus can. Raises BusError."""
        await self._call(names.PEER, "Ping")

    async def _manage(
        self, member: str, signature: str, body: list[Any], timeout_s: float | None = None
    ) -> list[Any]:
        flags = (
            MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if self._interactive else MessageFlag.NONE
        )
        if timeout_s is None:
            timeout_s = INTERACTIVE_TIMEOUT_S if self._interactive else CALL_TIMEOUT_S
        return await self._call(names.MANAGER, member, signature, body, timeout_s, flags)

    async def _call(
        self,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        flags: MessageFlag = MessageFlag.NONE,
    ) -> list[Any]:
        message = Message(
            destination=self._name,
            path=names.ROOT_PATH,
            interface=interface,
            member=member,
            signature=signature,
            body=body or [],
            flags=flags,
        )
        return await self._exchange(message, "mimicd", timeout_s)

    async def _ask_driver(self, member: str, signature: str, body: list[Any]) -> list[Any]:
        message = Message(
            destination=names.DRIVER_NAME,
            path=names.DRIVER_PATH,
            interface=names.DRIVER,
            member=member,
            signature=signature,
            body=body,
        )
        return await self._exchange(message, f"the bus at {self._address}", CALL_TIMEOUT_S)

    async def _exchange(self, message: Message, whom: str, timeout_s: float) -> list[Any]:
        try:
            if not self._bus.connected:
                raise EOFError
            async with asyncio.timeout(timeout_s):
                reply = await self._bus.call(message)
        except TimeoutError:
            raise BusError(f"{whom} did not answer within {timeout_s:.0f} s") from None
        except (OSError, EOFError):
            raise BusError(f"the bus at {self._address} is gone") from None
        if reply is None:
            raise BusError(f"the bus at {self._address} is gone")
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else ""
            raise _translated(str(reply.error_name), text, self._address)
        return [_plain(value) for value in reply.body]

    def _on_message(self, message: Message) -> bool:
        if message.message_type is not MessageType.SIGNAL:
            return False
        body = [_plain(value) for value in message.body]
        if message.sender == names.DRIVER_NAME:
            if message.member == "NameOwnerChanged" and body[0] == self._name:
                self._owner = body[2]
                self._put(Event("daemon-back" if self._owner else "daemon-left"))
        elif message.sender == self._owner:
            event = _event(message.member, message.signature, body)
            if event is not None:
                self._put(event)
        return True

    async def _watch_bus(self) -> None:
        await asyncio.wait((self._bus.closed,))
        self._put(Event("bus-left"))

    def _put(self, event: Event) -> None:
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            self.missed += 1


class _Bus(MessageBus):
    """The library's connection, without its endless loop when the bus hangs up too early, and
    without the socket that it leaves open when there is no bus."""

    _stream: Any = None
    _sock: Any = None

    @property
    def closed(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._disconnect_future
        return future

    def hang_up(self) -> None:
        if self.closed.done():
            self.closed.exception()  # nobody else has to look at it
        else:
            self._user_disconnect = True
            self._finalize(None)  # type: ignore[no-untyped-call]
        self._close_socket()

    def _close_socket(self) -> None:
        for resource in (self._stream, self._sock):
            try:
                if resource is not None:
                    resource.close()
            except OSError:
                continue  # the bus is gone already

    def send(self, msg: Message) -> asyncio.Future[Any]:  # type: ignore[override]
        future: asyncio.Future[Any] = super().send(msg)
        future.add_done_callback(_look_at)
        return future

    def _setup_socket(self) -> None:
        # Its socket blocks while it connects, and would wait for ever on a bus that hangs.
        usual_s = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_CONNECT_TIMEOUT_S)
        try:
            super()._setup_socket()  # type: ignore[no-untyped-call]
        except BaseException:
            self._close_socket()
            raise
        finally:
            socket.setdefaulttimeout(usual_s)

    async def _auth_readline(self) -> str:
        line = b""
        while not line.endswith(b"\r\n"):
            data = await self._loop.sock_recv(self._sock, 1)
            if not data:
                raise EOFError("it hung up during authentication")
            line += data
        return line[:-2].decode(errors="replace")


def _look_at(future: asyncio.Future[Any]) -> None:
    """The loss of the bus is told by `closed`; here it needs no second word."""
    if not future.cancelled():
        future.exception()


async def _connect(address: str) -> _Bus:
    bus = _Bus(bus_address=address)
    try:
        await bus.connect()
    except BaseException:
        bus.hang_up()
        raise
    return bus


def _options(texts: Mapping[str, Any], bind: bool) -> dict[str, Variant]:
    options = {
        key: Variant("s" if isinstance(text, str) else "as", text) for key, text in texts.items()
    }
    if bind:
        options[names.OPTION_BIND_TO_CALLER] = Variant("b", True)
    return options


def _view(properties: Mapping[str, Any]) -> dict[str, Any]:
    """LinkType -> link-type, as everywhere else."""
    return {
        re.sub(r"(?<=.)([A-Z])", r"-\1", name).lower(): value for name, value in properties.items()
    }


def _event(member: str, signature: str, body: list[Any]) -> Event | None:
    """What a signal of mimicd says, None for one of a kind that is not known here."""
    match member, signature:
        case "Log", "sus":
            return Event("log", body[0], level=body[1], text=body[2])
        case "ConnectionChanged", "sa{sv}":
            return Event("connection", body[0], connection=body[1])
        case "InterfaceAdded", "so":
            return Event("interface-added", body[0])
        case "InterfaceRemoved", "so":
            return Event("interface-removed", body[0])
        case "InterfaceRenamed", "sso":
            return Event("interface-renamed", body[0], text=body[1])
    return None


def _plain(value: Any) -> Any:
    match value:
        case Variant():
            return _plain(value.value)
        case dict():
            return {key: _plain(one) for key, one in value.items()}
        case list():
            return [_plain(one) for one in value]
        case _:
            return value


def _translated(name: str, text: str, address: str) -> MimicError:
    """The error that an error reply stands for."""
    if name.startswith(names.ERROR_PREFIX):
        message, line_break, hint = text.rpartition("\n")
        tail = name.removeprefix(names.ERROR_PREFIX)
        return error_from_name(tail, message, hint) if line_break else error_from_name(tail, text)
    if name in (names.SERVICE_UNKNOWN, names.NAME_HAS_NO_OWNER):
        return BusError(f"mimicd is not on the bus at {address}", _START_HINT)
    if name == names.NO_REPLY:
        return BusError("mimicd left the bus before it answered", "see its log")
    if name.startswith((names.SPAWN_ERROR_PREFIX, names.TIMED_OUT)):
        return BusError(f"mimicd could not be started by the bus: {text}", "see its log")
    if name == names.ACCESS_DENIED:
        return NotAuthorizedError(f"the bus does not let this user ask mimicd: {text}", "use sudo")
    if name in (names.UNKNOWN_METHOD, names.UNKNOWN_INTERFACE, names.NOT_SUPPORTED):
        return FailedError(f"this mimicd cannot do that: {text}", "it may be an older version")
    return FailedError(text or f"mimicd answered {name}")
