# SPDX-License-Identifier: GPL-2.0-only
"""WebSocket frames, RFC 6455 section 5, without I/O.

     0 1 2 3 4 5 6 7 | 0 1 2 3 4 5 6 7 |
    |F|R R R|opcode  |M| length        | [16- or 64-bit length] | [4-byte key] | payload

Numbers are big-endian. FrameReader turns what arrives into payload, as it comes: a data message
is a piece of a byte stream here, so nothing waits for the end of a frame or message and no
length, however large, costs memory. encode_header writes the shortest header there is.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from kaminari.errors import FrameFault
from kaminari.mask import Buffer, apply_mask

NO_KEY = b""
ZERO_KEY = bytes(4)
MAX_CONTROL_BYTES = 125

_HEADER_16 = struct.Struct("!BBH")
_HEADER_64 = struct.Struct("!BBQ")
_CLOSE_CODE = struct.Struct("!H")


class Opcode(enum.IntEnum):
    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


@dataclass(frozen=True, slots=True)
class Control:
    opcode: Opcode
    payload: bytes

    @property
    def close_code(self) -> int:
        """The status of a close frame; 1005 (RFC 6455 section 7.1.5) if it carries none."""
        return int(_CLOSE_CODE.unpack_from(self.payload)[0]) if self.payload else 1005


def encode_header(opcode: int, length: int, key: bytes = NO_KEY) -> bytes:
    """Header of an unfragmented frame; an empty key means an unmasked frame."""
    first = 0x80 | opcode
    masked = 0x80 if key else 0
    if length < 126:
        return bytes((first, masked | length)) + key
    if length < 65536:
        return _HEADER_16.pack(first, masked | 126, length) + key
    return _HEADER_64.pack(first, masked | 127, length) + key


def encode_control(opcode: Opcode, payload: bytes, key: bytes = NO_KEY) -> bytes:
    """A whole control frame; the payload has at most 125 bytes (section 5.5)."""
    masked = apply_mask(payload, key) if key else payload
    return encode_header(opcode, len(payload), key) + masked


def encode_close(code: int, key: bytes = NO_KEY) -> bytes:
    return encode_control(Opcode.CLOSE, _CLOSE_CODE.pack(code), key)


class FrameReader:
    """Reads the frames of one peer. `masked` tells whether that peer has to mask (a client)."""

    __slots__ = (
        "_control",
        "_control_opcode",
        "_fragmented",
        "_header",
        "_key",
        "_last_header_length",
        "_masked",
        "_phase",
        "closed",
        "controls",
        "remaining",
    )

    def __init__(self, masked: bool) -> None:
        self._masked = masked
        self._header = bytearray()
        self._last_header_length = 2
        self._key = ZERO_KEY
        self._phase = 0
        self._fragmented = False
        self._control: bytearray | None = None
        self._control_opcode = Opcode.PING
        self.remaining = 0
        """Payload bytes of the current data frame that have not arrived."""
        self.controls: list[Control] = []
        """Control frames in the order they came; the caller empties it."""
        self.closed = False
        """A close frame came; whatever follows it is dropped (section 1.4)."""

    @property
    def mid_frame(self) -> bool:
        return bool(self.remaining or self._header or self._control is not None)

    @property
    def raw_remaining(self) -> int:
        """`remaining`, if those bytes are the payload as they stand; otherwise 0."""
        return self.remaining if self._key == ZERO_KEY else 0

    @property
    def header_need(self) -> int:
        """Bytes the header of the next frame lacks, if it is like the last; 1 inside a frame."""
        if self.remaining or self._control is not None:
            return 1
        if not self._header:
            return self._last_header_length
        return max(1, self._header_length() - len(self._header))

    def skip(self, count: int) -> None:
        """Note that `count` of raw_remaining went past without this reader."""
        self.remaining -= count
        self._phase += count

    def feed(self, data: Buffer) -> list[Buffer]:
        """Take bytes off the wire and return the payload in them. Raises FrameFault.

        Pieces returned are views of `data` where nothing was masked.
        """
        payload: list[Buffer] = []
        view = memoryview(data)
        position, end = 0, len(view)
        while position < end:
            if self.remaining:
                piece = view[position : position + self.remaining]
                count = len(piece)
                if self._key == ZERO_KEY:
                    payload.append(piece)
                else:
                    payload.append(apply_mask(piece, self._key, self._phase))
                    self._phase += count
                self.remaining -= count
                position += count
            elif self._control is not None:
                want = self._control_length - len(self._control)
                piece = view[position : position + want]
                self._control += piece
                position += len(piece)
                if len(piece) == want:
                    self._finish_control()
            elif self.closed:
                break
            else:
                position = self._take_header(view, position)
        return payload

    @property
    def _control_length(self) -> int:
        return self._phase  # a control frame is read whole, so its phase field is free

    def _header_length(self) -> int:
        header = self._header
        if len(header) < 2:
            return 2
        short = header[1] & 0x7F
        extra = 2 if short == 126 else 8 if short == 127 else 0
        return 2 + extra + (4 if header[1] & 0x80 else 0)

    def _take_header(self, view: memoryview, position: int) -> int:
        header = self._header
        while True:
            need = self._header_length() - len(header)
            if need == 0:
                break
            piece = view[position : position + need]
            if not piece:
                return position
            header += piece
            position += len(piece)
            if len(header) == 2:
                self._check_start(header[0], header[1])
        self._last_header_length = len(header)
        self._begin_frame(bytes(header))
        header.clear()
        return position

    def _check_start(self, first: int, second: int) -> None:
        """Refuse a frame by its first two bytes, before more of it is awaited."""
        opcode = first & 0x0F
        if first & 0x70:
            raise FrameFault("a frame has a reserved bit set and no extension is agreed on")
        if opcode not in _OPCODES:
            raise FrameFault(f"a frame has the reserved opcode {opcode:#x}")
        if bool(second & 0x80) is not self._masked:
            what = (
                "an unmasked frame came from a client"
                if self._masked
                else ("a masked frame came from a server")
            )
            raise FrameFault(what)
        if opcode >= 8:
            if not first & 0x80:
                raise FrameFault("a control frame is fragmented")
            if second & 0x7F > MAX_CONTROL_BYTES:
                raise FrameFault("a control frame has more than 125 bytes")
        elif opcode == Opcode.TEXT:
            raise FrameFault("a text frame came where only binary ones have a meaning", 1003)
        elif opcode == Opcode.CONTINUATION and not self._fragmented:
            raise FrameFault("a continuation frame came with nothing to continue")
        elif opcode == Opcode.BINARY and self._fragmented:
            raise FrameFault("a new message began inside a fragmented one")

    def _begin_frame(self, header: bytes) -> None:
        length = header[1] & 0x7F
        if length == 126:
            length = int.from_bytes(header[2:4], "big")
            if length < 126:
                raise FrameFault("a frame has a length in more bytes than it needs")
        elif length == 127:
            length = int.from_bytes(header[2:10], "big")
            if length >> 63:
                raise FrameFault("a frame has a length with the top bit set")
            if length < 65536:
                raise FrameFault("a frame has a length in more bytes than it needs")
        self._key = header[-4:] if self._masked else ZERO_KEY
        opcode = header[0] & 0x0F
        if opcode >= 8:
            self._control = bytearray()
            self._control_opcode = Opcode(opcode)
            self._phase = length
            if not length:
                self._finish_control()
            return
        self._phase = 0
        self._fragmented = not header[0] & 0x80
        self.remaining = length

    def _finish_control(self) -> None:
        assert self._control is not None
        payload = apply_mask(self._control, self._key)
        self._control = None
        if self._control_opcode == Opcode.CLOSE:
            _check_close(payload)
            self.closed = True
        self.controls.append(Control(self._control_opcode, payload))


_OPCODES = frozenset(Opcode)


def _check_close(payload: bytes) -> None:
    """Section 5.5.1 and 7.4: nothing, or a code that may go over the wire and UTF-8."""
    if not payload:
        return
    if len(payload) == 1:
        raise FrameFault("a close frame has half a status code")
    code = _CLOSE_CODE.unpack_from(payload)[0]
    if not (3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))):
        raise FrameFault(f"a close frame has the status code {code}")
    try:
        payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise FrameFault("a close frame has a reason that is not UTF-8", 1007) from None
