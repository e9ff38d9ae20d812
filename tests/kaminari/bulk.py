# SPDX-License-Identifier: GPL-2.0-only
"""Writers and readers that hash what they move, and stall until the path between is full."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from dataclasses import dataclass, field

from tests.kaminari.rig import DEADLINE_S

BLOCK = os.urandom(1 << 20)
STALL_S = 0.1


@dataclass
class Side:
    """One end of a stream: what it writes and what it has read."""

    sock: socket.socket
    write_bytes: int
    stall_after_bytes: int = -1
    """Stop reading here until the peer cannot write any more."""
    peer: Side | None = None
    written: int = 0
    read: int = 0
    backlog: int = 0
    """Bytes between the peer and here when the stall had filled the path."""
    sent_hash: str = ""
    read_hash: str = ""
    errors: list[BaseException] = field(default_factory=list)

    def write(self) -> None:
        digest = hashlib.sha256()
        offset = 0
        while self.written < self.write_bytes:
            # A start that moves through the block makes every stretch of the stream its own.
            piece = memoryview(BLOCK)[offset : offset + 262144]
            piece = piece[: self.write_bytes - self.written]
            offset = (offset + 262144 - 4097) % (len(BLOCK) - 262144)
            digest.update(piece)
            self._send(piece)
        self.sock.shutdown(socket.SHUT_WR)
        self.sent_hash = digest.hexdigest()

    def _send(self, piece: memoryview) -> None:
        while piece:
            count = self.sock.send(piece)
            self.written += count
            piece = piece[count:]

    def read_all(self) -> None:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(1 << 18))
        while True:
            if 0 <= self.stall_after_bytes <= self.read:
                self._stall()
            count = self.sock.recv_into(buffer)
            if not count:
                break
            self.read += count
            digest.update(buffer[:count])
        self.read_hash = digest.hexdigest()

    def _stall(self) -> None:
        """Until nothing moves any more: a slow reader has to stop the writer, not fill memory."""
        self.stall_after_bytes = -1
        assert self.peer is not None
        pause = threading.Event()
        before = -1
        while before != self.peer.written < self.peer.write_bytes:
            before = self.peer.written
            pause.wait(STALL_S)
        self.backlog = self.peer.written - self.read


def exchange(one: Side, other: Side) -> None:
    """Both write and read at once, until both have read the end."""
    one.peer, other.peer = other, one
    threads = []
    for side in (one, other):
        side.sock.settimeout(DEADLINE_S)
        for job in (side.write, side.read_all):
            threads.append(threading.Thread(target=_guard, args=(side, job), daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * DEADLINE_S)
        assert not thread.is_alive(), f"stuck at {one.read} and {other.read} bytes"
    assert not one.errors + other.errors


def _guard(side: Side, job: object) -> None:
    assert callable(job)
    try:
        job()
    except BaseException as error:
        side.errors.append(error)


def assert_equal_hashes(one: Side, other: Side) -> None:
    assert one.read == other.write_bytes
    assert other.read == one.write_bytes
    assert one.read_hash == other.sent_hash
    assert other.read_hash == one.sent_hash
