# SPDX-License-Identifier: GPL-2.0-only
"""The scripted peer's packets and datagrams, byte for byte."""

import pytest

from tests.rig.segment import (
    ACK,
    PSH,
    RANDOM_PADDING,
    SYN,
    Segment,
    SynOptions,
    checksum,
    decode_datagram,
    decode_packet,
    decode_syn_options,
    encode_datagram,
    encode_packet,
    encode_syn_options,
    end,
    padding_bytes,
    sequence_after,
)

A4, B4 = end("192.0.2.2", 51820), end("198.51.100.2", 443)
A6, B6 = end("2001:db8:a::2", 51820), end("2001:db8:b::2", 443)

DATA_SEGMENT = Segment(
    A4,
    B4,
    PSH | ACK,
    seq=0x01020304,
    ack=0x05060708,
    window=0x3400,
    payload=b"mnopqrstabcdefghijkl",
)
DATA_BYTES = bytes.fromhex(
    "4500003c 00004000 40064e84 c0000202 c6336402"  # IPv4: 60 bytes, DF, TTL 64, protocol 6
    "ca6c01bb 01020304 05060708 50183400 8b120000"  # TCP: offset 5, PSH and ACK, window 0x3400
    "6d6e6f70 71727374 61626364 65666768 696a6b6c"
)
SYN_SEGMENT = Segment(
    A6, B6, SYN, seq=0xFFFFFFFE, window=0xFFFF, options=encode_syn_options(1440, 12)
)
SYN_BYTES = bytes.fromhex(
    "60000000 00200640"  # IPv6: 32 bytes, next header 6, hop limit 64
    "20010db8 000a0000 00000000 00000002 20010db8 000b0000 00000000 00000002"
    "ca6c01bb fffffffe 00000000 8002ffff 476f0000"  # TCP: offset 8, SYN, window 65535
    "020405a0 0103030c 01010402"  # MSS 1440; NOP, scale 12; NOP, NOP, SACK permitted
)

TWENTY = b"abcdefghijklmnopqrst"
PAYLOADS = [
    # datagram, padding, TCP payload
    (b"", 0, b""),
    (b"", 2, b"\0\0"),
    (b"a", 0, b"a"),
    (b"abcde", 3, b"\0\0\0abcde"),
    (b"abcdefghijkl", 0, b"abcdefghijkl"),
    (b"abcdefghijklm", 0, b"mabcdefghijkl"),
    (TWENTY, 0, b"mnopqrst" + b"abcdefghijkl"),
    (TWENTY, 3, b"\0\0\0" + b"pqrst" + b"abcdefghijklmno"),
    (TWENTY, 8, bytes(8) + TWENTY),
    (TWENTY, 16, bytes(16) + TWENTY),
]


@pytest.mark.parametrize(
    ("segment", "packet"), [(DATA_SEGMENT, DATA_BYTES), (SYN_SEGMENT, SYN_BYTES)], ids=["v4", "v6"]
)
def test_a_segment_is_these_bytes_and_they_are_this_segment(
    segment: Segment, packet: bytes
) -> None:
    assert encode_packet(segment) == packet
    assert decode_packet(packet) == segment


@pytest.mark.parametrize("packet", [DATA_BYTES, SYN_BYTES], ids=["v4", "v6"])
def test_a_changed_byte_of_the_segment_is_noticed(packet: bytes) -> None:
    start = 20 if packet is DATA_BYTES else 40
    for index in range(start, len(packet)):
        changed = bytearray(packet)
        changed[index] ^= 0x55
        decoded = decode_packet(bytes(changed))
        assert decoded is None or not decoded.checksum_right


def test_a_wrong_ipv4_header_checksum_is_noticed() -> None:
    changed = DATA_BYTES[:10] + b"\xff\xff" + DATA_BYTES[12:]
    decoded = decode_packet(changed)
    assert decoded is not None
    assert not decoded.checksum_right


def test_a_segment_can_be_sent_with_a_wrong_checksum() -> None:
    decoded = decode_packet(encode_packet(DATA_SEGMENT, wrong_checksum=True))
    assert decoded is not None
    assert not decoded.checksum_right
    assert decoded.payload == DATA_SEGMENT.payload


@pytest.mark.parametrize("length", range(len(DATA_BYTES)))
def test_a_packet_cut_short_is_no_segment(length: int) -> None:
    assert decode_packet(DATA_BYTES[:length]) is None


def test_what_follows_the_ip_packet_in_the_frame_is_not_payload() -> None:
    assert decode_packet(DATA_BYTES + bytes(6)) == DATA_SEGMENT
    assert decode_packet(SYN_BYTES + bytes(6)) == SYN_SEGMENT


def test_fragments_and_other_protocols_are_no_segments() -> None:
    more_fragments = DATA_BYTES[:6] + b"\x20\x00" + DATA_BYTES[8:]
    udp = DATA_BYTES[:9] + b"\x11" + DATA_BYTES[10:]
    assert decode_packet(more_fragments) is None
    assert decode_packet(udp) is None


@pytest.mark.parametrize(("datagram", "padding", "payload"), PAYLOADS)
def test_a_datagram_is_padded_and_its_head_moves_to_the_end(
    datagram: bytes, padding: int, payload: bytes
) -> None:
    assert encode_datagram(datagram, padding, seq=7, ack=9) == payload
    assert decode_datagram(payload, padding, seq=7, ack=9) == datagram


@pytest.mark.parametrize("padding", [*range(17), RANDOM_PADDING])
def test_every_size_comes_back_whatever_the_padding(padding: int) -> None:
    for size in range(80):
        datagram = bytes(range(size))
        seq, ack = 0xFFFFFFC0 + size, 1000 * size
        payload = encode_datagram(datagram, padding, seq, ack)
        assert len(payload) == size + padding_bytes(padding, seq, ack)
        assert decode_datagram(payload, padding, seq, ack) == datagram


def test_random_padding_is_the_wrapped_sum_of_seq_and_ack_modulo_11() -> None:
    assert padding_bytes(RANDOM_PADDING, 5, 5) == 10
    assert padding_bytes(RANDOM_PADDING, 5, 6) == 0
    # 0xfffffff0 + 0x20 wraps to 0x10 = 16; without wrapping the answer would be 9.
    assert padding_bytes(RANDOM_PADDING, 0xFFFFFFF0, 0x20) == 5


def test_padding_content_is_of_no_account_to_the_receiver() -> None:
    assert decode_datagram(b"\xaa\xbb" + b"abc", 2, seq=0, ack=0) == b"abc"


def test_a_payload_shorter_than_its_padding_holds_no_datagram() -> None:
    assert decode_datagram(b"\0\0", 3, seq=0, ack=0) is None
    assert decode_datagram(b"\0\0", RANDOM_PADDING, seq=1, ack=2) is None


def test_padding_above_16_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.16"):
        padding_bytes(17, 0, 0)


def test_syn_options_are_mss_scale_and_sack_in_12_bytes() -> None:
    options = bytes.fromhex("020405b4 0103030c 01010402")
    assert encode_syn_options(1460, 12) == options
    assert decode_syn_options(options) == SynOptions(1460, 12, True)


@pytest.mark.parametrize(
    ("options", "decoded"),
    [
        ("", SynOptions()),
        ("020405b4", SynOptions(mss=1460)),
        ("080a0000000100000002 0303 07 00", SynOptions(scale=7)),  # a timestamp is skipped
        ("0303ff01", SynOptions(scale=14)),  # above 14 counts as 14
        ("00 020405b4", SynOptions()),  # end of list
        ("0204", None),
        ("0203 05b4", None),
        ("0300", None),
        ("0801", None),
        ("02", None),
        ("080a00", None),
    ],
)
def test_a_peers_options_are_read_or_refused(options: str, decoded: SynOptions | None) -> None:
    assert decode_syn_options(bytes.fromhex(options)) == decoded


def test_the_checksum_of_rfc_1071s_example() -> None:
    assert checksum(bytes.fromhex("0001 f203 f4f5 f6f7")) == 0xFFFF - 0xDDF2
    assert checksum(b"") == 0xFFFF
    assert checksum(bytes(4)) == 0xFFFF
    assert checksum(b"\xff\xff") == 0
    assert checksum(b"\x01") == 0xFEFF


def test_sequence_numbers_compare_across_the_wrap() -> None:
    assert sequence_after(3, 0xFFFFFFFE) == 5
    assert sequence_after(0xFFFFFFFE, 3) == -5
    assert sequence_after(7, 7) == 0
