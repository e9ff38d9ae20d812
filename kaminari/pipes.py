# SPDX-License-Identifier: GPL-2.0-only
"""Pipes for os.splice: payload goes from socket to socket without passing through this process.

A pipe is borrowed for as long as bytes lie in it, so only connections that move bulk hold one.
The pool is bounded; without a pipe, or without splice, the caller copies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Final

# A user without privilege gets 64 MiB of pipe buffers (fs.pipe-user-pages-soft): half of that.
PIPE_BYTES: Final = 1 << 18
MAX_PIPES: Final = 128
MAX_IDLE_PIPES: Final = 8
# Left free, so that a frame of one pipeful also fits a pipe at the next hop, where other
# boundaries of segments fill the pipe's slots less well.
SLACK_BYTES: Final = 1 << 14

_F_SETPIPE_SZ: Final = 1031  # fcntl.F_SETPIPE_SZ, which Python 3.11 does not name everywhere
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})


class Pipe:
    __slots__ = ("read_fd", "size_bytes", "write_fd")

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.size_bytes = 65536
        with contextlib.suppress(OSError):  # over the limit a smaller pipe does as well
            self.size_bytes = fcntl.fcntl(self.write_fd, _F_SETPIPE_SZ, PIPE_BYTES)

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


class PipePool:
    def __init__(self, limit: int = MAX_PIPES) -> None:
        self._free: list[Pipe] = []
        self._limit = limit
        self._made = 0
        self.usable = hasattr(os, "splice")

    def borrow(self) -> Pipe | None:
        """An empty pipe, or None where splice is not to be had now."""
        if self._free:
            return self._free.pop()
        if not self.usable or self._made >= self._limit:
            return None
        try:
            pipe = Pipe()
        except OSError:
            return None
        self._made += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Return an empty pipe."""
        if len(self._free) < MAX_IDLE_PIPES:
            self._free.append(pipe)
        else:
            self.discard(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Return a pipe that may hold bytes: they must not reach another connection."""
        pipe.close()
        self._made -= 1

    def fill(self, fd: int, pipe: Pipe, limit_bytes: int) -> int:
        """Move bytes from a socket into an empty pipe; 0 at the end of the stream.

        Raises BlockingIOError when nothing has arrived, NotImplementedError (once; the pool is
        unusable from then on) where the system cannot splice, and OSError for the connection.
        """
        try:
            return os.splice(
                fd,
                pipe.write_fd,
                min(limit_bytes, pipe.size_bytes - SLACK_BYTES),
                flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE,
            )
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                self.usable = False
                raise NotImplementedError from None
            raise

    def drain(self, pipe: Pipe, fd: int, length_bytes: int) -> int:
        """Move bytes out of a pipe into a socket. Raises BlockingIOError when it is full."""
        return os.splice(
            pipe.read_fd, fd, length_bytes, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
        )


POOL = PipePool()
