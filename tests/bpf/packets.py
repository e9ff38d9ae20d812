# SPDX-License-Identifier: GPL-2.0-only
"""Frames built and taken apart byte by byte: the reference that the programs are compared with.

Everything is computed whole from its definition (RFC 791, 768, 8200, 9293); nothing is updated.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from tests.rig.segment import End, checksum

UDP, TCP = 17, 6
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS)
VLAN, SERVICE_VLAN, IPV4, IPV6 = 0x8100, 0x88A8, 0x0800, 0x86DD
LOCAL_MAC = bytes.fromhex("020000000001")
REMOTE_MAC = bytes.fromhex("020000000002")
DONT_FRAGMENT, MORE_FRAGMENTS = 0x4000, 0x2000

Tag = tuple[int, int]
"""Protocol and tag control information (IEEE 802.1Q)."""


def link_header(version: int, tags: Sequence[Tag] = (), incoming: bool = False) -> bytes:
    """Ethernet between us and the peer, `tags` from the outermost."""
    macs = LOCAL_MAC + REMOTE_MAC if incoming else REMOTE_MAC + LOCAL_MAC
    kinds = b"".join(struct.pack("!HH", protocol, tci) for protocol, tci in tags)
    return macs + kinds + struct.pack("!H", IPV4 if version == 4 else IPV6)


def extension(kind: int, following: int, units: int = 0, body: bytes = b"") -> bytes:
    """One IPv6 extension header of 8 + 8 * units bytes that names the `following` one."""
    size = 8 + 8 * units
    length = 0 if kind == FRAGMENT else units
    return (bytes([following, length]) + body).ljust(size, b"\1")


def extension_chain(kinds: Sequence[int], protocol: int, units: int = 0) -> bytes:
    """Extension headers in this order, the last of them names `protocol`."""
    following = [*kinds[1:], protocol]
    pairs = zip(kinds, following, strict=True) if kinds else []
    return b"".join(extension(kind, after, units) for kind, after in pairs)


def ip_packet(
    source: End,
    target: End,
    protocol: int,
    transport: bytes,
    *,
    options: bytes = b"",
    extensions: bytes = b"",
    first_header: int | None = None,
    fragment: int = DONT_FRAGMENT,
    traffic_class: int = 0x2E,
    length_error: int = 0,
) -> bytes:
    """An IPv4 packet with `options`, or an IPv6 packet with `extensions` and its `first_header`.

    `length_error` is added to the length field, which then lies.
    """
    ends = source.address.packed + target.address.packed
    if source.version == 6:
        size = len(extensions) + len(transport) + length_error
        first = protocol if first_header is None else first_header
        fixed = struct.pack("!IHBB", 6 << 28 | traffic_class << 20 | 0xABCDE, size, first, 61)
        return fixed + ends + extensions + transport
    words = 5 + len(options) // 4
    size = 4 * words + len(transport) + length_error
    fields = (words | 0x40, traffic_class, size, 0x1234, fragment, 61, protocol)
    value = checksum(struct.pack("!BBHHHBBH", *fields, 0) + ends + options)
    return struct.pack("!BBHHHBBH", *fields, value) + ends + options + transport


def pseudo_header(source: End, target: End, protocol: int, length: int) -> bytes:
    ends = source.address.packed + target.address.packed
    form = "!xBH" if source.version == 4 else "!I3xB"
    numbers = (protocol, length) if source.version == 4 else (length, protocol)
    return ends + struct.pack(form, *numbers)


def udp(
    source: End, target: End, payload: bytes, check: int | None = None, length_error: int = 0
) -> bytes:
    """A UDP header and datagram; `check` in place of the right checksum."""
    length = 8 + len(payload)
    header = struct.pack("!HHH", source.port, target.port, length + length_error)
    if check is None:
        pseudo = pseudo_header(source, target, UDP, length)
        check = checksum(pseudo + header + b"\0\0" + payload) or 0xFFFF
    return header + struct.pack("!H", check) + payload


def udp_frame(source: End, target: End, payload: bytes, incoming: bool = False) -> bytes:
    """The plainest frame with a datagram."""
    packet = ip_packet(source, target, UDP, udp(source, target, payload))
    return link_header(source.version, incoming=incoming) + packet


@dataclass(frozen=True, slots=True)
class Dissected:
    """A frame in pieces."""

    link: bytes
    network: bytes
    """The IP header, with options or extension headers."""
    protocol: int
    transport: bytes
    """As far as the IP header says."""
    trailer: bytes
    source: End
    target: End

    @property
    def network_checksum_right(self) -> bool:
        return self.source.version == 6 or checksum(self.network) == 0

    @property
    def transport_checksum_right(self) -> bool:
        pseudo = pseudo_header(self.source, self.target, self.protocol, len(self.transport))
        return checksum(pseudo + self.transport) == 0


def dissect(frame: bytes, link_bytes: int = 14) -> Dissected:
    """Take a frame with an unfragmented TCP or UDP packet apart."""
    at = link_bytes
    while link_bytes and frame[at - 2 : at] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    version = frame[at] >> 4
    if version == 4:
        header, total = (frame[at] & 0xF) * 4, int.from_bytes(frame[at + 2 : at + 4], "big")
        protocol, transport_at, stop = frame[at + 9], at + header, at + total
        ends = (frame[at + 12 : at + 16], frame[at + 16 : at + 20])
    else:
        stop = at + 40 + int.from_bytes(frame[at + 4 : at + 6], "big")
        protocol, transport_at = frame[at + 6], at + 40
        ends = (frame[at + 8 : at + 24], frame[at + 24 : at + 40])
        while protocol in EXTENSIONS:
            units = 0 if protocol == FRAGMENT else frame[transport_at + 1]
            protocol = frame[transport_at]
            transport_at += 8 + 8 * units
    assert protocol in (TCP, UDP), f"neither TCP nor UDP: {frame.hex()}"
    assert transport_at <= stop <= len(frame), f"lengths do not fit: {frame.hex()}"
    ports = struct.unpack_from("!HH", frame, transport_at)
    source, target = (End(ip_address(raw), port) for raw, port in zip(ends, ports, strict=True))
    network = frame[at:transport_at]
    return Dissected(
        frame[:at],
        network,
        protocol,
        frame[transport_at:stop],
        frame[stop:],
        source,
        target,
    )


def rewritten_network(before: Dissected, protocol: int, transport_bytes: int) -> bytes:
    """The IP header of `before` once it carries `transport_bytes` of another `protocol`."""
    header = bytearray(before.network)
    if before.source.version == 4:
        header[2:4] = (len(header) + transport_bytes).to_bytes(2, "big")
        header[9] = protocol
        header[10:12] = b"\0\0"
        header[10:12] = checksum(bytes(header)).to_bytes(2, "big")
        return bytes(header)
    header[4:6] = (len(header) - 40 + transport_bytes).to_bytes(2, "big")
    at, kind, place = 40, header[6], 6
    while kind in EXTENSIONS:
        units = 0 if kind == FRAGMENT else header[at + 1]
        kind, place = header[at], at
        at += 8 + 8 * units
    header[place] = protocol
    return bytes(header)
