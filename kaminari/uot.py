# SPDX-License-Identifier: GPL-2.0-only
"""UDP over TCP, without I/O: a datagram is two bytes of length (big-endian) and its payload."""

from __future__ import annotations

import struct
from collections import deque

from kaminari.mask import Buffer

LENGTH = struct.Struct("!H")
MAX_DATAGRAM_BYTES = 65507
"""What fits an IPv4 packet behind the IP and UDP headers."""


def encode_datagram(datagram: Buffer) -> bytes:
    return LENGTH.pack(len(datagram)) + datagram


class DatagramReader:
    """Cuts a byte stream, however it was split, into datagrams.

    An empty datagram is dropped and counted: the field's other implementation takes one for the
    end of the stream, so none may be passed on to it either.
    """

    __slots__ = ("_partial", "empty")

    def __init__(self) -> None:
        self._partial = bytearray()
        self.empty = 0

    @property
    def mid_datagram(self) -> bool:
        return bool(self._partial)

    def feed(self, payload: list[Buffer]) -> list[bytes]:
        datagrams: list[bytes] = []
        for piece in payload:
            view = memoryview(piece)
            if self._partial:
                view = view[self._complete_partial(view, datagrams) :]
            self._partial += self._cut(view, datagrams)
        return datagrams

    def _complete_partial(self, view: memoryview, datagrams: list[bytes]) -> int:
        """Add to the datagram that has begun what it lacks; return how much that took."""
        partial = self._partial
        taken = 0
        if len(partial) < 2:
            taken = 2 - len(partial)
            partial += view[:taken]
        if len(partial) >= 2:
            lacking = 2 + LENGTH.unpack_from(partial)[0] - len(partial)
            partial += view[taken : taken + lacking]
            taken += lacking
            if not self._cut(memoryview(bytes(partial)), datagrams):
                partial.clear()
        return taken

    def _cut(self, view: memoryview, datagrams: list[bytes]) -> memoryview:
        """Append the whole datagrams at the start of `view`; return what is behind them."""
        position, end = 0, len(view)
        while end - position >= 2:
            start = position + 2
            stop = start + LENGTH.unpack_from(view, position)[0]
            if stop > end:
                break
            if stop == start:
                self.empty += 1
            else:
                datagrams.append(bytes(view[start:stop]))
            position = stop
        return view[position:]


class DatagramQueue:
    """Encoded datagrams that wait for a stream. Full, it drops the oldest, and counts it."""

    __slots__ = ("_datagrams", "_limit_bytes", "_size_bytes", "dropped")

    def __init__(self, limit_bytes: int) -> None:
        self._datagrams: deque[bytes] = deque()
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._datagrams)

    def append(self, encoded: bytes) -> None:
        self._datagrams.append(encoded)
        self._size_bytes += len(encoded)
        while self._size_bytes > self._limit_bytes and len(self._datagrams) > 1:
            self._size_bytes -= len(self._datagrams.popleft())
            self.dropped += 1

    def take(self, limit_bytes: int) -> list[Buffer]:
        """The oldest datagrams, as many as fit the limit, but at least one if there is one."""
        taken: list[Buffer] = []
        size_bytes = 0
        while self._datagrams:
            size_bytes += len(self._datagrams[0])
            if taken and size_bytes > limit_bytes:
                break
            encoded = self._datagrams.popleft()
            self._size_bytes -= len(encoded)
            taken.append(encoded)
        return taken
