# SPDX-License-Identifier: GPL-2.0-only
"""Messages of varlink: JSON objects, each ended by a NUL. Pure; what comes in may be anything.

  call   {"method": "org.mimicd1.Stop", "parameters": {...}, "more": true, "oneway": true}
  reply  {"parameters": {...}, "continues": true}   or   {"error": "...", "parameters": {...}}

See https://varlink.org/Wire-Protocol.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_END = b"\0"


class WireError(Exception):
    """What came is no message; whoever sent it is not spoken with any longer."""


class MessageBuffer:
    """Collects bytes until they make messages of at most `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole now. Raises WireError for one that is too long."""
        *whole, rest = data.split(_END)
        for part in whole:
            yield self._checked(part)
            self._data.clear()
        self._checked(rest)

    def _checked(self, part: bytes) -> bytes:
        if len(self._data) + len(part) > self._limit_bytes:
            raise WireError(f"a message may have {self._limit_bytes // 1024} KiB, this has more")
        self._data += part
        return bytes(self._data)


@dataclass(frozen=True, slots=True)
class Call:
    """One call."""

    method: str
    parameters: Mapping[str, Any]
    more: bool = False
    """The caller takes several replies."""
    oneway: bool = False
    """The caller takes none."""

    def encode(self) -> bytes:
        """As it is sent."""
        message: dict[str, Any] = {"method": self.method, "parameters": dict(self.parameters)}
        if self.more:
            message["more"] = True
        if self.oneway:
            message["oneway"] = True
        return _encode(message)


def decode_call(raw: bytes) -> Call:
    """Raises WireError."""
    message = _decode(raw)
    method, parameters = message.get("method"), message.get("parameters") or {}
    if not isinstance(method, str) or not isinstance(parameters, dict):
        raise WireError("a call names a method and has an object of parameters")
    return Call(method, parameters, message.get("more") is True, message.get("oneway") is True)


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False
    """Another one follows."""
    error: str = ""
    """Full name of an error; "" = none."""

    def encode(self) -> bytes:
        """As it is sent."""
        message: dict[str, Any] = {"parameters": dict(self.parameters)}
        if self.continues:
            message["continues"] = True
        if self.error:
            message["error"] = self.error
        return _encode(message)


def decode_reply(raw: bytes) -> Reply:
    """Raises WireError."""
    message = _decode(raw)
    parameters, error = message.get("parameters") or {}, message.get("error") or ""
    if not isinstance(error, str) or not isinstance(parameters, dict):
        raise WireError("a reply has an object of parameters")
    return Reply(parameters, message.get("continues") is True, error)


def _encode(message: Mapping[str, Any]) -> bytes:
    # ASCII alone, so that neither a NUL nor a lone surrogate can be in it
    return json.dumps(message, separators=(",", ":")).encode() + _END


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise WireError("a message is a JSON object in UTF-8") from error
    if not isinstance(message, dict):
        raise WireError("a message is a JSON object")
    return message
