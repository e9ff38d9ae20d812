# SPDX-License-Identifier: GPL-2.0-only
"""RFC 6455 as a table: what a peer may send, and what has to come of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaminari.codec import WebSocketCodec
from kaminari.errors import FrameFault
from kaminari.frames import FrameReader, Opcode, encode_close, encode_control, encode_header
from kaminari.mask import apply_mask, apply_mask_with_integers
from kaminari.options import MaskMode

KEY = b"\x37\xfa\x21\x3d"


def frame(
    opcode: int,
    payload: bytes = b"",
    fin: bool = True,
    rsv: int = 0,
    key: bytes = KEY,
    length: bytes | None = None,
) -> bytes:
    """A frame as the wire has it, also where no encoder would write it so."""
    if length is None:
        size = len(payload)
        width = 0 if size < 126 else 2 if size < 65536 else 8
        prefix = {0: b"", 2: b"\x7e", 8: b"\x7f"}[width]
        length = prefix + size.to_bytes(width or 1, "big")
    mask_bit = 0x80 if key else 0
    head = bytes(((0x80 if fin else 0) | rsv << 4 | opcode, length[0] | mask_bit)) + length[1:]
    return head + key + (apply_mask(payload, key) if key else payload)


@dataclass(frozen=True)
class Case:
    name: str
    section: str
    wire: bytes
    payload: bytes = b""
    pong: bytes | None = None
    """The last pong that has to be sent."""
    close: int = 0
    """Status of the close frame the peer has to get because of this; 0 for none."""
    ends: bool = False
    """The peer has ended its direction properly."""


LONG = os.urandom(70000)
CASES = (
    Case("a binary frame", "5.6", frame(2, b"abc"), b"abc"),
    Case("an empty binary frame", "5.6", frame(2) + frame(2, b"x"), b"x"),
    Case("125 bytes", "5.2", frame(2, b"a" * 125), b"a" * 125),
    Case("126 bytes", "5.2", frame(2, b"a" * 126), b"a" * 126),
    Case("65535 bytes", "5.2", frame(2, LONG[:65535]), LONG[:65535]),
    Case("65536 bytes", "5.2", frame(2, LONG[:65536]), LONG[:65536]),
    Case("70000 bytes", "5.2", frame(2, LONG), LONG),
    Case("a zero mask", "5.3", frame(2, b"abc", key=bytes(4)), b"abc"),
    Case(
        "fragments",
        "5.4",
        frame(2, b"a", fin=False) + frame(0, b"b", fin=False) + frame(0, b"c"),
        b"abc",
    ),
    Case(
        "empty fragments",
        "5.4",
        frame(2, b"", fin=False) + frame(0, b"", fin=False) + frame(0, b"c"),
        b"c",
    ),
    Case(
        "a ping between fragments",
        "5.4",
        frame(2, b"a", fin=False) + frame(9, b"p") + frame(0, b"b"),
        b"ab",
        pong=b"p",
    ),
    Case("a ping", "5.5.2", frame(9, b"hello"), pong=b"hello"),
    Case("an empty ping", "5.5.2", frame(9), pong=b""),
    Case("a ping of 125 bytes", "5.5", frame(9, b"p" * 125), pong=b"p" * 125),
    Case("several pings", "5.5.3", frame(9, b"1") + frame(9, b"2") + frame(9, b"3"), pong=b"3"),
    Case("an unsolicited pong", "5.5.3", frame(10, b"x") + frame(2, b"y"), b"y"),
    Case("a ping of 126 bytes", "5.5", frame(9, b"p" * 126), close=1002),
    Case("a fragmented ping", "5.5", frame(9, b"p", fin=False), close=1002),
    Case("a fragmented close", "5.5", frame(8, b"", fin=False), close=1002),
    Case("a close of 126 bytes", "5.5", frame(8, b"\x03\xe8" + b"r" * 124), close=1002),
    *(
        Case(f"reserved bits {bits:03b}", "5.2", frame(2, b"a", rsv=bits), close=1002)
        for bits in range(1, 8)
    ),
    Case("a reserved bit in a ping", "5.2", frame(9, b"a", rsv=4), close=1002),
    *(
        Case(f"opcode {opcode:#x}", "5.2", frame(opcode, b"a"), close=1002)
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    ),
    Case("a continuation of nothing", "5.4", frame(0, b"a"), close=1002),
    Case(
        "a continuation of a whole message",
        "5.4",
        frame(2, b"a") + frame(0, b"b"),
        b"a",
        close=1002,
    ),
    Case(
        "a message within a message",
        "5.4",
        frame(2, b"a", fin=False) + frame(2, b"b"),
        b"a",
        close=1002,
    ),
    Case("a text frame", "7.4.1", frame(1, b"a"), close=1003),
    Case("an unmasked frame", "5.1", frame(2, b"a", key=b""), close=1002),
    Case("an unmasked ping", "5.1", frame(9, b"a", key=b""), close=1002),
    Case(
        "a 16-bit length for 125 bytes",
        "5.2",
        frame(2, b"a" * 125, length=b"\x7e\x00\x7d"),
        close=1002,
    ),
    Case(
        "a 64-bit length for 65535 bytes",
        "5.2",
        frame(2, b"a", length=b"\x7f" + (65535).to_bytes(8, "big")),
        close=1002,
    ),
    Case(
        "a length with the top bit", "5.2", frame(2, b"", length=b"\x7f" + b"\xff" * 8), close=1002
    ),
    Case(
        "a length of 2**63 - 1", "5.2", frame(2, b"abc", length=b"\x7f\x7f" + b"\xff" * 7), b"abc"
    ),
    Case("a close without a status", "5.5.1", frame(8), close=1000, ends=True),
    Case("a close with a reason", "5.5.1", frame(8, b"\x03\xe8bye"), close=1000, ends=True),
    *(
        Case(
            f"close status {code}", "7.4", frame(8, code.to_bytes(2, "big")), close=code, ends=True
        )
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014, 3000, 4999)
    ),
    *(
        Case(f"close status {code}", "7.4", frame(8, code.to_bytes(2, "big")), close=1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)
    ),
    Case("half a close status", "5.5.1", frame(8, b"\x03"), close=1002),
    Case("a close reason that is not UTF-8", "5.5.1", frame(8, b"\x03\xe8\xff"), close=1007),
    Case(
        "a close reason cut within a character", "5.5.1", frame(8, b"\x03\xe8\xe2\x82"), close=1007
    ),
    Case(
        "data after a close",
        "5.5.1",
        frame(8, b"\x03\xe8") + frame(2, b"late"),
        close=1000,
        ends=True,
    ),
)


@pytest.mark.parametrize("pieces", ["at once", "byte by byte"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section} {case.name}")
def test_a_server_does_what_rfc_6455_says(case: Case, pieces: str) -> None:
    codec = WebSocketCodec(None)
    wire = [case.wire] if pieces == "at once" else [bytes((byte,)) for byte in case.wire]
    payload = bytearray()
    answers = bytearray()
    fault = None
    try:
        for piece in wire:
            for part in codec.decode(memoryview(piece)):
                payload += part
            answers = bytearray(b"".join(codec.take_replies())) or answers
    except FrameFault as error:
        fault = error
    assert payload == case.payload or (fault and pieces == "at once")
    assert (fault is not None) is bool(case.close and not case.ends)
    if fault is not None:
        assert b"".join(codec.encode_farewell(fault)) == encode_close(case.close)
        assert codec.encode_end() == []  # nothing follows a close frame
    else:
        assert codec.ended is case.ends
        expected = b"" if case.pong is None else encode_control(Opcode.PONG, case.pong)
        assert answers == expected
        if case.ends:
            assert b"".join(codec.encode_end()) == encode_close(case.close)


def test_a_client_refuses_a_masked_frame_of_a_server() -> None:
    with pytest.raises(FrameFault, match="masked frame came from a server"):
        FrameReader(masked=False).feed(frame(2, b"a"))


def test_a_fault_is_seen_before_the_rest_of_the_frame_is_awaited() -> None:
    with pytest.raises(FrameFault, match="reserved bit"):
        FrameReader(masked=True).feed(b"\xf2\x80")


@pytest.mark.parametrize(
    ("length", "key", "header"),
    [
        (0, b"", "8200"),
        (125, b"", "827d"),
        (126, b"", "827e007e"),
        (65535, b"", "827effff"),
        (65536, b"", "827f0000000000010000"),
        (5, KEY, "828537fa213d"),
        (65536, bytes(4), "82ff000000000001000000000000"),
    ],
)
def test_a_header_has_the_fewest_bytes_there_are(length: int, key: bytes, header: str) -> None:
    assert encode_header(Opcode.BINARY, length, key).hex() == header


def test_the_masked_hello_of_the_rfc_is_read_and_written() -> None:
    wire = bytes.fromhex("818537fa213d7f9f4d5158")  # section 5.7
    binary = b"\x82" + wire[1:]
    assert b"".join(FrameReader(masked=True).feed(binary)) == b"Hello"
    codec = WebSocketCodec(MaskMode.STANDARD, lambda: KEY)
    assert b"".join(codec.encode([b"Hello"])) == binary


@pytest.mark.parametrize("mode", list(MaskMode))
def test_each_mask_mode_has_its_keys(mode: MaskMode) -> None:
    fresh = iter(range(1, 100))
    codec = WebSocketCodec(mode, lambda: next(fresh).to_bytes(4, "big"))
    keys = [bytes(codec.encode([b"abc"])[0][2:6]) for _ in range(3)]
    assert all(codec.encode([b"abc"])[0][1] & 0x80 for _ in range(2))
    if mode is MaskMode.SKIP:
        assert set(keys) == {bytes(4)}
        assert codec.raw_out
    else:
        assert len(set(keys)) == (1 if mode is MaskMode.FIXED else 3)
        assert bytes(4) not in keys
        assert not codec.raw_out


def test_a_flood_of_pings_leaves_one_pong() -> None:
    codec = WebSocketCodec(None)
    flood = b"".join(frame(9, number.to_bytes(4, "big")) for number in range(10000))
    assert codec.decode(memoryview(flood)) == []
    assert codec.take_replies() == [encode_control(Opcode.PONG, (9999).to_bytes(4, "big"))]
    assert codec.take_replies() == []


@given(st.binary(max_size=600), st.binary(min_size=4, max_size=4), st.integers(0, 7))
def test_masking_is_the_exclusive_or_of_each_byte(data: bytes, key: bytes, offset: int) -> None:
    expected = bytes(byte ^ key[(offset + index) % 4] for index, byte in enumerate(data))
    assert apply_mask(data, key, offset) == expected
    assert apply_mask(memoryview(bytearray(data)), key, offset) == expected
    turned = key[offset % 4 :] + key[: offset % 4]
    assert apply_mask_with_integers(data, turned) == expected


@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=20), st.data())
def test_any_frames_in_any_pieces_give_the_same_stream(
    messages: list[tuple[bytes, bool]], data: st.DataObject
) -> None:
    wire = b"".join(
        frame(2, payload) + (frame(9, payload[:50]) if pinged else b"")
        for payload, pinged in messages
    )
    reader = FrameReader(masked=True)
    received = bytearray()
    position = 0
    while position < len(wire):
        count = data.draw(st.integers(1, 64))
        for piece in reader.feed(wire[position : position + count]):
            received += piece
        position += count
    assert received == b"".join(payload for payload, _ in messages)
    assert len(reader.controls) == sum(pinged for _, pinged in messages)


@given(st.binary(max_size=200))
def test_garbage_is_payload_or_a_fault_and_nothing_else(garbage: bytes) -> None:
    for masked in (True, False):
        assert outcome(FrameReader(masked), garbage) in {*range(len(garbage) + 1), 1002, 1003, 1007}


def outcome(reader: FrameReader, data: bytes) -> int:
    """The close code of the fault, or else how many bytes of payload came out."""
    try:
        return sum(map(len, reader.feed(data)))
    except FrameFault as fault:
        return fault.close_code
