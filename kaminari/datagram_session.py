# SPDX-License-Identifier: GPL-2.0-only
"""One stream that carries the datagrams of one source address, at either end.

Datagrams wait for the stream in a bounded queue that drops its oldest; what the stream brings
goes to UDP at once, or is dropped. Both are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from kaminari.address import Address
from kaminari.channel import Channel
from kaminari.connect import resolve
from kaminari.errors import ConnectError, ProtocolFault
from kaminari.relay import describe_failure
from kaminari.uot import DatagramQueue, DatagramReader

QUEUE_BYTES = 1 << 18
BATCH_BYTES = 1 << 16
UNSENT_BYTES = 1 << 17
"""How much the kernel may hold beyond what the path takes; more would only be late."""
UDP_BUFFER_BYTES = 1 << 22
RECEIVES_A_TURN = 64
_SO_MEMINFO, _MEMINFO_DROPS = 55, 8  # linux/sock_diag.h

_datagram = memoryview(bytearray(2 + 65535))


class DatagramSession:
    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[bytes], object]) -> None:
        """`deliver` sends one datagram by UDP and raises OSError if that fails."""
        self._loop = loop
        self._deliver = deliver
        self._channel: Channel | None = None
        self._reader = DatagramReader()
        self._queue = DatagramQueue(QUEUE_BYTES)
        self.ended: asyncio.Future[str] = loop.create_future()
        self.last_traffic_s = loop.time()
        self.sent = 0
        """Datagrams into the stream."""
        self.received = 0
        """Datagrams out of the stream."""
        self._undelivered = 0
        self._empty = 0

    @property
    def dropped(self) -> int:
        return self._queue.dropped + self._undelivered + self._reader.empty + self._empty

    def open(self, channel: Channel, waiting: memoryview) -> None:
        """The stream is there; send what waits. `waiting` came with its handshakes."""
        with contextlib.suppress(OSError):
            channel.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self._channel = channel
        channel.on_writable(self.flush, self._fail)
        try:
            self._deliver_all(self._reader.feed(channel.decode_waiting(waiting)))
        except ProtocolFault as fault:
            self._fail(fault)
            return
        if channel.ended:
            self.close("the peer closed")
            return
        channel.watch(self._on_readable)
        self.flush()

    def enqueue(self, encoded: bytes) -> None:
        """Take a datagram for the stream; flush sends it."""
        self._queue.append(encoded)
        self.last_traffic_s = self._loop.time()

    def take_from(self, sock: socket.socket) -> None:
        """Read what waits at a connected UDP socket, and send it on."""
        for _ in range(RECEIVES_A_TURN):
            try:
                received = receive_encoded(sock)
            except OSError:
                continue  # an ICMP error: nobody listens there now, but somebody may later
            if received is None:
                break
            if len(received[0]) == 2:
                self._empty += 1
            else:
                self.enqueue(received[0])
        self.flush()

    def flush(self) -> None:
        channel = self._channel
        if channel is None or self.ended.done():
            return
        try:
            while len(self._queue) and not channel.blocked:
                batch = self._queue.take(BATCH_BYTES)
                self.sent += len(batch)
                channel.write(batch)
        except (OSError, ProtocolFault) as error:
            self._fail(error)

    def close(self, reason: str) -> None:
        if self.ended.done():
            return
        if self._channel is not None:
            with contextlib.suppress(OSError, ProtocolFault):
                self._channel.end()
            self._channel.finish()
        self.ended.set_result(reason)

    def _on_readable(self) -> None:
        channel = self._channel
        assert channel is not None
        try:
            payload = channel.receive()
            if payload:
                self.last_traffic_s = self._loop.time()
                self._deliver_all(self._reader.feed(payload))
        except (OSError, ProtocolFault) as error:
            self._fail(error)
            return
        if channel.ended:
            self.close("the peer closed")

    def _deliver_all(self, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            try:
                self._deliver(datagram)
                self.received += 1
            except OSError:
                self._undelivered += 1

    def _fail(self, error: Exception) -> None:
        if self.ended.done():
            return
        if self._channel is not None:
            if isinstance(error, ProtocolFault):
                self._channel.say_farewell(error)
            else:
                self._channel.abort()
        self.ended.set_result(describe_failure(error))


async def open_datagram_socket(loop: asyncio.AbstractEventLoop, address: Address) -> socket.socket:
    """A UDP socket connected to the first usable address of a host. Raises ConnectError."""
    failure = "it has no address"
    for family, kind, protocol, _, sockaddr in await resolve(loop, address, socket.SOCK_DGRAM):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            failure = describe_failure(error)
            continue
        try:
            sock.setblocking(False)
            sock.connect(sockaddr)
        except OSError as error:
            failure = describe_failure(error)
            sock.close()
            continue
        widen_buffers(sock)
        return sock
    raise ConnectError(f"{address} cannot be reached by UDP: {failure}")


def widen_buffers(sock: socket.socket) -> None:
    """Let bursts wait in the kernel, as far as net.core.rmem_max allows."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, UDP_BUFFER_BYTES)


def receive_encoded(sock: socket.socket) -> tuple[bytes, object] | None:
    """One datagram, encoded for the stream, and its source; None when no more wait.

    Raises OSError, as when an ICMP error came back.
    """
    try:
        count, source = sock.recvfrom_into(_datagram[2:])
    except (BlockingIOError, InterruptedError):
        return None
    _datagram[0:2] = count.to_bytes(2, "big")
    return bytes(_datagram[: count + 2]), source


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams the kernel dropped because they came faster than they were read."""
    try:
        words = memoryview(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)).cast("I")
        return int(words[_MEMINFO_DROPS])
    except (OSError, IndexError):
        return 0
