# SPDX-License-Identifier: GPL-2.0-only
"""The WebSocket opening handshake, RFC 6455 section 4, without I/O.

h11 reads the messages: it is strict, bounded, and keeps the bytes that follow one. The request
is written in the order and case that the field's other implementation expects.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable

import h11

from kaminari.errors import HandshakeFault

MAX_HEAD_BYTES = 16384
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_token(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())


class ClientHandshake:
    """Give `request` to the server, then feed what it answers until feed returns True."""

    def __init__(self, host: str, path: str, nonce: bytes) -> None:
        """`nonce` is 16 random bytes."""
        self._key = base64.b64encode(nonce)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        request = h11.Request(
            method="GET",
            target=path,
            headers=[
                (b"host", host.encode("ascii")),
                (b"upgrade", b"websocket"),
                (b"connection", b"upgrade"),
                (b"sec-websocket-key", self._key),
                (b"sec-websocket-version", b"13"),
            ],
        )
        self.request: bytes = (self._http.send(request) or b"") + (
            self._http.send(h11.EndOfMessage()) or b""
        )
        self.rest = b""
        """Bytes that came behind the response: the first frames."""

    def feed(self, data: bytes) -> bool:
        """Take bytes (b"" for the end of the stream). Raises HandshakeFault on a refusal."""
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
            while isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            if not data:
                raise HandshakeFault("the server closed before it answered") from None
            raise HandshakeFault(f"the server's answer is not HTTP: {error}") from None
        if event is h11.NEED_DATA:
            return False
        if not isinstance(event, h11.InformationalResponse):
            status = event.status_code if isinstance(event, h11.Response) else 0
            raise HandshakeFault(f"the server refused the WebSocket with HTTP status {status}")
        headers = _collect(event.headers)
        if headers.get(b"upgrade", b"").lower() != b"websocket":
            raise HandshakeFault("the server's answer upgrades to something else")
        if b"upgrade" not in _tokens(headers.get(b"connection", b"")):
            raise HandshakeFault("the server's answer has no 'connection: upgrade'")
        if headers.get(b"sec-websocket-accept") != accept_token(self._key):
            raise HandshakeFault("the server's sec-websocket-accept does not fit the key")
        if b"sec-websocket-extensions" in headers or b"sec-websocket-protocol" in headers:
            raise HandshakeFault("the server agreed to something that was not offered")
        self.rest = self._http.trailing_data[0]
        return True


class ServerHandshake:
    """Feed a request until feed returns True, then send `response`."""

    def __init__(self, host: str, path: str) -> None:
        self._host = host.lower().encode("ascii")
        self._path = path.encode("ascii")
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.received = bytearray()
        """Everything taken in so far, as a fallback server has to see it."""
        self.response = b""
        self.rest = b""
        """Bytes that came behind the request: the first frames."""

    def feed(self, data: bytes) -> bool:
        """Take bytes. Raises HandshakeFault with the HTTP status to answer."""
        self.received += data
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                return False
            if not isinstance(event, h11.Request):
                raise HandshakeFault("the stream ended before a request", 400)
            if len(self.received) - len(self._http.trailing_data[0]) > MAX_HEAD_BYTES:
                raise HandshakeFault("the request has too large a head", 431)
            key = self._check(event)
            if self._http.next_event() is h11.NEED_DATA:
                raise HandshakeFault("the request for a WebSocket has a body", 400)
        except h11.RemoteProtocolError as error:
            raise HandshakeFault(f"not an HTTP request: {error}", error.error_status_hint) from None
        self.rest = self._http.trailing_data[0]
        self.response = (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-accept: " + accept_token(key) + b"\r\n\r\n"
        )
        return True

    def _check(self, request: h11.Request) -> bytes:
        """Section 4.2.1, and that the request is for this tunnel; returns the key."""
        headers = _collect(request.headers)
        if request.target != self._path:
            raise HandshakeFault("the request is for another path", 404)
        host = headers.get(b"host", b"").lower()
        if host != self._host and host.rpartition(b":")[0] != self._host:
            raise HandshakeFault("the request is for another host", 404)
        if request.method != b"GET":
            raise HandshakeFault("the request is not a GET", 405)
        if b"websocket" not in _tokens(headers.get(b"upgrade", b"")) or b"upgrade" not in _tokens(
            headers.get(b"connection", b"")
        ):
            raise HandshakeFault("the request does not ask for a WebSocket", 426)
        if request.http_version != b"1.1":
            raise HandshakeFault("the request is not HTTP/1.1", 426)
        if headers.get(b"sec-websocket-version") != b"13":
            raise HandshakeFault("the request asks for another WebSocket version", 426)
        key = headers.get(b"sec-websocket-key", b"")
        try:
            valid = len(base64.b64decode(key, validate=True)) == 16
        except binascii.Error:
            valid = False
        if not valid:
            raise HandshakeFault("the request has no valid sec-websocket-key", 400)
        return key


def _collect(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Header values by lower-case name; repeated ones joined as RFC 9110 section 5.3 has it."""
    collected: dict[bytes, bytes] = {}
    for name, value in headers:
        collected[name] = collected[name] + b", " + value if name in collected else value
    return collected


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip().lower() for token in value.split(b",")}
