# SPDX-License-Identifier: GPL-2.0-only
"""Frames that user space puts on an interface: commands to the BPF program, and held datagrams.

Both are UDP to the eye of our own egress; neither leaves as such.
"""

import struct

from mimicd.core.abi import FLOW_KEY, flow_is_ipv4

_IPV4 = struct.Struct("!BBHHHBBH4s4s")  # RFC 791 section 3.1
_IPV6 = struct.Struct("!IHBB16s16s")  # RFC 8200 section 3
_UDP = struct.Struct("!HHHH")  # RFC 768
_PROTOCOL_UDP = 17
_TTL = 64
_DONT_FRAGMENT = 0x4000


def ones_complement_sum(data: bytes) -> int:
    """The 16-bit one's complement sum of RFC 1071, not inverted; an odd byte counts as high."""
    if len(data) % 2:
        data += b"\0"
    # 2**16 is 1 modulo 0xffff, so the whole is one big number to that modulus
    total = int.from_bytes(data, "big") % 0xFFFF
    return total or (0xFFFF if any(data) else 0)


def checksum(data: bytes) -> int:
    """What goes into a checksum field."""
    return ~ones_complement_sum(data) & 0xFFFF


def command_frame(link_header: bytes, key: bytes, payload: bytes) -> bytes:
    """A UDP frame of the flow from the local end; its UDP checksum is never looked at."""
    local, remote, local_port, remote_port = FLOW_KEY.unpack(key)
    udp = _UDP.pack(local_port, remote_port, _UDP.size + len(payload), 0) + payload
    if flow_is_ipv4(key):
        fields = (0x45, 0, _IPV4.size + len(udp), 0, _DONT_FRAGMENT, _TTL, _PROTOCOL_UDP)
        ends = (local[12:], remote[12:])
        header = _IPV4.pack(*fields, checksum(_IPV4.pack(*fields, 0, *ends)), *ends)
    else:
        header = _IPV6.pack(6 << 28, len(udp), _PROTOCOL_UDP, _TTL, local, remote)
    return link_header + header + udp


def finish_checksum(frame: bytes, transport_at: int, key: bytes) -> bytes:
    """The frame with its UDP checksum filled in (RFC 768; 0 is sent as all ones).

    `transport_at`: offset of the UDP header. `key`: the frame's flow, for the pseudo-header.
    """
    local, remote, _, _ = FLOW_KEY.unpack(key)
    udp = frame[transport_at:]
    length = int.from_bytes(udp[4:6], "big")
    ends = local[12:] + remote[12:] if flow_is_ipv4(key) else local + remote
    pseudo = ends + struct.pack("!IHH", length, 0, _PROTOCOL_UDP)
    value = checksum(pseudo + udp[:6] + b"\0\0" + udp[8:length]) or 0xFFFF
    at = transport_at + 6
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]
