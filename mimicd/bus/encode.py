# SPDX-License-Identifier: GPL-2.0-only
"""The bus messages that are sent by the thousand, packed straight into bytes.

A list of 10,000 connections has 250,000 values; one call per value would hold up the event loop
for seconds. So a connection's numbers are packed by one struct whose constant parts (keys, types,
padding) are made once. Everything is little-endian; see the D-Bus specification, "Marshaling"
and "Message Format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from mimicd.bus.names import CONNECTION_SIGNATURES
from mimicd.core.connection import Connection

METHOD_RETURN, SIGNAL = 2, 4
_NO_REPLY_EXPECTED = 1
_PROTOCOL_VERSION = 1
_FIELD_PATH, _FIELD_INTERFACE, _FIELD_MEMBER = 1, 2, 3
_FIELD_REPLY_SERIAL, _FIELD_DESTINATION, _FIELD_SIGNATURE = 5, 6, 8

#   byte 'l' | byte type | byte flags | byte version | u32 body bytes | u32 serial | u32 field bytes
_FIXED_HEADER = struct.Struct("<cBBBIII")

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_NUMBERS = {"u": "I", "t": "Q", "d": "d"}

_TEXT_KEYS = tuple(key for key, sig in CONNECTION_SIGNATURES.items() if sig == "s")
_NUMBER_KEYS = tuple(key for key, sig in CONNECTION_SIGNATURES.items() if sig in _NUMBERS)


def clean_text(text: str) -> str:
    """`text` as the bus can carry it: a bus drops whoever sends a NUL or a lone surrogate."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def encode_method_return(
    serial: int, reply_serial: int, destination: str, signature: str, body: bytes | bytearray
) -> bytes:
    """A whole method return message with a body of type `signature`."""
    fields = [
        (_FIELD_REPLY_SERIAL, "u", _U32.pack(reply_serial)),
        (_FIELD_DESTINATION, "s", _string(destination)),
    ]
    return _message(METHOD_RETURN, serial, fields, signature, body)


def encode_signal(
    serial: int, path: str, interface: str, member: str, signature: str, body: bytes
) -> bytes:
    """A whole broadcast signal message with a body of type `signature`."""
    fields = [
        (_FIELD_PATH, "o", _string(path)),
        (_FIELD_INTERFACE, "s", _string(interface)),
        (_FIELD_MEMBER, "s", _string(member)),
    ]
    return _message(SIGNAL, serial, fields, signature, body)


class ConnectionList:
    """A body of type aa{sv} that grows portion by portion."""

    def __init__(self) -> None:
        self._body = bytearray(4)

    def __len__(self) -> int:
        """Bytes of the body so far."""
        return len(self._body)

    def add(self, connections: Iterable[Connection]) -> None:
        """Put these behind those that are in it."""
        body = self._body
        for connection in connections:
            entries = encode_connection(connection)
            body += bytes(-len(body) % 4)
            body += _U32.pack(len(entries))
            body += bytes(-len(body) % 8)
            body += entries

    def body(self) -> bytearray:
        """The whole; nothing may be added afterwards."""
        # The padding after the length of an array is not part of that length; an array of
        # arrays needs none, its elements begin on the next 4 bytes.
        _U32.pack_into(self._body, 0, len(self._body) - 4)
        return self._body


class LongText:
    """A body of type s that grows portion by portion."""

    def __init__(self) -> None:
        self._body = bytearray(4)

    def __len__(self) -> int:
        """Bytes of the body so far."""
        return len(self._body)

    def add(self, text: str) -> None:
        """Put this behind what is in it; without NUL and lone surrogates, as JSON is."""
        self._body += text.encode()

    def body(self) -> bytearray:
        """The whole; nothing may be added afterwards."""
        _U32.pack_into(self._body, 0, len(self._body) - 4)
        self._body += b"\0"
        return self._body


def encode_connection(connection: Connection) -> bytes:
    """The entries of one connection's a{sv}; they may stand at any multiple of 8 bytes.

    The result is what lies between the array's length (and its padding) and its end.
    """
    plain = connection.as_plain()
    out = bytearray(_NUMBER_STRUCT.pack(*_with_constants(plain)))
    for key in _TEXT_KEYS:
        out += _TEXT_PREFIXES[key]
        out += _string(str(plain[key]))
        out += bytes(-len(out) % 8)
    drops = plain["drops"]
    assert isinstance(drops, dict)
    out += _DROPS_PREFIX
    out += _counts(drops, len(out))
    return bytes(out)


def encode_connection_changed(connection: Connection) -> bytes:
    """Body of type sa{sv}: interface and connection."""
    body = bytearray(_string(connection.interface))
    entries = encode_connection(connection)
    body += bytes(-len(body) % 4)
    body += _U32.pack(len(entries))
    body += bytes(-len(body) % 8)
    return bytes(body + entries)


def encode_log(interface: str, level: int, text: str) -> bytes:
    """Body of type sus: interface, level, text."""
    body = bytearray(_string(interface))
    body += bytes(-len(body) % 4)
    body += _U32.pack(level)
    body += _string(text)
    return bytes(body)


def _message(
    kind: int,
    serial: int,
    fields: list[tuple[int, str, bytes]],
    signature: str,
    body: bytes | bytearray,
) -> bytes:
    packed = bytearray()
    for code, sig, value in [*fields, (_FIELD_SIGNATURE, "g", _signature(signature))]:
        packed += bytes(-len(packed) % 8)
        # A variant in a struct: byte code, signature (1 + 1 + 1 bytes), so the value is aligned.
        packed += bytes((code,)) + _signature(sig) + value
    header = _FIXED_HEADER.pack(
        b"l", kind, _NO_REPLY_EXPECTED, _PROTOCOL_VERSION, len(body), serial, len(packed)
    )
    return b"".join((header, packed, bytes(-(len(header) + len(packed)) % 8), body))


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "replace").replace(b"\0", b"?")
    return _U32.pack(len(raw)) + raw + b"\0"


def _signature(signature: str) -> bytes:
    raw = signature.encode()
    return bytes((len(raw),)) + raw + b"\0"


def _counts(counts: Mapping[str, int], offset: int) -> bytes:
    """An a{st} that begins at `offset`, a multiple of 4."""
    pad = -(offset + 4) % 8
    entries = bytearray()
    for key, count in counts.items():
        entries += bytes(-len(entries) % 8)
        entries += _string(key)
        entries += bytes(-len(entries) % 8)
        entries += _U64.pack(count)
    return _U32.pack(len(entries)) + bytes(pad) + bytes(entries)


def _entry_prefix(key: str, signature: str) -> bytes:
    """Key and variant signature of a dict entry that begins on 8 bytes, padded for its value."""
    alignment = {"s": 4, "u": 4, "a{st}": 4, "d": 8, "t": 8}[signature]
    prefix = _string(key) + _signature(signature)
    return prefix + bytes(-len(prefix) % alignment)


def _number_struct() -> tuple[struct.Struct, tuple[bytes, ...]]:
    """A struct of prefix and value by turns, and the prefixes with the padding before them."""
    form, prefixes, length = "<", [], 0
    for key in _NUMBER_KEYS:
        signature = CONNECTION_SIGNATURES[key]
        prefix = bytes(-length % 8) + _entry_prefix(key, signature)
        form += f"{len(prefix)}s{_NUMBERS[signature]}"
        length = struct.calcsize(form)
        prefixes.append(prefix)
    tail = bytes(-length % 8)
    return struct.Struct(f"{form}{len(tail)}s"), (*prefixes, tail)


def _with_constants(plain: Mapping[str, object]) -> list[object]:
    values: list[object] = []
    for prefix, key in zip(_NUMBER_PREFIXES, _NUMBER_KEYS, strict=False):
        values += (prefix, plain[key])
    values.append(_NUMBER_PREFIXES[-1])
    return values


_NUMBER_STRUCT, _NUMBER_PREFIXES = _number_struct()
_TEXT_PREFIXES = {key: _entry_prefix(key, "s") for key in _TEXT_KEYS}
_DROPS_PREFIX = _entry_prefix("drops", "a{st}")
