# SPDX-License-Identifier: GPL-2.0-only
"""One connection to a bus: calls out, calls and signals in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from dbus_next.constants import MessageFlag, MessageType
from dbus_next.errors import AuthError, InvalidAddressError
from dbus_next.message import Message

from mimicd.bus import names
from mimicd.bus.transport import Transport
from mimicd.core.errors import BusError

log = logging.getLogger(__name__)

_UNSENT_LIMIT = 2000
_CONNECT_TIMEOUT_S = 5.0
_ASK_TIMEOUT_S = 10.0


class ReplyError(Exception):
    """A call was answered by an error, or is to be: its full D-Bus error name and its text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class PackedMessage(Message):
    """A message whose bytes are made elsewhere, from its serial."""

    def __init__(self, pack: Callable[[int], bytes]) -> None:
        # The header fields are never sent, but the class asks for one of them.
        super().__init__(message_type=MessageType.METHOD_RETURN, reply_serial=1)
        self._pack = pack

    def _marshall(self, negotiate_unix_fd: bool = False) -> bytes:
        return self._pack(self.serial)


class Connection(Transport):
    """A connection that nobody on the bus can stall or end.

    Made by `open`; what arrives before `listen` is dropped.
    """

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._on_call: Callable[[Message, bool], None] = _drop
        self._on_signal: Callable[[Message], None] = _drop
        self.add_message_handler(self._handle)

    @classmethod
    async def open(cls, address: str) -> Connection:
        """Connect and authenticate. Raises BusError."""
        connection = None
        try:
            connection = cls(address)
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await connection.connect()
        except InvalidAddressError as exc:
            raise BusError(
                f"{address!r} is not a bus address: {exc}",
                "an address looks like unix:path=/run/dbus/system_bus_socket",
            ) from exc
        except BaseException as exc:
            if connection is not None:
                connection.close()
            if isinstance(exc, TimeoutError):
                reason = f"no answer within {_CONNECT_TIMEOUT_S:.0f} s"
            elif isinstance(exc, OSError | EOFError | AuthError | ValueError):
                reason = _reason(exc)
            else:
                raise
            raise BusError(
                f"the bus at {address} cannot be reached: {reason}",
                f"start it, or name another one with --address or {names.ADDRESS_VARIABLE}",
            ) from exc
        return connection

    def listen(
        self, on_call: Callable[[Message, bool], None], on_signal: Callable[[Message], None]
    ) -> None:
        """Hand every method call to `on_call` (with True when its body was too large and is left
        out) and every signal to `on_signal`, in the event loop; what they raise is logged."""
        self._on_call = on_call
        self._on_signal = on_signal

    async def wait_closed(self) -> str:
        """Wait until the bus goes away or `close`; says why in a few words."""
        # Not awaited itself: a waiter that is cancelled would take the future with it.
        await asyncio.wait((self._disconnect_future,))
        exc = self._disconnect_future.exception()
        return _reason(exc) if exc is not None else "closed"

    async def ask(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Iterable[Any] = (),
        timeout_s: float = _ASK_TIMEOUT_S,
    ) -> list[Any]:
        """Call a method; returns what it returns.

        Raises ReplyError for an error reply and BusError when there is no reply.
        """
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            serial=self.next_serial(),
        )
        if not self.connected:
            raise BusError(f"the bus at {self.address} is gone")
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self.call(message)
        except TimeoutError:
            raise BusError(f"{destination} did not answer within {timeout_s:.0f} s") from None
        except (OSError, EOFError) as exc:
            raise BusError(f"the bus at {self.address} is gone: {_reason(exc)}") from exc
        finally:
            self._method_return_handlers.pop(message.serial, None)
        if reply is None:
            raise BusError(f"the bus at {self.address} is gone")
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else ""
            raise ReplyError(str(reply.error_name), text)
        return list(reply.body)

    async def ask_driver(
        self, member: str, signature: str = "", body: Iterable[Any] = ()
    ) -> list[Any]:
        """Call a method of the bus itself. Raises as `ask` does."""
        return await self.ask(
            names.DRIVER_NAME, names.DRIVER_PATH, names.DRIVER, member, signature, body
        )

    def post(self, message: Message) -> bool:
        """Send without waiting. False: dropped, since the bus has not taken what went before."""
        if not self.connected or len(self._sending) >= _UNSENT_LIMIT:
            return False
        self.send(message)
        return True

    async def deliver(self, message: Message) -> None:
        """Send and wait until it has left; says nothing when the bus goes away meanwhile."""
        if self.connected:
            await asyncio.wait((self.send(message),))

    async def drain(self, timeout_s: float | None = None) -> None:
        """Wait until all that was sent so far has left, or the bus is gone."""
        if self._sending:
            await asyncio.wait(tuple(self._sending), timeout=timeout_s)

    def on_oversized(self, message: Message) -> None:
        if message.message_type is MessageType.METHOD_CALL:
            _guarded(self._on_call, message, True)

    def _handle(self, message: Message) -> bool:
        """dbus_next's hook for every message; True: it must not answer by itself."""
        if message.message_type is MessageType.METHOD_CALL:
            _guarded(self._on_call, message, False)
            return True
        if message.message_type is MessageType.SIGNAL:
            _guarded(self._on_signal, message)
            return True
        return False


def wants_reply(message: Message) -> bool:
    return not message.flags & MessageFlag.NO_REPLY_EXPECTED


def _drop(*_arguments: object) -> None:
    pass


def _guarded(handler: Callable[..., None], *arguments: Any) -> None:
    try:
        handler(*arguments)
    except Exception:
        log.exception("a bus message could not be handled")


def _reason(exc: BaseException) -> str:
    if isinstance(exc, BlockingIOError):
        return "it does not answer"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__
