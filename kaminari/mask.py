# SPDX-License-Identifier: GPL-2.0-only
"""WebSocket masking, RFC 6455 section 5.3: byte i of a payload is XORed with key[i mod 4].

numpy does it at memory speed and is imported at the first masked byte only; without it, one
XOR of two long integers is the fastest thing the standard library has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

Buffer = bytes | bytearray | memoryview


def apply_mask(data: Buffer, key: bytes, offset: int = 0) -> bytes:
    """XOR `data` with the four-byte key; `offset` is the payload byte that data[0] is."""
    if not data:
        return b""
    turn = offset & 3
    if len(data) < 256:  # the call into numpy costs more than this
        return apply_mask_with_integers(data, key[turn:] + key[:turn])
    return _bulk_implementation()(data, key[turn:] + key[:turn])


def apply_mask_with_integers(data: Buffer, key: bytes) -> bytes:
    length = len(data)
    stream = int.from_bytes(key, "little") * _ones((length + 3) // 4)
    if length & 3:
        stream &= (1 << (8 * length)) - 1
    return (int.from_bytes(data, "little") ^ stream).to_bytes(length, "little")


@lru_cache(maxsize=8)
def _ones(words: int) -> int:
    """0x00000001_00000001...: a key times this is the key repeated `words` times."""
    return int.from_bytes(b"\x01\x00\x00\x00" * words, "little")


@cache
def _bulk_implementation() -> Callable[[Buffer, bytes], bytes]:
    try:
        import numpy
    except ImportError:
        return apply_mask_with_integers
    return _with_numpy(numpy)


def _with_numpy(numpy: Any) -> Callable[[Buffer, bytes], bytes]:
    def apply_mask_with_numpy(data: Buffer, key: bytes) -> bytes:
        length = len(data)
        whole = length & ~7
        words = numpy.frombuffer(data, dtype="<u8", count=whole // 8)
        repeated = numpy.uint64(int.from_bytes(key * 2, "little"))
        masked: bytes = numpy.bitwise_xor(words, repeated).tobytes()
        if whole == length:
            return masked
        return masked + apply_mask_with_integers(data[whole:], key)

    return apply_mask_with_numpy
