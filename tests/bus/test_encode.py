# SPDX-License-Identifier: GPL-2.0-only
"""What is packed by hand, read back by the library, and a list of literal bytes."""

import io
import string
from typing import Any

from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.message import Message
from hypothesis import given
from hypothesis import strategies as st

from mimicd.bus import encode, names
from mimicd.core.connection import Connection, Role, State
from tests.bus.caller import plain
from tests.bus.fake_manager import connection

UINT32 = st.integers(0, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)
SECONDS = st.floats(0, 1e9)
# What the bus can carry: no NUL, no lone surrogate.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)

CONNECTIONS = st.builds(
    Connection,
    local=TEXT,
    remote=TEXT,
    state=st.sampled_from(State),
    role=st.sampled_from(Role),
    seq=UINT32,
    ack=UINT32,
    window=UINT32,
    peer_window=UINT32,
    peer_mss=UINT32,
    filter=TEXT,
    age_s=SECONDS,
    idle_s=SECONDS,
    cooldown_s=SECONDS,
    tx_packets=UINT64,
    tx_bytes=UINT64,
    rx_packets=UINT64,
    rx_bytes=UINT64,
    held=UINT32,
    drops=st.dictionaries(st.text(string.ascii_lowercase, max_size=9), UINT64, max_size=4),
    note=TEXT,
    interface=TEXT,
)


def read(data: bytes) -> Message:
    """The message, which must end where the bytes do."""
    unmarshaller = Unmarshaller(io.BytesIO(data))  # type: ignore[no-untyped-call]
    message: Message | None = unmarshaller.unmarshall()  # type: ignore[no-untyped-call]
    assert message is not None
    assert unmarshaller.offset == len(data)
    return message


def repacked(message: Message) -> bytes:
    """The same body as the library packs it."""
    from dbus_next._private.marshaller import Marshaller

    return bytes(Marshaller(message.signature, message.body).marshall())  # type: ignore[no-untyped-call]


@given(st.lists(CONNECTIONS, max_size=5), st.integers(1, 2**32 - 1))
def test_a_list_of_connections_reads_back(connections: list[Connection], serial: int) -> None:
    listed = encode.ConnectionList()
    listed.add(connections)
    body = bytes(listed.body())
    message = read(encode.encode_method_return(serial, 7, ":1.23", "aa{sv}", body))
    assert plain(message.body) == [[one.as_plain() for one in connections]]
    assert (message.serial, message.reply_serial, message.destination) == (serial, 7, ":1.23")
    assert repacked(message) == body


@given(CONNECTIONS)
def test_a_changed_connection_reads_back(changed: Connection) -> None:
    body = encode.encode_connection_changed(changed)
    message = read(
        encode.encode_signal(1, "/org/mimicd1", names.MANAGER, "ConnectionChanged", "sa{sv}", body)
    )
    assert plain(message.body) == [changed.interface, changed.as_plain()]
    assert (message.path, message.interface) == ("/org/mimicd1", names.MANAGER)
    assert message.member == "ConnectionChanged"
    assert repacked(message) == body


@given(TEXT, UINT32, TEXT)
def test_a_log_line_reads_back(interface: str, level: int, text: str) -> None:
    body = encode.encode_log(interface, level, text)
    message = read(encode.encode_signal(9, "/a/b", "c.d", "Log", "sus", body))
    assert message.body == [interface, level, text]
    assert repacked(message) == body


@given(st.text(max_size=60))
def test_any_text_can_be_cleaned_for_the_bus(text: str) -> None:
    clean = encode.clean_text(text)
    assert "\0" not in clean
    assert len(clean) == len(text)
    assert clean == text or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text)
    body = encode.encode_log("", 0, text)
    (_, _, carried) = read(encode.encode_signal(9, "/", "c.d", "Log", "sus", body)).body
    assert len(carried) == len(text)


def test_every_key_of_a_connection_has_a_type_on_the_bus() -> None:
    assert set(connection(1).as_plain()) == set(names.CONNECTION_SIGNATURES)


def test_a_log_signal_in_literal_bytes() -> None:
    body = encode.encode_log("eth0", 2, "up")
    assert body == b"\x04\0\0\0eth0\0\0\0\0\x02\0\0\0\x02\0\0\0up\0"
    message = encode.encode_signal(258, "/a", "b.c", "Log", "sus", body)
    expected: Any = (
        b"l\x04\x01\x01" b"\x17\0\0\0" b"\x02\x01\0\0" b"\x39\0\0\0"
        b"\x01\x01o\0" b"\x02\0\0\0/a\0" b"\0\0\0\0\0"
        b"\x02\x01s\0" b"\x03\0\0\0b.c\0" b"\0\0\0\0"
        b"\x03\x01s\0" b"\x03\0\0\0Log\0" b"\0\0\0\0"
        b"\x08\x01g\0" b"\x03sus\0" b"\0\0\0\0\0\0\0"
    )  # fmt: skip
    assert message == expected + body
