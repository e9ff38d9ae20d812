# SPDX-License-Identifier: GPL-2.0-only
"""A non-blocking socket with the codec over it, and what is queued because the socket is full.

The queue stays bounded because whoever writes stops reading its source while write returns
False; what the codec itself has to answer waits inside the codec meanwhile.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable

from kaminari.codec import Codec, PlainCodec
from kaminari.errors import ProtocolFault
from kaminari.mask import Buffer
from kaminari.pipes import POOL, Pipe
from kaminari.poller import Poller, Watch

RECEIVE_BYTES = 1 << 17
LINGER_S = 2.0
MAX_SEGMENTS = 512  # below IOV_MAX, 1024

# Bytes just received; like every view a codec returns, used up before the next read.
_arrived = memoryview(bytearray(RECEIVE_BYTES))
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: close() sends a reset."""


class Piped:
    """Bytes of the queue that lie in a pipe."""

    __slots__ = ("length_bytes", "pipe")

    def __init__(self, pipe: Pipe, length_bytes: int) -> None:
        self.pipe = pipe
        self.length_bytes = length_bytes


class Channel:
    __slots__ = (
        "_drained",
        "_ending",
        "_failed",
        "_poller",
        "_queue",
        "_watch",
        "closed",
        "codec",
        "fd",
        "payload_in",
        "payload_out",
        "sock",
        "wire_ended",
    )

    def __init__(self, poller: Poller, sock: socket.socket, codec: Codec | None = None) -> None:
        self._poller = poller
        self.sock = sock
        self.fd = sock.fileno()
        self.codec: Codec = codec if codec is not None else PlainCodec()
        self._queue: deque[Buffer | Piped] = deque()
        self._watch = Watch(poller, self.fd)
        self._drained: Callable[[], None] = _nothing
        self._failed: Callable[[Exception], None] = _ignore
        self._ending = False
        self.wire_ended = False
        """The peer's FIN came."""
        self.closed = False
        self.payload_in = 0
        self.payload_out = 0

    @property
    def blocked(self) -> bool:
        return bool(self._queue)

    @property
    def ended(self) -> bool:
        """No payload will come any more."""
        return self.codec.ended

    def on_writable(self, drained: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """Set what to call when the queue has emptied, or could not be sent."""
        self._drained = drained
        self._failed = failed

    def watch(self, on_readable: Callable[[], None] | None) -> None:
        """Call `on_readable` whenever bytes (or the end) wait; None stops that."""
        if not self.closed:
            self._watch.read(on_readable)

    def receive(self, limit_bytes: int = RECEIVE_BYTES) -> list[Buffer]:
        """Read once; payload, valid until any channel reads again. Raises OSError, ProtocolFault.

        An empty list means that nothing, or nothing but the end (see `ended`), came.
        """
        try:
            count = self.sock.recv_into(_arrived, min(limit_bytes, RECEIVE_BYTES))
        except (BlockingIOError, InterruptedError):
            return []
        if not count:
            self.note_wire_end()
            return []
        return self.decode(_arrived[:count])

    def decode(self, data: memoryview) -> list[Buffer]:
        payload = self.codec.decode(data)
        for piece in payload:
            self.payload_in += len(piece)
        if not self._queue:
            self._send(self.codec.take_replies())
        return payload

    def decode_waiting(self, data: memoryview) -> list[Buffer]:
        """Payload out of bytes that came with a handshake. Raises ProtocolFault."""
        payload = self.codec.decode_inner(data)
        self.payload_in += sum(map(len, payload))
        return payload

    def note_wire_end(self) -> None:
        self.wire_ended = True
        self.codec.decode_end()

    def write(self, payload: list[Buffer]) -> bool:
        """Send payload; False when it had to be queued and the writer has to wait."""
        for piece in payload:
            self.payload_out += len(piece)
        return self._send(self.codec.encode(payload))

    def write_piped(self, pipe: Pipe, length_bytes: int) -> bool:
        """Send payload that lies in a borrowed pipe, which goes back to the pool."""
        self.payload_out += length_bytes
        header = self.codec.encode_raw_header(length_bytes)
        queue = self._queue
        if header and queue:
            queue.append(header)
            header = b""
        # Queued first of all: from here on close gives the pipe back, whatever goes wrong.
        queue.append(Piped(pipe, length_bytes))
        if header:
            sent = 0
            with contextlib.suppress(BlockingIOError, InterruptedError):
                # MSG_MORE: the header leaves in one segment with the payload behind it
                sent = self.sock.send(header, socket.MSG_MORE)
            if sent < len(header):
                queue.appendleft(header[sent:])
        return self._flush()

    def end(self) -> None:
        """Half-close: nothing will be written after what is queued."""
        wire = self.codec.encode_end()
        self._ending = self.codec.ends_wire
        self._send(wire)

    def finish(self) -> None:
        """Both directions have ended: send what is left, and close when the peer has, too.

        Closing at once while bytes of the peer are unread would send a reset, which may overtake
        and destroy the last bytes sent.
        """
        if self.closed:
            return
        self._drained = _nothing
        self._failed = self._give_up
        try:
            self._ending = True
            self._send(self.codec.encode_wire_end())
            if self.wire_ended and not self._queue:
                self.close()
                return
        except OSError:
            self.abort()
            return
        self.watch(self._discard)
        self._poller.loop.call_later(LINGER_S, self.close)

    def say_farewell(self, fault: ProtocolFault) -> None:
        """The peer broke the protocol: tell it, and close without passing anything on."""
        if self.closed:
            return
        with contextlib.suppress(OSError, ProtocolFault):
            if not self._queue:
                self._send(self.codec.encode_farewell(fault))
        self.finish()

    def abort(self) -> None:
        """Close with a reset."""
        if not self.closed:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self._watch.stop()
        self.closed = True
        for entry in self._queue:
            if isinstance(entry, Piped):
                POOL.discard(entry.pipe)
        self._queue.clear()
        self._drained, self._failed = _nothing, _ignore
        self.sock.close()

    def _send(self, wire: list[Buffer]) -> bool:
        queue = self._queue
        if queue:
            queue.extend(bytes(piece) for piece in wire if piece)
            return False
        sent = 0
        count = len(wire)
        if count:
            try:
                if count == 1:
                    sent = self.sock.send(wire[0]) if wire[0] else 0
                else:
                    sent = self.sock.sendmsg(wire[:MAX_SEGMENTS])
            except (BlockingIOError, InterruptedError):
                pass
            for piece in wire:
                length = len(piece)
                if sent >= length:
                    sent -= length
                    continue
                queue.append(bytes(piece[sent:] if sent else piece))
                sent = 0
        return self._flush()

    def _flush(self) -> bool:
        queue = self._queue
        try:
            while queue:
                first = queue[0]
                if isinstance(first, Piped):
                    first.length_bytes -= POOL.drain(first.pipe, self.fd, first.length_bytes)
                    if not first.length_bytes:
                        POOL.give_back(first.pipe)
                        queue.popleft()
                    continue
                sent = self.sock.send(first)
                if sent == len(first):
                    queue.popleft()
                else:
                    queue[0] = memoryview(first)[sent:]
        except (BlockingIOError, InterruptedError):
            if self._watch.on_writable is None:
                self._watch.write(self._writable)
            return False
        if self._watch.on_writable is not None:
            self._watch.write(None)
        if self._ending:
            self._ending = False
            self.sock.shutdown(socket.SHUT_WR)
        return True

    def _writable(self) -> None:
        try:
            if self._flush() and not self.closed:
                replies = self.codec.take_replies()
                if not replies or self._send(replies):
                    self._drained()
        except (OSError, ProtocolFault) as error:
            self._failed(error)

    def _discard(self) -> None:
        try:
            count = self.sock.recv_into(_arrived)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if not count:
            self.wire_ended = True
            if self._queue:
                self.watch(None)
                self._drained = self.close
            else:
                self.close()

    def _give_up(self, error: Exception) -> None:
        self.abort()


def _nothing() -> None:
    pass


def _ignore(error: Exception) -> None:
    pass
