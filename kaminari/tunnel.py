# SPDX-License-Identifier: GPL-2.0-only
"""The tunnel from an accepted connection on: shake hands, connect onward, relay.

A client shakes hands with the far end, a server with the near one; apart from that both do the
same. Names are resolved for each connection. A server of UDP over TCP is one of streams that
are taken apart at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from kaminari.address import Address
from kaminari.channel import RESET_ON_CLOSE, Channel
from kaminari.connect import connect, tune
from kaminari.datagram_session import DatagramSession, kernel_drops, open_datagram_socket
from kaminari.errors import ConnectError, HandshakeFault, ProtocolFault
from kaminari.listen import Acceptor
from kaminari.options import Options, Role
from kaminari.poller import Poller, Watch
from kaminari.relay import Relay, describe_failure
from kaminari.setup_stream import SetupStream, new_client_handshake
from kaminari.tls_context import EngineFactory
from kaminari.tls_engine import TlsEngine

logger = logging.getLogger("kaminari")

EARLY_WAIT_S = 0.01
"""How long an application's first bytes may hold up a handshake that could carry them."""
EARLY_BYTES = 4096


class StreamTunnel:
    def __init__(
        self,
        poller: Poller,
        options: Options,
        remote: Address,
        factory: EngineFactory | None,
        sockets: list[socket.socket],
    ) -> None:
        self._poller = poller
        self._loop = loop = poller.loop
        self._options = options
        self._limits = options.limits
        self._remote = remote
        self._factory = factory
        self._acceptor = Acceptor(loop, sockets, self._accepted)
        self._tasks: set[asyncio.Task[None]] = set()
        self._relays: set[Relay] = set()
        self._sessions: set[DatagramSession] = set()
        self._serial = 0

    def start(self) -> None:
        self._acceptor.resume()
        if self._limits.idle_timeout_s:
            self._end_idle()

    async def stop(self) -> None:
        """Accept nothing more, let open connections go on for the drain time, reset the rest."""
        self._acceptor.close()
        for session in list(self._sessions):
            session.close("the tunnel stopped")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._limits.drain_timeout_s)
        for relay in list(self._relays):
            relay.abort("the tunnel stopped")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, sock: socket.socket) -> None:
        self._serial += 1
        task = self._loop.create_task(self._serve(sock, self._serial))
        self._tasks.add(task)
        task.add_done_callback(self._left)
        if len(self._tasks) >= self._limits.max_connections:
            self._acceptor.pause()

    def _left(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a connection ended by a fault of the program", exc_info=error)
        self._acceptor.resume()

    async def _serve(self, sock: socket.socket, serial: int) -> None:
        """One connection from its accept to its end; whatever goes wrong ends only it."""
        name = f"connection {serial} from {_peer_name(sock)}"
        serve = self._serve_client if self._options.role is Role.CLIENT else self._serve_server
        with contextlib.ExitStack() as undo:
            undo.callback(reset, sock)
            try:
                tune(sock)
                await serve(sock, name, undo)
            except ConnectError as error:
                logger.warning("%s: %s", name, error)
            except ProtocolFault as error:
                logger.info("%s: %s", name, error)
            except TimeoutError:
                logger.info("%s: no handshake in %g s", name, self._limits.handshake_timeout_s)
            except OSError as error:
                logger.info("%s: %s", name, describe_failure(error))

    async def _serve_client(
        self, near_sock: socket.socket, name: str, undo: contextlib.ExitStack
    ) -> None:
        sock = await connect(self._loop, self._remote, self._limits.connect_timeout_s)
        undo.callback(reset, sock)
        stream = SetupStream(self._poller, sock, self._make_engine())
        await open_tunnel(self._loop, stream, self._options, near_sock)
        ws = self._options.ws
        far, waiting = stream.into_channel(ws.mask if ws else False)
        near = Channel(self._poller, near_sock)
        undo.pop_all()
        await self._relay(near, far, far, waiting, name, stream)

    async def _serve_server(
        self, near_sock: socket.socket, name: str, undo: contextlib.ExitStack
    ) -> None:
        stream = SetupStream(self._poller, near_sock, self._make_engine())
        ws = self._options.ws
        remote = self._remote
        try:
            await accept_tunnel(stream, self._options)
        except HandshakeFault as fault:
            if not stream.received or ws is None:
                raise
            if ws.fallback is None:
                logger.info("%s: %s; answered %d", name, fault, fault.status)
                undo.pop_all()
                stream.refuse(fault)
                return
            logger.debug("%s: %s; passed to %s", name, fault, ws.fallback)
            remote, ws = ws.fallback, None
            stream.push_back(stream.received)
        if self._options.uot and remote is self._remote:
            await self._serve_datagrams(stream, ws is not None, name, undo)
            return
        try:
            sock = await connect(self._loop, remote, self._limits.connect_timeout_s)
        except ConnectError:
            if remote is self._remote:
                raise
            undo.pop_all()
            stream.refuse(HandshakeFault("", 502))
            raise
        near, waiting = stream.into_channel(ws is not None)
        far = Channel(self._poller, sock)
        undo.pop_all()
        await self._relay(near, far, near, waiting, name, stream)

    async def _serve_datagrams(
        self, stream: SetupStream, ws: bool, name: str, undo: contextlib.ExitStack
    ) -> None:
        sock = await open_datagram_socket(self._loop, self._remote)
        with sock:
            session = DatagramSession(self._loop, sock.send)
            near, waiting = stream.into_channel(ws)
            undo.pop_all()
            self._sessions.add(session)
            watch = Watch(self._poller, sock.fileno())
            watch.read(lambda: session.take_from(sock))
            logger.debug("%s: open%s", name, stream.describe())
            try:
                session.open(near, waiting)
                reason = await session.ended
            finally:
                watch.stop()
                session.close("the tunnel stopped")
                self._sessions.discard(session)
            dropped = session.dropped + kernel_drops(sock)
            logger.log(
                logging.INFO if dropped else logging.DEBUG,
                "%s: closed (%s); %d datagrams onward, %d back, %d dropped",
                name,
                reason,
                session.received,
                session.sent,
                dropped,
            )

    def _make_engine(self) -> TlsEngine | None:
        return self._factory.make_engine() if self._factory else None

    async def _relay(
        self,
        near: Channel,
        far: Channel,
        tunnel: Channel,
        waiting: memoryview,
        name: str,
        stream: SetupStream,
    ) -> None:
        """Join the two until both have ended. `waiting` came with the handshakes of `tunnel`."""
        relay = Relay(self._loop, near, far)
        began_s = self._loop.time()
        logger.debug("%s: open%s", name, stream.describe())
        self._relays.add(relay)
        try:
            relay.start(tunnel, waiting)
            reason = await relay.ended
        finally:
            relay.abort("the tunnel stopped")
            self._relays.discard(relay)
        logger.debug(
            "%s: closed (%s); %d bytes onward, %d bytes back, %.3f s",
            name,
            reason,
            near.payload_in,
            far.payload_in,
            self._loop.time() - began_s,
        )

    def _end_idle(self) -> None:
        """Look at every connection a few times within the idle timeout."""
        idle_s = self._limits.idle_timeout_s
        latest_s = self._loop.time() - idle_s
        for relay in [relay for relay in self._relays if relay.last_traffic_s <= latest_s]:
            relay.abort(f"idle for {idle_s:g} s")
        for session in [each for each in self._sessions if each.last_traffic_s <= latest_s]:
            session.close(f"idle for {idle_s:g} s")
        self._loop.call_later(min(1.0, idle_s / 4), self._end_idle)


async def open_tunnel(
    loop: asyncio.AbstractEventLoop,
    stream: SetupStream,
    options: Options,
    near_sock: socket.socket | None,
) -> None:
    """The client's handshakes; `near_sock` may have first bytes to send as early data.

    Raises TlsFault, HandshakeFault, OSError, TimeoutError.
    """
    handshake = new_client_handshake(options.ws) if options.ws else None
    async with asyncio.timeout(options.limits.handshake_timeout_s):
        if options.tls:
            early = b""
            if stream.early_limit_bytes and handshake:
                early = handshake.request
            elif stream.early_limit_bytes and near_sock is not None:
                early = await _read_early(loop, near_sock, stream.early_limit_bytes)
            await stream.start_tls(early)
            if handshake:
                await stream.request_websocket(handshake, sent=bool(early))
        elif handshake:
            await stream.request_websocket(handshake, sent=False)


async def accept_tunnel(stream: SetupStream, options: Options) -> None:
    """The server's handshakes. Raises like open_tunnel; a HandshakeFault has a status."""
    try:
        async with asyncio.timeout(options.limits.handshake_timeout_s):
            if options.tls:
                await stream.start_tls()
            if options.ws:
                await stream.accept_websocket(options.ws)
    except TimeoutError:
        if stream.received:
            raise HandshakeFault("the request did not end in time", 408) from None
        raise


async def _read_early(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, limit_bytes: int
) -> bytes:
    """What the application has sent by now, or sends within a moment; b"" if nothing."""
    readable: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(EARLY_WAIT_S, _settle, readable)
    loop.add_reader(sock.fileno(), _settle, readable)
    try:
        await readable
    finally:
        timer.cancel()
        loop.remove_reader(sock.fileno())
    try:
        return sock.recv(min(limit_bytes, EARLY_BYTES))
    except (BlockingIOError, InterruptedError):
        return b""


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _peer_name(sock: socket.socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return "a peer that left"
    return str(Address(host, port))


def reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.close()
