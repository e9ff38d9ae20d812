# SPDX-License-Identifier: GPL-2.0-only
"""Bytes from the bus cut into messages, none of them larger than asked for.

Pure: in go bytes as they come, out come whole messages. Of a message that is too large only the
head is kept, so that it can be refused by name; its body is skipped without being looked at.
See the D-Bus specification, "Message Format".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

#   byte order | byte type | byte flags | byte version
#   u32 body bytes | u32 serial | u32 field bytes
_FIXED_BYTES = 16
_LITTLE, _BIG = ord("l"), ord("B")
_PROTOCOL_VERSION = 1
_BODY_LENGTH_OFFSET = 4


class FramingError(Exception):
    """What the bus sends is not the protocol; there is no way to find the next message."""


@dataclass(frozen=True, slots=True)
class Frame:
    data: bytes
    """One message; only its head, with a body length of 0, when `oversized`."""
    oversized: bool = False


class FrameBuffer:
    """Collects bytes until they make a message of at most `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._skip_bytes = 0
        self.ignored = 0
        """Messages dropped whole, because their very head was too large."""

    def feed(self, data: bytes) -> None:
        if self._skip_bytes:
            skipped = min(self._skip_bytes, len(data))
            self._skip_bytes -= skipped
            data = data[skipped:]
        self._data += data

    def next_frame(self) -> Frame | None:
        """The next message, None when it has not arrived yet. Raises FramingError."""
        while len(self._data) >= _FIXED_BYTES:
            head_bytes, body_bytes = self._lengths()
            total_bytes = head_bytes + body_bytes
            if total_bytes <= self._limit_bytes:
                return self._take(total_bytes) if len(self._data) >= total_bytes else None
            if head_bytes <= self._limit_bytes:
                return self._take_head(head_bytes, body_bytes)
            self.ignored += 1
            self._drop(total_bytes)
        return None

    def _lengths(self) -> tuple[int, int]:
        """Bytes of the head, padding included, and of the body."""
        order, version = self._data[0], self._data[3]
        if order not in (_LITTLE, _BIG) or version != _PROTOCOL_VERSION:
            raise FramingError(f"not a message: begins with {bytes(self._data[:4]).hex()}")
        form = "<I4xI" if order == _LITTLE else ">I4xI"
        body_bytes, field_bytes = struct.unpack_from(form, self._data, _BODY_LENGTH_OFFSET)
        return _FIXED_BYTES + field_bytes + -field_bytes % 8, body_bytes

    def _take(self, count: int) -> Frame:
        data = bytes(self._data[:count])
        del self._data[:count]
        return Frame(data)

    def _take_head(self, head_bytes: int, body_bytes: int) -> Frame | None:
        if len(self._data) < head_bytes:
            return None
        head = self._data[:head_bytes]
        head[_BODY_LENGTH_OFFSET : _BODY_LENGTH_OFFSET + 4] = bytes(4)
        self._drop(head_bytes + body_bytes)
        return Frame(bytes(head), oversized=True)

    def _drop(self, count: int) -> None:
        present = min(count, len(self._data))
        del self._data[:present]
        self._skip_bytes = count - present
