# SPDX-License-Identifier: GPL-2.0-only
"""Bytes cut into messages, however they arrive."""

import pytest
from dbus_next.message import Message
from hypothesis import given
from hypothesis import strategies as st

from mimicd.bus.frames import Frame, FrameBuffer, FramingError

LIMIT_BYTES = 1000


def packed(text: str, path: str = "/a") -> bytes:
    call = Message(path=path, member="Say", signature="s", body=[text], serial=5)
    return bytes(call._marshall())  # type: ignore[no-untyped-call]


def frames_of(buffer: FrameBuffer) -> list[Frame]:
    return list(iter(buffer.next_frame, None))


@given(st.lists(st.text(max_size=300), max_size=6), st.data())
def test_messages_come_out_whole_however_the_bytes_are_cut(
    texts: list[str], data: st.DataObject
) -> None:
    messages = [packed(text) for text in texts]
    stream = b"".join(messages)
    limit = max(map(len, messages), default=16)
    buffer = FrameBuffer(limit)
    found = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        buffer.feed(stream[:cut])
        found += frames_of(buffer)
        stream = stream[cut:]
    assert found == [Frame(message) for message in messages]


@given(st.integers(1, 400))
def test_of_a_large_message_the_head_remains_and_the_next_one_is_whole(chunk: int) -> None:
    large, small = packed("x" * 5000), packed("y")
    buffer = FrameBuffer(LIMIT_BYTES)
    stream = large + small + large + small
    found = []
    for at in range(0, len(stream), chunk):
        buffer.feed(stream[at : at + chunk])
        found += frames_of(buffer)
    head = bytearray(large[: len(large) - 5005])
    head[4:8] = bytes(4)
    assert found == [Frame(bytes(head), oversized=True), Frame(small)] * 2


def test_a_message_whose_head_is_too_large_is_skipped_whole() -> None:
    buffer = FrameBuffer(LIMIT_BYTES)
    stream = packed("x", path="/" + "p" * 2000) + packed("y")
    for at in range(0, len(stream), 100):
        buffer.feed(stream[at : at + 100])
        if buffer.ignored:
            break
    buffer.feed(stream[at + 100 :])
    assert frames_of(buffer) == [Frame(packed("y"))]
    assert buffer.ignored == 1


def test_big_endian_lengths_are_understood() -> None:
    message = b"B\x01\0\x01" + bytes(3) + b"\x04" + bytes(3) + b"\x05" + bytes(3) + b"\x03"
    message += b"abc" + bytes(5) + b"body"
    buffer = FrameBuffer(LIMIT_BYTES)
    buffer.feed(message)
    assert frames_of(buffer) == [Frame(message)]


@pytest.mark.parametrize("start", [b"HTTP", b"l\x01\0\x02", b"\0\0\0\0"])
def test_what_is_no_message_is_refused(start: bytes) -> None:
    buffer = FrameBuffer(LIMIT_BYTES)
    buffer.feed(start + bytes(12))
    with pytest.raises(FramingError, match=f"begins with {start.hex()}"):
        buffer.next_frame()
