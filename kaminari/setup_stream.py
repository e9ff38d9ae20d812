# SPDX-License-Identifier: GPL-2.0-only
"""A socket during its handshakes: coroutines that read and write below the frames.

Once the handshakes are over, into_channel makes a Channel of it; what came too early goes along.
"""

from __future__ import annotations

import os
import socket

from kaminari.answers import encode_answer
from kaminari.channel import Channel
from kaminari.codec import Codec, PlainCodec, TlsCodec, WebSocketCodec, WebSocketOverTls
from kaminari.errors import HandshakeFault, TlsFault
from kaminari.handshake import ClientHandshake, ServerHandshake
from kaminari.options import MaskMode, WebSocketOptions
from kaminari.poller import Poller
from kaminari.tls_engine import TlsEngine

READ_BYTES = 65536


class SetupStream:
    def __init__(self, poller: Poller, sock: socket.socket, engine: TlsEngine | None) -> None:
        self._poller = poller
        self._loop = poller.loop
        self._sock = sock
        self._engine = engine
        self._waiting = b""  # plaintext that came with the end of the TLS handshake
        self.received = b""
        """What a stranger sent instead of a handshake, for a fallback server."""

    @property
    def early_limit_bytes(self) -> int:
        return self._engine.early_limit_bytes if self._engine else 0

    def describe(self) -> str:
        return f", {self._engine.describe()}" if self._engine else ""

    def push_back(self, data: bytes) -> None:
        """Let `data` be read (again) before anything else."""
        self._waiting = data + self._waiting

    async def start_tls(self, early: bytes = b"") -> None:
        """Shake hands. `early` is sent within the handshake if a session allows, else behind it.

        Raises TlsFault, OSError.
        """
        engine = self._engine
        assert engine is not None
        engine.start(early)
        try:
            while not engine.established:
                await self._flush()
                data = await self._loop.sock_recv(self._sock, READ_BYTES)
                if not data:
                    raise TlsFault("the peer closed during the TLS handshake")
                self._waiting += b"".join(engine.receive(data))
        finally:
            await self._flush()
        rest = engine.unsent_early()
        if rest:
            await self.write(rest)

    async def read(self) -> bytes:
        """Some plaintext; b"" at the end. Raises TlsFault, OSError."""
        if self._waiting:
            waiting, self._waiting = self._waiting, b""
            return waiting
        while True:
            data = await self._loop.sock_recv(self._sock, READ_BYTES)
            if not data or self._engine is None:
                return data
            plaintext = b"".join(self._engine.receive(data))
            await self._flush()
            if plaintext or self._engine.ended:
                return plaintext

    async def write(self, data: bytes) -> None:
        if self._engine is None:
            await self._loop.sock_sendall(self._sock, data)
        else:
            self._engine.send(data)
            await self._flush()

    async def _flush(self) -> None:
        assert self._engine is not None
        wire = self._engine.take_outgoing()
        if wire:
            await self._loop.sock_sendall(self._sock, wire)

    async def request_websocket(self, handshake: ClientHandshake, sent: bool) -> None:
        """`sent`: the request has gone out as early data. Raises HandshakeFault."""
        if not sent:
            await self.write(handshake.request)
        while not handshake.feed(await self.read()):
            pass
        self._waiting = handshake.rest + self._waiting

    async def accept_websocket(self, options: WebSocketOptions) -> None:
        """Raises HandshakeFault; `received` then holds what came."""
        handshake = ServerHandshake(options.host, options.path)
        try:
            while True:
                data = await self.read()
                if not data and not handshake.received:
                    raise HandshakeFault("the peer closed before it asked for anything")
                if handshake.feed(data):
                    break
        finally:
            self.received = bytes(handshake.received)
        # The 101 goes alone: peers exist that lose whatever comes glued to it.
        await self.write(handshake.response)
        self._waiting = handshake.rest + self._waiting

    def into_channel(self, ws: MaskMode | bool) -> tuple[Channel, memoryview]:
        """The channel, and bytes that wait for its codec's decode_inner.

        `ws` is the client's mask mode, True for a server's WebSocket, False for none.
        """
        codec: Codec = PlainCodec() if self._engine is None else TlsCodec(self._engine)
        if ws is not False:
            frames = WebSocketCodec(ws if isinstance(ws, MaskMode) else None)
            codec = WebSocketOverTls(frames, codec) if isinstance(codec, TlsCodec) else frames
        return Channel(self._poller, self._sock, codec), memoryview(self._waiting)

    def refuse(self, fault: HandshakeFault) -> None:
        """Answer a request that is not for the tunnel, and close."""
        channel, _ = self.into_channel(ws=False)
        channel.write([encode_answer(fault.status)])
        channel.end()
        channel.finish()


def new_client_handshake(options: WebSocketOptions) -> ClientHandshake:
    return ClientHandshake(options.host, options.path, os.urandom(16))
