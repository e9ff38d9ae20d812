# SPDX-License-Identifier: GPL-2.0-only
"""Messages of varlink in literal bytes, and anything else that may come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicd.varlink.wire import (
    Call,
    MessageBuffer,
    Reply,
    WireError,
    decode_call,
    decode_reply,
)

LIMIT_BYTES = 1000
MESSAGES = st.lists(st.binary(max_size=60).filter(lambda raw: b"\0" not in raw), max_size=6)


def test_a_call_in_literal_bytes() -> None:
    raw = b'{"method":"org.mimicd1.Stop","parameters":{"interface":"eth0"},"more":true}\0'
    call = Call("org.mimicd1.Stop", {"interface": "eth0"}, more=True)
    assert call.encode() == raw
    assert decode_call(raw[:-1]) == call
    assert decode_call(b'{"method":"a.b"}') == Call("a.b", {})


def test_replies_in_literal_bytes() -> None:
    raw = b'{"parameters":{"a":1},"continues":true}\0'
    assert Reply({"a": 1}, continues=True).encode() == raw
    assert decode_reply(raw[:-1]) == Reply({"a": 1}, continues=True)
    raw = b'{"parameters":{"message":"no"},"error":"org.mimicd1.NotRunning"}\0'
    assert Reply({"message": "no"}, error="org.mimicd1.NotRunning").encode() == raw
    assert decode_reply(raw[:-1]) == Reply({"message": "no"}, error="org.mimicd1.NotRunning")


def test_what_cannot_be_in_a_text_is_not_in_a_message() -> None:
    raw = Reply({"text": "\0\ud800\x1b"}).encode()
    assert raw.isascii()
    assert raw.index(b"\0") == len(raw) - 1


@given(MESSAGES, st.integers(1, 20))
def test_messages_come_out_whole_however_the_bytes_are_cut(sent: list[bytes], step: int) -> None:
    raw = b"".join(one + b"\0" for one in sent)
    buffer = MessageBuffer(LIMIT_BYTES)
    found = [one for at in range(0, len(raw), step) for one in buffer.feed(raw[at : at + step])]
    assert found == sent


@pytest.mark.parametrize("step", [1, 7, 2000])
def test_a_message_that_is_too_long_is_refused_before_its_end(step: int) -> None:
    buffer = MessageBuffer(LIMIT_BYTES)
    assert list(buffer.feed(bytes(b"x" * LIMIT_BYTES) + b"\0")) == [b"x" * LIMIT_BYTES]
    for _ in range(LIMIT_BYTES // step):
        assert list(buffer.feed(b"x" * step)) == []
    with pytest.raises(WireError, match="may have"):
        list(buffer.feed(b"x" * step))


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-16")))
def test_bytes_that_are_no_call_are_a_fault_and_nothing_else(raw: bytes) -> None:
    for decode in (decode_call, decode_reply):
        try:
            decode(raw)
        except WireError:
            continue


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"7",
        b"{}",
        b'{"method":1}',
        b'{"method":"a.b","parameters":[]}'.replace(b"[]", b"[1]"),
        b"[" * 100_000,
        b'{"method":' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_call_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        decode_call(raw)
