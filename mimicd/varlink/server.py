# SPDX-License-Identifier: GPL-2.0-only
"""The socket: who connects, what they call, one call of each after the other.

Nobody can make the daemon wait or keep much of its memory: calls are bounded in size, callers in
number, and who does not take his replies is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from mimicd.claims import Claim, claim
from mimicd.core.errors import FailedError
from mimicd.varlink import names
from mimicd.varlink.wire import Call, MessageBuffer, Reply, WireError, decode_call

log = logging.getLogger(__name__)

PEERS = 64
PEERS_OF_ONE_USER = 32
"""Root may have all of them."""
_CALLS_AHEAD = 8
_READ_BYTES = 64 * 1024
_SEND_TIMEOUT_S = 30.0
_FLUSH_TIMEOUT_S = 0.5
_BACKLOG = 16
_SUN_PATH_BYTES = 107
_UCRED = struct.Struct("=iII")  # pid uid gid, unix(7)


class Peer:
    """One who is connected."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._buffer = MessageBuffer(names.MESSAGE_LIMIT_BYTES)
        self._calls: asyncio.Queue[Call | None] = asyncio.Queue(_CALLS_AHEAD)
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self.pid, self.uid, _ = _UCRED.unpack(raw)
        self.answers = False
        """Whether there is a call in progress that ends by itself."""
        self.ended = asyncio.Event()
        """Set once nothing more comes: he has left, or has said all that he will."""

    async def calls(self) -> AsyncGenerator[Call, None]:
        """What he calls, until he leaves."""
        reading = self._loop.create_task(self._read())
        try:
            while (call := await self._calls.get()) is not None:
                yield call
        finally:
            reading.cancel()

    async def _read(self) -> None:
        try:
            while data := await self._loop.sock_recv(self._socket, _READ_BYTES):
                for raw in self._buffer.feed(data):
                    await self._calls.put(decode_call(raw))
        except (OSError, WireError) as error:
            log.debug("process %s, user %s, is left: %s", self.pid, self.uid, error)
        self.ended.set()
        await self._calls.put(None)

    async def send(self, reply: Reply) -> None:
        """Raises OSError, TimeoutError among them."""
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await self._loop.sock_sendall(self._socket, reply.encode())

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


Answer = Callable[[Peer, Call], AsyncGenerator[Reply, None]]
"""The replies to one call."""


class Server:
    """Listens at one path from `open` until `close`."""

    def __init__(self, answer: Answer, on_left: Callable[[Peer], None]) -> None:
        self._answer = answer
        self._on_left = on_left
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[asyncio.Task[None], Peer] = {}
        self._users: Counter[int] = Counter()
        self._answered = asyncio.Event()
        self._claim: Claim | None = None
        self._listening: socket.socket | None = None
        self._path = Path()

    def open(self, path: Path, mode: int, group: int | None) -> bool:
        """Listen there; False where another process does. Raises FailedError."""
        try:
            if len(os.fsencode(path)) > _SUN_PATH_BYTES:
                raise OSError(0, "the path is too long for a socket")
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._claim = claim(path.parent, path.name)
            if self._claim is None:
                return False
            self._listening, self._path = _listen(path, mode, group), path
        except OSError as error:
            if self._claim is not None:
                self._claim.release()
                self._claim = None
            raise FailedError(
                f"cannot listen at {path}: {error.strerror}", "mimicctl asks over the bus alone"
            ) from error
        self._loop.add_reader(self._listening, self._accept)
        return True

    async def close(self) -> None:
        """Hang up on everybody; who is just being answered has half a second to be told."""
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None
            self._path.unlink(missing_ok=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                while any(peer.answers for peer in self._tasks.values()):
                    self._answered.clear()
                    await self._answered.wait()
        for task in self._tasks:
            task.cancel()
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            connection, _ = self._listening.accept()
        except OSError:
            return
        connection.setblocking(False)
        peer = Peer(connection)
        limit = PEERS if peer.uid == 0 else PEERS_OF_ONE_USER
        if len(self._tasks) >= PEERS or self._users[peer.uid] >= limit:
            log.debug("user %s has too many connections", peer.uid)
            peer.close()
            return
        self._users[peer.uid] += 1
        task = self._loop.create_task(self._serve(peer))
        self._tasks[task] = peer
        task.add_done_callback(self._served)

    async def _serve(self, peer: Peer) -> None:
        try:
            async with aclosing(peer.calls()) as calls:
                async for call in calls:
                    peer.answers = not call.more
                    async with aclosing(self._answer(peer, call)) as replies:
                        async for reply in replies:
                            if not call.oneway:
                                await peer.send(reply)
                    peer.answers = False
                    self._answered.set()
        except OSError as error:
            log.debug("process %s, user %s, is left: %s", peer.pid, peer.uid, error)

    def _served(self, task: asyncio.Task[None]) -> None:
        peer = self._tasks.pop(task)
        self._users[peer.uid] -= 1
        if not self._users[peer.uid]:
            del self._users[peer.uid]
        peer.close()
        if self._listening is not None:
            self._on_left(peer)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a caller could not be served", exc_info=error)


def _listen(path: Path, mode: int, group: int | None) -> socket.socket:
    """What stands there is a socket that nobody listens at: else its claim were taken."""
    if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    bound = False
    try:
        # Nobody may connect before mode and group are as they should be: what the socket has
        # is what its file gets (net/unix/af_unix.c).
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(str(path))
        bound = True
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(mode)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        if bound:
            path.unlink(missing_ok=True)
        raise
    return listening
