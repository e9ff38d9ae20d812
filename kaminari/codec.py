# SPDX-License-Identifier: GPL-2.0-only
"""What a layer does to the bytes of a connection, without I/O.

A codec turns what came from the wire into payload and payload into what goes on the wire. Views
it returns are valid until its next call. Codecs nest: Stack(ws, tls) is WebSocket over TLS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from kaminari.errors import FrameFault, ProtocolFault, TlsFault
from kaminari.frames import (
    NO_KEY,
    ZERO_KEY,
    FrameReader,
    Opcode,
    encode_close,
    encode_control,
    encode_header,
)
from kaminari.mask import Buffer, apply_mask
from kaminari.options import MaskMode
from kaminari.tls_engine import TlsEngine

ENDLESS = 1 << 30


class Codec(Protocol):
    @property
    def ended(self) -> bool:
        """The peer ended its direction within this layer; nothing more will be decoded."""

    @property
    def raw_out(self) -> bool:
        """Payload may go to the wire as it is, behind encode_raw_header(its length)."""

    @property
    def ends_wire(self) -> bool:
        """The end of our direction is also the end of the wire's (a FIN follows encode_end)."""

    def decode(self, data: memoryview) -> list[Buffer]: ...
    def decode_inner(self, data: memoryview) -> list[Buffer]:
        """Decode bytes that came with a handshake and are out of the outer layers already."""

    def decode_end(self) -> None:
        """Note the end of the wire's incoming direction. Raises ProtocolFault if it is early."""

    def encode(self, payload: list[Buffer]) -> list[Buffer]: ...
    def encode_end(self) -> list[Buffer]:
        """What ends our direction of the payload."""

    def encode_wire_end(self) -> list[Buffer]:
        """What goes out last of all, once both directions have ended."""

    def encode_farewell(self, fault: ProtocolFault) -> list[Buffer]:
        """What to tell the peer whose bytes caused `fault`, before the connection is cut."""

    def take_replies(self) -> list[Buffer]:
        """What decode calls to answer: pongs, TLS handshake messages, alerts."""

    def raw_incoming(self) -> int:
        """How many of the next bytes on the wire are payload as they stand."""

    def skip_raw(self, count: int) -> None: ...
    def header_need(self) -> int:
        """How much to read for a header when more would be payload that could stay raw."""

    def encode_raw_header(self, length: int) -> bytes: ...


class PlainCodec:
    """No layer at all: TCP itself."""

    raw_out = True
    ends_wire = True

    def __init__(self) -> None:
        self.ended = False

    def decode(self, data: memoryview) -> list[Buffer]:
        return [data]

    def decode_inner(self, data: memoryview) -> list[Buffer]:
        return [data] if data else []

    def decode_end(self) -> None:
        self.ended = True

    def encode(self, payload: list[Buffer]) -> list[Buffer]:
        return payload

    def encode_end(self) -> list[Buffer]:
        return []

    def encode_wire_end(self) -> list[Buffer]:
        return []

    def encode_farewell(self, fault: ProtocolFault) -> list[Buffer]:
        return []

    def take_replies(self) -> list[Buffer]:
        return []

    def raw_incoming(self) -> int:
        return ENDLESS

    def skip_raw(self, count: int) -> None:
        pass

    def header_need(self) -> int:
        return 1

    def encode_raw_header(self, length: int) -> bytes:
        return b""


class WebSocketCodec:
    """Binary frames, one for each piece of payload.

    A close frame ends one direction only, and no FIN follows it before the other direction has
    ended too: reverse proxies would cut both.
    """

    ends_wire = False

    def __init__(
        self,
        mask: MaskMode | None,
        random_key: Callable[[], bytes] = lambda: os.urandom(4),
    ) -> None:
        """`mask` is None at the server, which masks nothing and expects masked frames."""
        self._reader = FrameReader(masked=mask is None)
        self._random_key = random_key
        self._standard = mask is MaskMode.STANDARD
        self._key = NO_KEY if mask is None else ZERO_KEY
        if mask is MaskMode.FIXED:
            self._key = random_key()
        self.raw_out = self._key in (NO_KEY, ZERO_KEY) and not self._standard
        self.ended = False
        self._end_sent = False
        self._pong: bytes | None = None
        self.close_code = 1000
        """The status our close frame carries: the peer's once it closed, else 1000."""

    def decode(self, data: memoryview) -> list[Buffer]:
        payload = self._reader.feed(data)
        if self._reader.controls:
            self._take_controls()
        return payload

    def decode_inner(self, data: memoryview) -> list[Buffer]:
        return self.decode(data)

    def _take_controls(self) -> None:
        for control in self._reader.controls:
            if control.opcode == Opcode.PING:
                # Only the newest ping needs an answer (section 5.5.3), so a flood of them by a
                # peer that reads nothing holds no memory.
                self._pong = control.payload
            elif control.opcode == Opcode.CLOSE:
                self.ended = True
                code = control.close_code
                self.close_code = 1000 if code == 1005 else code
        self._reader.controls.clear()

    def decode_end(self) -> None:
        if self._reader.mid_frame:
            raise FrameFault("the stream ended inside a frame")
        self.ended = True

    def encode(self, payload: list[Buffer]) -> list[Buffer]:
        wire: list[Buffer] = []
        key = self._key
        for piece in payload:
            if self._standard:
                key = self._random_key()
            wire.append(encode_header(Opcode.BINARY, len(piece), key))
            wire.append(piece if self.raw_out else apply_mask(piece, key))
        return wire

    def encode_end(self) -> list[Buffer]:
        if self._end_sent:
            return []
        self._end_sent = True
        return [encode_close(self.close_code, self._control_key())]

    def encode_wire_end(self) -> list[Buffer]:
        return []

    def encode_farewell(self, fault: ProtocolFault) -> list[Buffer]:
        if self._end_sent:
            return []
        self._end_sent = True
        code = fault.close_code if isinstance(fault, FrameFault) else 1002
        return [encode_close(code, self._control_key())]

    def take_replies(self) -> list[Buffer]:
        if self._pong is None:
            return []
        pong, self._pong = self._pong, None
        if self._end_sent:
            return []
        return [encode_control(Opcode.PONG, pong, self._control_key())]

    def _control_key(self) -> bytes:
        return self._random_key() if self._standard else self._key

    def raw_incoming(self) -> int:
        return self._reader.raw_remaining

    def skip_raw(self, count: int) -> None:
        self._reader.skip(count)

    def header_need(self) -> int:
        return self._reader.header_need

    def encode_raw_header(self, length: int) -> bytes:
        return encode_header(Opcode.BINARY, length, self._key)


class TlsCodec:
    """TLS by an engine; raw payload is impossible, so the raw_* calls are never made."""

    raw_out = False

    def __init__(self, engine: TlsEngine) -> None:
        self.engine = engine
        self.ended = engine.ended

    @property
    def ends_wire(self) -> bool:
        return not self.engine.close_deferred

    def decode(self, data: memoryview) -> list[Buffer]:
        payload = self.engine.receive(data)
        self.ended = self.engine.ended
        return payload

    def decode_inner(self, data: memoryview) -> list[Buffer]:
        return [data] if data else []

    def decode_end(self) -> None:
        if not self.engine.ended:
            raise TlsFault("the TLS stream was cut off without a close_notify")

    def encode(self, payload: list[Buffer]) -> list[Buffer]:
        self.engine.send(payload[0] if len(payload) == 1 else b"".join(payload))
        return [self.engine.take_outgoing()]

    def encode_end(self) -> list[Buffer]:
        self.engine.close_write()
        return self.take_replies()

    def encode_wire_end(self) -> list[Buffer]:
        return self.encode_end()

    def encode_farewell(self, fault: ProtocolFault) -> list[Buffer]:
        return self.take_replies()

    def take_replies(self) -> list[Buffer]:
        wire = self.engine.take_outgoing()
        return [wire] if wire else []

    def raw_incoming(self) -> int:
        return 0

    def skip_raw(self, count: int) -> None:
        raise AssertionError("TLS has no raw payload")

    def header_need(self) -> int:
        return 1

    def encode_raw_header(self, length: int) -> bytes:
        raise AssertionError("TLS has no raw payload")


class WebSocketOverTls:
    """The two together: frames inside records."""

    raw_out = False
    ends_wire = False

    def __init__(self, ws: WebSocketCodec, tls: TlsCodec) -> None:
        self._ws = ws
        self._tls = tls

    @property
    def ended(self) -> bool:
        return self._ws.ended

    def decode(self, data: memoryview) -> list[Buffer]:
        payload: list[Buffer] = []
        for piece in self._tls.decode(data):
            payload += self._ws.decode(memoryview(piece))
        if self._tls.ended and not self._ws.ended:
            self._ws.decode_end()
        return payload

    def decode_inner(self, data: memoryview) -> list[Buffer]:
        payload = self._ws.decode(data)
        if self._tls.ended and not self._ws.ended:
            self._ws.decode_end()
        return payload

    def decode_end(self) -> None:
        if not self._ws.ended:  # a peer that has said goodbye may skip the close_notify
            self._tls.decode_end()
            self._ws.decode_end()

    def encode(self, payload: list[Buffer]) -> list[Buffer]:
        return self._tls.encode(self._ws.encode(payload))

    def encode_end(self) -> list[Buffer]:
        return self._tls.encode(self._ws.encode_end() or [b""])

    def encode_farewell(self, fault: ProtocolFault) -> list[Buffer]:
        if isinstance(fault, TlsFault):
            return self._tls.take_replies()
        return self._tls.encode(self._ws.encode_farewell(fault) or [b""])

    def encode_wire_end(self) -> list[Buffer]:
        return self._tls.encode_end()

    def take_replies(self) -> list[Buffer]:
        replies = self._ws.take_replies()
        return self._tls.encode(replies) if replies else self._tls.take_replies()

    def raw_incoming(self) -> int:
        return 0

    def skip_raw(self, count: int) -> None:
        self._tls.skip_raw(count)

    def header_need(self) -> int:
        return 1

    def encode_raw_header(self, length: int) -> bytes:
        return self._tls.encode_raw_header(length)
