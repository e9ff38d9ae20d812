# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.frames: checksums, and the frames that the daemon sends."""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimicd.core.abi import Operation, encode_command, encode_flow
from mimicd.core.frames import checksum, command_frame, finish_checksum, ones_complement_sum

ETHERNET = bytes.fromhex("020000000002020000000001")
TAGS = bytes.fromhex("88a8000781006005")
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(
    lambda address: address.version == 4 or address.ipv4_mapped is None
)
ports = st.integers(1, 65535)
Address = IPv4Address | IPv6Address


def slow_sum(data: bytes) -> int:
    """RFC 1071 section 1, word by word with the carry brought round each time."""
    total = 0
    for at in range(0, len(data), 2):
        word = data[at] << 8 | (data[at + 1] if at + 1 < len(data) else 0)
        total += word
        if total > 0xFFFF:
            total -= 0xFFFF
    return total


def slow_udp_checksum(source: Address, target: Address, udp: bytes) -> int:
    """RFC 768 and RFC 8200 section 8.1."""
    length = len(udp).to_bytes(4, "big")
    pseudo = source.packed + target.packed + length + b"\0\0\0\x11"
    return (~slow_sum(pseudo + udp[:6] + b"\0\0" + udp[8:]) & 0xFFFF) or 0xFFFF


def test_the_example_of_rfc_1071_sums_as_it_says() -> None:
    assert ones_complement_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D


def test_a_header_with_its_own_checksum_sums_to_all_ones() -> None:
    header = bytes.fromhex("45000073000040004011b861c0a80001c0a800c7")
    assert ones_complement_sum(header) == 0xFFFF
    assert checksum(header[:10] + b"\0\0" + header[12:]) == 0xB861


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"\0", 0),
        (b"\0" * 5, 0),
        (b"\1", 0x0100),
        (b"\0\1\2", 0x0201),
        (b"\xff\xff", 0xFFFF),
        (b"\xff\xff\0\0", 0xFFFF),
        (b"\xff\xff\0\1", 0x0001),
        (b"\xff\xfe\0\1", 0xFFFF),
        (b"\xff" * 3, 0xFF00),
        (b"\xff" * 65535, 0xFF00),
    ],
)
def test_sums_of_odd_lengths_and_of_ones(data: bytes, expected: int) -> None:
    assert ones_complement_sum(data) == expected
    assert checksum(data) == 0xFFFF - expected


@given(st.binary(max_size=300))
@example(b"\xff" * 7)
def test_sums_are_those_of_the_definition(data: bytes) -> None:
    assert ones_complement_sum(data) == slow_sum(data)


def test_a_command_frame_of_ipv4_has_these_bytes() -> None:
    key = encode_flow(IPv4Address("192.0.2.1"), 51820, IPv4Address("203.0.113.5"), 443)
    frame = command_frame(ETHERNET + b"\x08\0", key, b"twelve bytes")
    assert (
        frame
        == ETHERNET
        + b"\x08\0"
        + bytes.fromhex("450000280000400040113cbec0000201cb007105ca6c01bb00140000")
        + b"twelve bytes"
    )


def test_a_command_frame_of_ipv6_has_these_bytes() -> None:
    key = encode_flow(IPv6Address("2001:db8::1"), 51820, IPv6Address("2001:db8::5"), 443)
    frame = command_frame(ETHERNET + b"\x86\xdd", key, b"odd")
    assert (
        frame
        == ETHERNET
        + b"\x86\xdd"
        + bytes.fromhex(
            "60000000000b1140"
            "20010db8000000000000000000000001"
            "20010db8000000000000000000000005"
            "ca6c01bb000b0000"
        )
        + b"odd"
    )


@given(addresses, ports, addresses, ports, st.sampled_from([b"", ETHERNET, ETHERNET + TAGS]))
def test_a_command_frame_is_a_right_packet_behind_any_link_header(
    local: Address, local_port: int, remote: Address, remote_port: int, link: bytes
) -> None:
    if local.version != remote.version:
        remote = ip_address(remote.packed[:4] if local.version == 4 else remote.packed * 4)
    payload = encode_command(Operation.KEEPALIVE, 3)
    frame = command_frame(link, encode_flow(local, local_port, remote, remote_port), payload)
    assert frame.startswith(link)
    packet = frame[len(link) :]
    if local.version == 4:
        assert slow_sum(packet[:20]) == 0xFFFF
        assert int.from_bytes(packet[2:4], "big") == len(packet) == 20 + 8 + 12
        assert packet[12:20] == local.packed + remote.packed
        udp = packet[20:]
    else:
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40 == 8 + 12
        assert packet[8:40] == local.packed + remote.packed
        udp = packet[40:]
    assert struct.unpack_from("!HHH", udp) == (local_port, remote_port, len(udp))
    assert udp[8:] == payload


@given(st.data(), st.binary(max_size=200), st.integers(0, 0xFFFF), st.sampled_from([b"", ETHERNET]))
def test_an_unfinished_checksum_is_finished(
    data: st.DataObject, payload: bytes, left: int, link: bytes
) -> None:
    family = data.draw(st.sampled_from([st.ip_addresses(v=4), st.ip_addresses(v=6)]))
    local, remote = data.draw(family), data.draw(family)
    version = local.version
    length = 8 + len(payload)
    # what the kernel left in the field is the sum of the pseudo-header, and no matter
    udp = struct.pack("!4H", 51820, 443, length, left) + payload
    network = bytes(range(20 if version == 4 else 56))
    trailer = b"link padding"
    frame = link + network + udp + trailer
    key = encode_flow(local, 51820, remote, 443)
    if version == 6 and IPv6Address(local).ipv4_mapped is not None:
        return
    at = len(link) + len(network)
    finished = finish_checksum(frame, at, key)
    expected = slow_udp_checksum(local, remote, udp)
    assert finished == frame[: at + 6] + expected.to_bytes(2, "big") + frame[at + 8 :]


def test_a_checksum_that_comes_out_as_zero_is_sent_as_all_ones() -> None:
    """RFC 768: zero says that there is none."""
    local, remote = IPv4Address("192.0.2.1"), IPv4Address("203.0.113.5")
    udp = struct.pack("!4H", 1, 2, 10, 0) + b"\0\0"
    last = slow_udp_checksum(local, remote, udp)
    udp = udp[:8] + last.to_bytes(2, "big")
    finished = finish_checksum(udp, 0, encode_flow(local, 1, remote, 2))
    assert finished[6:8] == b"\xff\xff"
