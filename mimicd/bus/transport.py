# SPDX-License-Identifier: GPL-2.0-only
"""dbus_next's connection, fit for a bus on which anybody may send anything.

The library trusts whoever it talks to. Where that would let a local user stop the daemon, its
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
from typing import Any

from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.aio.message_bus import MessageBus
from dbus_next.errors import InvalidAddressError
from dbus_next.message import Message
from dbus_next.signature import SignatureTree

from mimicd.bus.frames import Frame, FrameBuffer

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
_TCP_CONNECT_TIMEOUT_S = 1.0


class Transport(MessageBus):
    """Reads and writes messages; a subclass says what is done with them."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._frames = FrameBuffer(MESSAGE_LIMIT_BYTES)
        self._decoding = False
        self._turn_pending = False
        self._sending: set[asyncio.Future[Any]] = set()
        super().__init__(bus_address=address)
        self._writer: Any = _Writer(self)

    def on_oversized(self, message: Message) -> None:
        """A message larger than MESSAGE_LIMIT_BYTES came; its body is left out."""
        raise NotImplementedError

    def send(self, msg: Message) -> asyncio.Future[Any]:  # type: ignore[override]
        """As the library's, but its outcome need not be looked at."""
        future: asyncio.Future[Any] = super().send(msg)
        self._sending.add(future)
        future.add_done_callback(self._sent)
        return future

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

    def _sent(self, future: asyncio.Future[Any]) -> None:
        self._sending.discard(future)
        if not future.cancelled():
            future.exception()  # the loss of the bus is told once, not for each message

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
            while left and self._loop.time() < end:
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
        except Exception as exc:  # the connection is lost, whatever it was
            self._finalize(exc)
        else:
            self._continue_later()

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
        if oversized:
            self.on_oversized(message)
        else:
            self._on_message(message)  # type: ignore[no-untyped-call]

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

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting: deque[tuple[memoryview, asyncio.Future[Any] | None]] = deque()

    def schedule_write(
        self, msg: Message | None = None, future: asyncio.Future[Any] | None = None
    ) -> None:
        """The library's hook: send `msg`; without one, authentication is over."""
        if msg is not None:
            data = msg._marshall()  # type: ignore[no-untyped-call]
            self._waiting.append((memoryview(data), future))
        # The Hello, which brings the name, is written by `connect` itself.
        transport: Any = self._transport
        if transport.unique_name is not None and self._waiting:
            transport._loop.add_writer(transport._fd, self._write)

    def _write(self) -> None:
        sock, loop = self._transport._sock, self._transport._loop
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
            self._transport._finalize(exc)
            return
        if not self._waiting:
            loop.remove_writer(self._transport._fd)


def _decode(frame: Frame) -> Message | None:
    """None for a message that the library does not know; it harms nobody else."""
    try:
        unmarshaller = Unmarshaller(io.BytesIO(frame.data))  # type: ignore[no-untyped-call]
        message: Message | None = unmarshaller.unmarshall()  # type: ignore[no-untyped-call]
    except Exception as exc:  # any of a dozen kinds, all of them the sender's fault
        log.debug("a message on the bus is not understood: %s", exc)
        return None
    return message
