# SPDX-License-Identifier: GPL-2.0-only
"""Reader of a BPF ring buffer (Documentation/bpf/ringbuf.rst), for an event loop.

The map's fd is readable while records wait, level-triggered. The consumer position is a page
of its own that we write; producer position and data are mapped read-only, the data twice in a
row, so that no record is split. Of the data only a window around the consumer is mapped: the
kernel puts every page of a mapping in at once, and each counts as resident memory.

  record: length u32 (bit 31 busy, bit 30 discarded), page offset u32, data, padding to 8
"""

import mmap
import struct
from collections.abc import Iterator

_POSITION = struct.Struct("=Q")
_LENGTH = struct.Struct("=I")
_HEADER_BYTES = 8
_BUSY = 1 << 31
_DISCARDED = 1 << 30
_LENGTH_MASK = _DISCARDED - 1
_WINDOW_BYTES = 256 << 10


class Ring:
    """The ring of a map fd; `size` is its data area in bytes. The fd stays the owner's."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self._size = size
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # Stored in one piece: pack_into() zeroes first, and the kernel, reading that, would find
        # a ring full that is not.
        self._consumed = memoryview(self._consumer).cast("Q")
        self._producer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._window_at = 0
        self._window = self._map(0, _HEADER_BYTES)

    def read(self, budget: int) -> Iterator[bytes]:
        """At most `budget` waiting records, oldest first; each is consumed once it is yielded."""
        position = self._consumed[0]
        while budget > 0 and position < _POSITION.unpack_from(self._producer)[0]:
            at = self._reach(position, _HEADER_BYTES)
            header = _LENGTH.unpack_from(self._window, at)[0]
            if header & _BUSY:
                return
            length = header & _LENGTH_MASK
            record = b""
            if not header & _DISCARDED:
                at = self._reach(position, _HEADER_BYTES + length)
                record = self._window[at + _HEADER_BYTES : at + _HEADER_BYTES + length]
            position += (length + _HEADER_BYTES + 7) & ~7
            self._consumed[0] = position
            if record:
                budget -= 1
                yield record

    def skip(self) -> None:
        """Pass over all that waits, unread."""
        self._consumed[0] = _POSITION.unpack_from(self._producer)[0]

    def _reach(self, position: int, length: int) -> int:
        """Where `length` bytes from `position` on stand in the window, which moves if it must."""
        at = position & (self._size - 1)
        if not self._window_at <= at <= self._window_at + len(self._window) - length:
            start = at & ~(mmap.PAGESIZE - 1)
            window = self._map(start, at - start + length)
            self._window.close()
            self._window_at, self._window = start, window
        return at - self._window_at

    def _map(self, start: int, length: int) -> mmap.mmap:
        page = mmap.PAGESIZE
        length = max((length + page - 1) & ~(page - 1), _WINDOW_BYTES)
        return mmap.mmap(self.fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=2 * page + start)

    def close(self) -> None:
        """Unmap it."""
        self._consumed.release()
        for mapping in (self._consumer, self._producer, self._window):
            mapping.close()
