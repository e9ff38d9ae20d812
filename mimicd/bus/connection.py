# SPDX-License-Identifier: GPL-2.0-only
"""One connection to a bus on which anybody may send anything.

dbus_next trusts whoever it talks to. Where that would let a local user stop the daemon, its
inner steps are replaced here, and only here:

- it connects with a blocking socket, and loops for ever when the bus hangs up during
  authentication;
- one message that it cannot read ends the connection, and so does a bus that is too slow to take
  what is sent;
- a long message or a flood of small ones holds the event loop for as long as it lasts;
- every type signature it ever saw stays in memory.
"""

from __future__ import annotations

import asyncio
import io
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.errors import AuthError, InvalidAddressError
from dbus_next.message import Message
from dbus_next.signature import SignatureTree

from mimicd.bus import names
from mimicd.bus.frames import Frame, FrameBuffer
from mimicd.core.errors import BusError

log = logging.getLogger(__name__)

MESSAGE_LIMIT_BYTES = 256 * 1024
"""Largest message that is read: several thousand filters. A larger call is refused."""

_INLINE_BYTES = 8 * 1024
"""What is decoded in the event loop. The worst 8 KiB take about 10 ms."""

_TURN_S = 0.005
_TURN_MESSAGES = 16
"""How long, and how many, messages may keep the event loop before others get a turn.

Each message may start a task, and all tasks started in a turn run before the next one."""

_READ_BYTES = 64 * 1024
_SIGNATURES_LIMIT = 256
_UNSENT_LIMIT = 2000
_CONNECT_TIMEOUT_S = 5.0
_TCP_CONNECT_TIMEOUT_S = 1.0
ASK_TIMEOUT_S = 10.0


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


class Connection(MessageBus):
    """A connection that nobody on the bus can stall or end.

    Made by `open`; what arrives before `listen` is dropped.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._on_call: Callable[[Message, bool], None] = _drop
        self._on_signal: Callable[[Message], None] = _drop
        self._frames = FrameBuffer(MESSAGE_LIMIT_BYTES)
        self._decoding = False
        self._turn_pending = False
        self._sending: set[asyncio.Future[Any]] = set()
        super().__init__(bus_address=address)
        self._writer: Any = _Writer(self)
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
        timeout_s: float = ASK_TIMEOUT_S,
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

    def close(self) -> None:
        """Leave at once; safe to call twice and in any state."""
        if not self._disconnected:
            self._user_disconnect = True
            self._finalize(None)
        for resource in (self._stream, self._sock):
            try:
                resource.close()
            except OSError:
                log.debug("closing the bus connection failed", exc_info=True)

    async def drain(self, timeout_s: float | None = None) -> None:
        """Wait until all that was sent so far has left, or the bus is gone."""
        if self._sending:
            await asyncio.wait(tuple(self._sending), timeout=timeout_s)

    def send(self, msg: Message) -> asyncio.Future[Any]:  # type: ignore[override]
        """As the library's, but its outcome need not be looked at."""
        future: asyncio.Future[Any] = super().send(msg)
        self._sending.add(future)
        future.add_done_callback(self._sent)
        return future

    def _sent(self, future: asyncio.Future[Any]) -> None:
        self._sending.discard(future)
        if not future.cancelled():
            future.exception()  # the loss of the bus is told by wait_closed

    def _handle(self, message: Message) -> bool:
        """dbus_next's hook for every message; True: it must not answer by itself."""
        if message.message_type is MessageType.METHOD_CALL:
            self._guarded(self._on_call, message, False)
            return True
        if message.message_type is MessageType.SIGNAL:
            self._guarded(self._on_signal, message)
            return True
        return False

    def _guarded(self, handler: Callable[..., None], *arguments: Any) -> None:
        try:
            handler(*arguments)
        except Exception:
            log.exception("a bus message could not be handled")

    # What follows replaces inner steps of dbus_next.

    def _setup_socket(self) -> None:
        """Connect to the first address that answers, without waiting for one that does not."""
        failure: Exception = InvalidAddressError("no unix: or tcp: address in it")
        for transport, options in self._bus_address:
            target: str | tuple[str, int]
            if transport == "unix" and "path" in options:
                family, target = socket.AF_UNIX, options["path"]
            elif transport == "unix" and "abstract" in options:
                family, target = socket.AF_UNIX, f"\0{options['abstract']}"
            elif transport == "tcp" and "host" in options and options.get("port", "").isdigit():
                family, target = socket.AF_INET, (options["host"], int(options["port"]))
            else:
                continue
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                # The full queue of a bus that hangs answers EAGAIN at once instead of blocking.
                sock.settimeout(0 if family == socket.AF_UNIX else _TCP_CONNECT_TIMEOUT_S)
                sock.connect(target)
                sock.setblocking(False)
            except OSError as exc:
                sock.close()
                failure = exc
                continue
            self._sock = sock
            self._stream = sock.makefile("rwb")
            self._fd = sock.fileno()
            return
        raise failure

    async def _auth_readline(self) -> str:
        line = b""
        while not line.endswith(b"\r\n"):
            data = await self._loop.sock_recv(self._sock, 1)
            if not data:
                raise EOFError("the bus hung up during authentication")
            line += data
        return line[:-2].decode(errors="replace")

    def _message_reader(self) -> None:
        if self._disconnected or self._decoding or self._turn_pending:
            return
        end = self._loop.time() + _TURN_S
        left = _TURN_MESSAGES
        try:
            while True:
                frame = self._frames.next_frame()
                if frame is None:
                    if not self._receive():
                        return
                elif len(frame.data) > _INLINE_BYTES:
                    self._decode_elsewhere(frame)
                    return
                else:
                    self._take(_decode(frame), frame.oversized)
                    left -= 1
                    if not left or self._loop.time() >= end:
                        self._continue_later()
                        return
        except Exception as exc:  # the connection is lost, whatever it was
            self._finalize(exc)

    def _receive(self) -> bool:
        """False: nothing has arrived."""
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            raise EOFError("the bus hung up")
        self._frames.feed(data)
        return True

    def _take(self, message: Message | None, oversized: bool) -> None:
        if len(SignatureTree._cache) > _SIGNATURES_LIMIT:
            SignatureTree._cache.clear()
        if message is None or self._disconnected:
            return
        if not oversized:
            self._on_message(message)  # type: ignore[no-untyped-call]
        elif message.message_type is MessageType.METHOD_CALL:
            self._guarded(self._on_call, message, True)

    def _continue_later(self) -> None:
        if not self._turn_pending:
            self._turn_pending = True
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn_pending = False
        self._message_reader()

    def _decode_elsewhere(self, frame: Frame) -> None:
        """Decode on a thread; the messages behind it wait, so their order stays."""
        self._decoding = True
        self._loop.remove_reader(self._fd)
        future = self._loop.run_in_executor(None, _decode, frame)
        future.add_done_callback(lambda done: self._decoded(done, frame.oversized))

    def _decoded(self, future: asyncio.Future[Message | None], oversized: bool) -> None:
        self._decoding = False
        if self._disconnected or future.cancelled():
            return
        self._take(future.result(), oversized)
        if not self._disconnected:
            self._loop.add_reader(self._fd, self._message_reader)
            self._continue_later()

    def _finalize(self, err: Exception | None = None) -> None:
        super()._finalize(err)  # type: ignore[no-untyped-call]
        for future in tuple(self._sending):
            future.cancel()
        if self._disconnect_future.done():
            self._disconnect_future.exception()  # nobody has to wait for it


class _Writer:
    """Sends messages one after the other as fast as the bus takes them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: deque[tuple[memoryview, asyncio.Future[Any] | None]] = deque()

    def schedule_write(
        self, msg: Message | None = None, future: asyncio.Future[Any] | None = None
    ) -> None:
        """The library's hook: send `msg`; without one, authentication is over."""
        if msg is not None:
            data = msg._marshall()  # type: ignore[no-untyped-call]
            self._waiting.append((memoryview(data), future))
        # The Hello, which brings the name, is written by `connect` itself.
        connection: Any = self._connection
        if connection.unique_name is not None and self._waiting:
            connection._loop.add_writer(connection._fd, self._write)

    def _write(self) -> None:
        sock, loop = self._connection._sock, self._connection._loop
        end = loop.time() + _TURN_S
        try:
            while self._waiting and loop.time() < end:
                data, future = self._waiting[0]
                sent = sock.send(data)
                if sent < len(data):
                    self._waiting[0] = (data[sent:], future)
                    continue
                self._waiting.popleft()
                if future is not None and not future.done():
                    future.set_result(None)
        except BlockingIOError:
            return  # called again when the bus has read some
        except OSError as exc:
            self._connection._finalize(exc)
            return
        if not self._waiting:
            loop.remove_writer(self._connection._fd)


def _drop(*_arguments: object) -> None:
    pass


def _decode(frame: Frame) -> Message | None:
    """None for a message that the library does not know; it harms nobody else."""
    try:
        unmarshaller = Unmarshaller(io.BytesIO(frame.data))  # type: ignore[no-untyped-call]
        message: Message | None = unmarshaller.unmarshall()  # type: ignore[no-untyped-call]
    except Exception as exc:  # any of a dozen kinds, all of them the sender's fault
        log.debug("a message on the bus is not understood: %s", exc)
        return None
    return message


def wants_reply(message: Message) -> bool:
    return not message.flags & MessageFlag.NO_REPLY_EXPECTED


def _reason(exc: BaseException) -> str:
    if isinstance(exc, BlockingIOError):
        return "it does not answer"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__
