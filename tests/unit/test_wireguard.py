# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.wireguard: what WireGuard answers, in both of its languages, and what it means."""

import re
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicd.core.model import PADDING_RANDOM, FlowSettings
from mimicd.core.wireguard import (
    Tunnel,
    decode_device,
    decode_family,
    encode_device_request,
    encode_family_request,
    error_of,
    filters_of,
    is_last,
    mtu_bytes,
    parse_answer,
)

FAMILY = 29
HEADER = Path("/usr/include/linux/wireguard.h")

ANSWER = """\
private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a
listen_port=12912
public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33
endpoint=[2001:db8::5]:51820
allowed_ip=192.168.4.4/32
public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376
tx_bytes=38333
endpoint=182.122.22.19:3233
public_key=662e14fd594556f522604703340351258903b64f35553763f19426ab2a515c58
protocol_version=1
errno=0

"""


def test_the_answer_of_a_program_is_understood() -> None:
    assert parse_answer(ANSWER) == Tunnel(
        12912, ((ip_address("182.122.22.19"), 3233), (ip_address("2001:db8::5"), 51820))
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ANSWER.replace("errno=0", "errno=19"), "error number 19"),
        (ANSWER.replace("errno=0\n", ""), "ends before its end"),
        ("", "ends before its end"),
        (ANSWER.replace("182.122.22.19:3233", "somewhere"), "IP"),
        (ANSWER.replace(":3233", ":port"), "port"),
    ],
)
def test_an_answer_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_answer(text)


def test_an_interface_that_does_nothing_yet_has_no_port_and_no_peers() -> None:
    assert parse_answer("listen_port=0\nerrno=0\n\n") == Tunnel()
    assert parse_answer("errno=0\n\n") == Tunnel()


def test_endpoints_that_are_no_ones_are_left_out() -> None:
    text = "endpoint=0.0.0.0:1\nendpoint=192.0.2.1:0\nendpoint=[fe80::1%eth0]:7\nerrno=0\n\n"
    assert parse_answer(text) == Tunnel(0, ((ip_address("fe80::1"), 7),))


@given(st.text())
def test_any_text_is_an_answer_or_refused(text: str) -> None:
    try:
        parse_answer(text + "\nerrno=0\n")
    except ValueError:
        return


# Generic netlink: messages made by hand after include/uapi/linux/wireguard.h.


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes, generic: bool = True) -> bytes:
    body = (struct.pack("=BBH", 0, 1, 0) if generic else b"") + body
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 2, 7) + body + bytes(-len(body) % 4)


NESTED = 0x8000
V4_END = struct.pack("=H", 2) + struct.pack("!H", 3233) + bytes([192, 0, 2, 7]) + bytes(8)
V6_END = (
    struct.pack("=H", 10)
    + struct.pack("!HI", 51820, 0)
    + ip_address("2001:db8::5").packed
    + bytes(4)
)


def peer(number: int, endpoint: bytes = b"") -> bytes:
    inside = attribute(1, bytes(32)) + (attribute(4, endpoint) if endpoint else b"")
    return attribute(number | NESTED, inside + attribute(5, b"\x19\0"))


FIRST = message(
    FAMILY,
    attribute(2, b"wg0\0")
    + attribute(3, b"secret" * 5 + b"ab")
    + attribute(6, struct.pack("=H", 51820))
    + attribute(8 | NESTED, peer(0, V4_END) + peer(1)),
)
SECOND = message(FAMILY, attribute(2, b"wg0\0") + attribute(8 | NESTED, peer(0, V6_END)))
DONE = message(3, struct.pack("=i", 0), generic=False)


def test_the_answers_of_the_kernel_are_put_together() -> None:
    ends = ((ip_address("192.0.2.7"), 3233), (ip_address("2001:db8::5"), 51820))
    assert decode_device(FIRST + SECOND + DONE, FAMILY) == Tunnel(51820, ends)
    assert decode_device(FIRST + SECOND + DONE, FAMILY + 1) == Tunnel()
    assert not is_last(FIRST + SECOND)
    assert is_last(FIRST + DONE)
    assert error_of(FIRST + DONE) == 0


def test_an_error_of_the_kernel_is_its_number() -> None:
    no_device = message(2, struct.pack("=i", -19), generic=False)
    assert is_last(no_device)
    assert error_of(no_device) == 19
    assert decode_family(message(2, struct.pack("=i", -2), generic=False)) is None


def test_the_family_is_asked_for_by_its_name() -> None:
    assert encode_family_request(1) == struct.pack("=IHHII", 36, 16, 1, 1, 0) + bytes.fromhex(
        "03010000 0e000200" + b"wireguard\0".hex() + "0000"
    )
    answer = message(16, attribute(2, b"wireguard\0") + attribute(1, struct.pack("=H", FAMILY)))
    assert decode_family(answer) == FAMILY


def test_an_interface_is_asked_for_by_its_name() -> None:
    assert encode_device_request(FAMILY, "wg0", 2) == struct.pack(
        "=IHHII", 28, FAMILY, 0x301, 2, 0
    ) + bytes.fromhex("00010000 08000200 77673000")


@given(st.binary(max_size=200), st.integers(0, 255))
def test_any_bytes_are_an_answer_or_refused(raw: bytes, at: int) -> None:
    damaged = bytearray(FIRST + SECOND)
    damaged[at % len(damaged) :] = raw
    try:
        decode_device(bytes(damaged), FAMILY)
        decode_device(raw, FAMILY)
    except (ValueError, struct.error):
        return


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("WGDEVICE_A_IFNAME", 2),
        ("WGDEVICE_A_LISTEN_PORT", 6),
        ("WGDEVICE_A_PEERS", 8),
        ("WGPEER_A_ENDPOINT", 4),
        ("WG_CMD_GET_DEVICE", 0),
    ],
)
def test_the_numbers_are_those_of_the_systems_header(name: str, number: int) -> None:
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    (inside,) = (
        body for body in re.findall(r"enum \w+ \{(.*?)\}", text, re.DOTALL) if name in body
    )
    names = [word.split()[0] for word in inside.split(",") if word.strip()]
    assert names.index(name) == number


# What it means.


def test_its_packets_are_known_by_port_and_by_endpoints() -> None:
    tunnel = Tunnel(7, ((ip_address("192.0.2.7"), 8),))
    settings = FlowSettings(padding=4)
    found = filters_of("wg0", tunnel, settings)
    assert [one.text() for one in found] == [
        "local=0.0.0.0:7",
        "local=[::]:7",
        "remote=192.0.2.7:8",
    ]
    assert {one.settings for one in found} == {settings}
    assert filters_of("wg0", Tunnel(), settings) == []


@pytest.mark.parametrize(("padding", "expected"), [(0, 1408), (16, 1392), (PADDING_RANDOM, 1398)])
def test_the_mtu_leaves_room_for_all_headers(padding: int, expected: int) -> None:
    assert mtu_bytes(1500, padding) == expected
