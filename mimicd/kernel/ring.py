# SPDX-License-Identifier: GPL-2.0-only
"""Reader of a BPF ring buffer (Documentation/bpf/ringbuf.rst), for an event loop.

The map's fd is readable while records wait, level-triggered. The consumer position is a page
of its own that we write; producer position and data are mapped read-only, the data twice in a
row, so that no record is split.

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


class Ring:
    """The ring of a map fd; `size` is its data area in bytes. The fd stays the owner's."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self._mask = size - 1
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(
            fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )

    def read(self, budget: int) -> Iterator[bytes]:
        """At most `budget` waiting records, oldest first; each is consumed once it is yielded."""
        position = _POSITION.unpack_from(self._consumer)[0]
        page = mmap.PAGESIZE
        while budget > 0 and position < _POSITION.unpack_from(self._producer)[0]:
            at = page + (position & self._mask)
            header = _LENGTH.unpack_from(self._producer, at)[0]
            if header & _BUSY:
                return
            length = header & _LENGTH_MASK
            record = b""
            if not header & _DISCARDED:
                record = self._producer[at + _HEADER_BYTES : at + _HEADER_BYTES + length]
            position += (length + _HEADER_BYTES + 7) & ~7
            _POSITION.pack_into(self._consumer, 0, position)
            if record:
                budget -= 1
                yield record

    def close(self) -> None:
        """Unmap it."""
        self._consumer.close()
        self._producer.close()
