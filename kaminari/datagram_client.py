# SPDX-License-Identifier: GPL-2.0-only
"""The client's end of UDP over TCP: one UDP port, and a stream for each source address."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from typing import Any

from kaminari.address import Address
from kaminari.connect import connect
from kaminari.datagram_session import (
    RECEIVES_A_TURN,
    DatagramSession,
    kernel_drops,
    receive_encoded,
    widen_buffers,
)
from kaminari.errors import KaminariError
from kaminari.options import Options
from kaminari.poller import Poller, Watch
from kaminari.relay import describe_failure
from kaminari.setup_stream import SetupStream
from kaminari.tls_context import EngineFactory
from kaminari.tunnel import open_tunnel, reset

logger = logging.getLogger("kaminari")

RETRY_AFTER_S = 1.0
"""A source whose stream failed does not get another one before this."""
NOTE_END_S = 0.1


class DatagramClient:
    def __init__(
        self,
        poller: Poller,
        options: Options,
        remote: Address,
        factory: EngineFactory | None,
        sockets: list[socket.socket],
    ) -> None:
        self._poller = poller
        self._loop = poller.loop
        self._watches = [Watch(poller, sock.fileno()) for sock in sockets]
        self._options = options
        self._remote = remote
        self._factory = factory
        self._sockets = sockets
        self._sessions: dict[tuple[int, Any], DatagramSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused = 0
        self._empty = 0

    def start(self) -> None:
        for watch, sock in zip(self._watches, self._sockets, strict=True):
            widen_buffers(sock)
            watch.read(functools.partial(self._on_readable, sock))
        if self._options.limits.idle_timeout_s:
            self._end_idle()

    async def stop(self) -> None:
        lost = sum(map(kernel_drops, self._sockets))
        for watch in self._watches:
            watch.stop()
        for session in list(self._sessions.values()):
            session.close("the tunnel stopped")
        if self._tasks:  # those that only have to note their end do so now
            await asyncio.wait(self._tasks, timeout=NOTE_END_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in self._sockets:
            sock.close()
        if lost or self._refused or self._empty:
            logger.info(
                "datagrams dropped: %d by the kernel, %d from sources beyond max-connections, "
                "%d empty",
                lost,
                self._refused,
                self._empty,
            )

    def _on_readable(self, sock: socket.socket) -> None:
        touched: dict[DatagramSession, None] = {}
        for _ in range(RECEIVES_A_TURN):
            try:
                received = receive_encoded(sock)
            except OSError:
                continue  # an ICMP error about something sent earlier
            if received is None:
                break
            encoded, source = received
            if len(encoded) == 2:
                self._empty += 1
                continue
            session = self._sessions.get((sock.fileno(), source)) or self._open(sock, source)
            if session is not None:
                session.enqueue(encoded)
                touched[session] = None
        for session in touched:
            session.flush()

    def _open(self, sock: socket.socket, source: Any) -> DatagramSession | None:
        if len(self._sessions) >= self._options.limits.max_connections:
            self._refused += 1
            return None

        def deliver(datagram: bytes) -> None:
            sock.sendto(datagram, source)

        session = DatagramSession(self._loop, deliver)
        key = (sock.fileno(), source)
        self._sessions[key] = session
        task = self._loop.create_task(self._serve(session, str(Address(*source[:2]))))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._left, key))
        return session

    def _left(self, key: tuple[int, Any], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._sessions.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a source's stream ended by a fault of the program", exc_info=error)

    async def _serve(self, session: DatagramSession, name: str) -> None:
        limits = self._options.limits
        try:
            sock = await connect(self._loop, self._remote, limits.connect_timeout_s)
            with contextlib.ExitStack() as undo:
                undo.callback(reset, sock)
                engine = self._factory.make_engine() if self._factory else None
                stream = SetupStream(self._poller, sock, engine)
                await open_tunnel(self._loop, stream, self._options, None)
                undo.pop_all()
        except (KaminariError, OSError) as error:
            reason = str(error) or f"no handshake in {limits.handshake_timeout_s:g} s"
            if isinstance(error, OSError) and error.errno:
                reason = describe_failure(error)
            logger.warning("source %s: %s", name, reason)
            await asyncio.sleep(RETRY_AFTER_S)
            return
        logger.debug("source %s: open%s", name, stream.describe())
        ws = self._options.ws
        channel, waiting = stream.into_channel(ws.mask if ws else False)
        session.open(channel, waiting)
        reason = await session.ended
        logger.log(
            logging.INFO if session.dropped else logging.DEBUG,
            "source %s: closed (%s); %d datagrams onward, %d back, %d dropped",
            name,
            reason,
            session.sent,
            session.received,
            session.dropped,
        )

    def _end_idle(self) -> None:
        idle_s = self._options.limits.idle_timeout_s
        latest_s = self._loop.time() - idle_s
        for session in list(self._sessions.values()):
            if session.last_traffic_s <= latest_s:
                session.close(f"idle for {idle_s:g} s")
        self._loop.call_later(min(1.0, idle_s / 4), self._end_idle)
