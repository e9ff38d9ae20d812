# SPDX-License-Identifier: GPL-2.0-only
"""IP packets with a TCP segment, and datagrams in the payload of fake-TCP data segments. Pure.

Written for the scripted peer from the description of the protocol, apart from the code under test,
so that the two can only agree by being right. All numbers are in host order here.

A data segment's TCP payload, p bytes of padding, r = 12 + p, n = min(datagram length, r):

    +---------+-------------------------------+----------------------------+
    | p bytes | datagram from byte n to its end | datagram's first n bytes |
    +---------+-------------------------------+----------------------------+
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
TCP_PROTOCOL = 6
HEADER_GROWTH_BYTES = 12
"""A TCP header is this much longer than a UDP header."""
RANDOM_PADDING = -1
MAX_PADDING_BYTES = 16
SEQUENCE_SPACE = 1 << 32
MAX_WINDOW_SCALE = 14  # RFC 7323, 2.3

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_IPV6_OPTIONS = {0, 43, 60}  # hop-by-hop, routing, destination
_TCP = struct.Struct("!HHIIBBHHH")
_DONT_FRAGMENT = 0x4000
_HOP_LIMIT = 64
_OPTION_BYTES = {2: 4, 3: 3, 4: 2}  # by kind: MSS, window scale, SACK permitted

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, order=True)
class End:
    """One end of a connection; ends compare numerically by (address, port)."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        address = f"[{self.address}]" if self.version == 6 else str(self.address)
        return f"{address}:{self.port}"

    @property
    def version(self) -> int:
        return self.address.version


def end(address: str, port: int) -> End:
    return End(ip_address(address), port)


@dataclass(frozen=True, slots=True)
class Segment:
    """One TCP segment between two ends."""

    source: End
    target: End
    flags: int
    seq: int
    ack: int = 0
    window: int = 0
    """The field as on the wire, not scaled."""
    payload: bytes = b""
    options: bytes = b""
    checksum_right: bool = True
    """Of what came in: TCP checksum, and IPv4 header checksum."""

    def __str__(self) -> str:
        letters = zip("FSRPA", (FIN, SYN, RST, PSH, ACK), strict=True)
        flags = "".join(letter for letter, flag in letters if self.flags & flag)
        numbers = f"seq={self.seq} ack={self.ack} len={len(self.payload)} win={self.window}"
        return f"{self.source} > {self.target} {flags} {numbers}"

    def has(self, flags: int) -> bool:
        return self.flags & flags == flags


@dataclass(frozen=True, slots=True)
class SynOptions:
    """What a SYN offers; None where the option is missing."""

    mss: int | None = None
    scale: int | None = None
    sack_permitted: bool = False


def sequence_after(a: int, b: int) -> int:
    """How far a lies after b in sequence space, negative when before (signed 32-bit)."""
    distance = (a - b) % SEQUENCE_SPACE
    return distance - SEQUENCE_SPACE if distance >= SEQUENCE_SPACE // 2 else distance


def checksum(data: bytes) -> int:
    """Internet checksum (RFC 1071) of data; 0 over data that contains its own right checksum."""
    if len(data) % 2:
        data += b"\0"
    total = int.from_bytes(data, "big") % 0xFFFF
    # Modulo 0xffff knows one zero: all-zero data sums to 0, anything else to 0xffff.
    if total == 0 and any(data):
        total = 0xFFFF
    return ~total & 0xFFFF


def encode_packet(segment: Segment, wrong_checksum: bool = False) -> bytes:
    """The IP packet (no link header) of a segment; optionally with a wrong TCP checksum."""
    if len(segment.options) % 4:
        raise ValueError(f"TCP options are {len(segment.options)} bytes, not a multiple of 4")
    offset_words = 5 + len(segment.options) // 4
    header = _TCP.pack(
        segment.source.port,
        segment.target.port,
        segment.seq % SEQUENCE_SPACE,
        segment.ack % SEQUENCE_SPACE,
        offset_words << 4,
        segment.flags,
        segment.window,
        0,
        0,
    )
    tcp = header + segment.options + segment.payload
    value = checksum(_pseudo_header(segment.source, segment.target, len(tcp)) + tcp)
    if wrong_checksum:
        value ^= 0x0101
    tcp = tcp[:16] + value.to_bytes(2, "big") + tcp[18:]
    return _ip_header(segment.source, segment.target, len(tcp)) + tcp


def decode_packet(packet: bytes) -> Segment | None:
    """The segment in an IP packet; None when it is not whole, unfragmented TCP."""
    found = _split_ip(packet)
    if found is None:
        return None
    source, target, tcp, header_right = found
    if len(tcp) < _TCP.size:
        return None
    source_port, target_port, seq, ack, offset, flags, window, _sum, _urgent = _TCP.unpack_from(tcp)
    header_bytes = (offset >> 4) * 4
    if not _TCP.size <= header_bytes <= len(tcp):
        return None
    from_end, to_end = End(source, source_port), End(target, target_port)
    return Segment(
        from_end,
        to_end,
        flags & 0x3F,
        seq,
        ack,
        window,
        payload=tcp[header_bytes:],
        options=tcp[_TCP.size : header_bytes],
        checksum_right=header_right
        and checksum(_pseudo_header(from_end, to_end, len(tcp)) + tcp) == 0,
    )


def padding_bytes(padding: int, seq: int, ack: int) -> int:
    """How many bytes of padding the data segment with these numbers has."""
    if padding == RANDOM_PADDING:
        return (seq + ack) % SEQUENCE_SPACE % 11
    if not 0 <= padding <= MAX_PADDING_BYTES:
        raise ValueError(f"padding is 0..{MAX_PADDING_BYTES} bytes, not {padding}")
    return padding


def encode_datagram(datagram: bytes, padding: int, seq: int, ack: int) -> bytes:
    """The TCP payload that carries a datagram."""
    pad = padding_bytes(padding, seq, ack)
    moved = min(len(datagram), HEADER_GROWTH_BYTES + pad)
    return bytes(pad) + datagram[moved:] + datagram[:moved]


def decode_datagram(payload: bytes, padding: int, seq: int, ack: int) -> bytes | None:
    """The datagram in a TCP payload; None when it is shorter than its padding."""
    pad = padding_bytes(padding, seq, ack)
    if len(payload) < pad:
        return None
    body = payload[pad:]
    moved = min(len(body), HEADER_GROWTH_BYTES + pad)
    split = len(body) - moved
    return body[split:] + body[:split]


def encode_syn_options(mss: int, scale: int) -> bytes:
    """MSS; NOP, window scale; NOP, NOP, SACK permitted: 12 bytes (RFC 9293, 7323, 2018)."""
    return struct.pack("!BBHBBBBBBBB", 2, 4, mss, 1, 3, 3, scale, 1, 1, 4, 2)


def decode_syn_options(options: bytes) -> SynOptions | None:
    """What a SYN offers; None when an option's length is broken."""
    mss: int | None = None
    scale: int | None = None
    sack = False
    at = 0
    while at < len(options) and options[at] != 0:
        kind = options[at]
        if kind == 1:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        value = options[at + 2 : at + length]
        if length != _OPTION_BYTES.get(kind, max(length, 2)) or len(value) != length - 2:
            return None
        if kind == 2:
            mss = int.from_bytes(value, "big")
        elif kind == 3:
            scale = min(value[0], MAX_WINDOW_SCALE)
        elif kind == 4:
            sack = True
        at += length
    return SynOptions(mss, scale, sack)


def _pseudo_header(source: End, target: End, length: int) -> bytes:
    addresses = source.address.packed + target.address.packed
    if source.version == 4:
        return addresses + struct.pack("!xBH", TCP_PROTOCOL, length)
    return addresses + struct.pack("!I3xB", length, TCP_PROTOCOL)


def _ip_header(source: End, target: End, payload_bytes: int) -> bytes:
    addresses = (source.address.packed, target.address.packed)
    if source.version == 6:
        return _IPV6.pack(6 << 28, payload_bytes, TCP_PROTOCOL, _HOP_LIMIT, *addresses)
    total = _IPV4.size + payload_bytes
    fields = [0x45, 0, total, 0, _DONT_FRAGMENT, _HOP_LIMIT, TCP_PROTOCOL]
    value = checksum(_IPV4.pack(*fields, 0, *addresses))
    return _IPV4.pack(*fields, value, *addresses)


def upper_layer(packet: bytes) -> tuple[int, int]:
    """(protocol, offset) of what follows the IPv6 header and its options (RFC 8200 section 4)."""
    protocol, at = packet[6], _IPV6.size
    while protocol in _IPV6_OPTIONS and at + 2 <= len(packet):
        protocol, at = packet[at], at + 8 + 8 * packet[at + 1]
    return protocol, at


def _split_ip(packet: bytes) -> tuple[IPAddress, IPAddress, bytes, bool] | None:
    """(source, target, what follows the header, header checksum right) of a whole TCP packet."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4.size:
        first, _tos, total, _id, fragment, _ttl, protocol, *_, source, target = _IPV4.unpack_from(
            packet
        )
        header_bytes = (first & 0xF) * 4
        is_whole = not fragment & 0x3FFF and _IPV4.size <= header_bytes <= total <= len(packet)
        if protocol != TCP_PROTOCOL or not is_whole:
            return None
        right = checksum(packet[:header_bytes]) == 0
        return IPv4Address(source), IPv4Address(target), packet[header_bytes:total], right
    if version == 6 and len(packet) >= _IPV6.size:
        _first, length, _next, _hops, source6, target6 = _IPV6.unpack_from(packet)
        protocol, at = upper_layer(packet)
        stop = _IPV6.size + length
        if protocol != TCP_PROTOCOL or stop > len(packet):
            return None
        return IPv6Address(source6), IPv6Address(target6), packet[at:stop], True
    return None
