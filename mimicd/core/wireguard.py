# SPDX-License-Identifier: GPL-2.0-only
"""What there is to know of a WireGuard interface, and how it is asked.

Two languages say the same: generic netlink (include/uapi/linux/wireguard.h) where the kernel is
WireGuard, and the text protocol of https://www.wireguard.com/xplatform/ where a program such as
wireguard-go is. Both also tell keys, which are skipped unread.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from mimicd.core.model import PADDING_RANDOM, PORT_MAX, Filter, FlowSettings, Origin
from mimicd.core.values import parse_decimal

Address = IPv4Address | IPv6Address

# WireGuard: type and counters 16, tag 16; around it UDP and IPv6 (wg-quick reckons the same).
OVERHEAD_BYTES = 32 + 8 + 40
DISGUISE_BYTES = 12
_PADDING_RANDOM_MOST = 10

GENERIC_NETLINK = 16
_CONTROLLER = 0x10
_GET_FAMILY, _GET_DEVICE = 3, 0
_VERSION = 1
_REQUEST, _DUMP = 0x001, 0x300
_ERROR, _DONE = 2, 3
_FAMILY_ID, _FAMILY_NAME = 1, 2
_IFNAME, _LISTEN_PORT, _PEERS, _ENDPOINT = 2, 6, 8, 4
_AF_INET, _AF_INET6 = 2, 10
_TYPE_MASK = 0x3FFF

# struct nlmsghdr: length type flags sequence port; struct genlmsghdr: command version reserved
_MESSAGE = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A WireGuard interface as it stands."""

    listen_port: int = 0
    """0: it listens on none."""
    endpoints: tuple[tuple[Address, int], ...] = ()
    """Address and port of each peer that has any, ascending."""


def filters_of(name: str, tunnel: Tunnel, settings: FlowSettings) -> list[Filter]:
    """What its packets are known by: where they come from, and where they go to.

    The port alone would do, but after a change of the port it is known only some time later.
    """
    source = f"wireguard {name}"
    found = [
        Filter(Origin.LOCAL, anywhere, tunnel.listen_port, settings, source)
        for anywhere in (IPv4Address(0), IPv6Address(0))
        if tunnel.listen_port
    ]
    found += [
        Filter(Origin.REMOTE, address, port, settings, source) for address, port in tunnel.endpoints
    ]
    return found


def mtu_bytes(link_mtu_bytes: int, padding: int) -> int:
    """The largest MTU of a WireGuard interface whose packets leave, disguised, over a link."""
    most = _PADDING_RANDOM_MOST if padding == PADDING_RANDOM else padding
    return link_mtu_bytes - OVERHEAD_BYTES - DISGUISE_BYTES - most


# The text protocol.

GET_REQUEST = b"get=1\n\n"


def parse_answer(text: str) -> Tunnel:
    """The answer to GET_REQUEST. Raises ValueError where it is none, or tells an error."""
    port, endpoints, code = 0, [], None
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if not line or not equals:
            continue
        if key == "listen_port":
            port = parse_decimal(value, PORT_MAX) or 0
        elif key == "endpoint":
            endpoints.append(_parse_endpoint(value))
        elif key == "errno":
            code = value
    if code != "0":
        raise ValueError(f"error number {code}" if code else "it ends before its end")
    return _tunnel(port, endpoints)


def _parse_endpoint(text: str) -> tuple[Address, int]:
    host, _, port = text.rpartition(":")
    # an address of the link may carry the interface it belongs to
    return ip_address(host.strip("[]").partition("%")[0]), int(port)


def _tunnel(port: int, endpoints: Sequence[tuple[Address, int]]) -> Tunnel:
    usable = {
        (address, port)
        for address, port in endpoints
        if 0 < port <= PORT_MAX and not address.is_unspecified
    }
    ordered = sorted(usable, key=lambda end: (end[0].version, int(end[0]), end[1]))
    return Tunnel(port, tuple(ordered))


# Generic netlink.


def encode_family_request(sequence: int) -> bytes:
    """Which number the kernel gave to the family "wireguard"."""
    return _request(_CONTROLLER, _GET_FAMILY, _REQUEST, sequence, _FAMILY_NAME, b"wireguard\0")


def decode_family(messages: bytes) -> int | None:
    """The answer to it; None where the kernel has no WireGuard."""
    for kind, body in _messages(messages):
        if kind == _CONTROLLER:
            for attribute, value in _attributes(body[_GENERIC.size :]):
                if attribute == _FAMILY_ID:
                    return int(struct.unpack("=H", value)[0])
    return None


def encode_device_request(family: int, name: str, sequence: int) -> bytes:
    """Everything about one interface."""
    value = name.encode() + b"\0"
    return _request(family, _GET_DEVICE, _REQUEST | _DUMP, sequence, _IFNAME, value)


def is_last(messages: bytes) -> bool:
    """Whether nothing follows these messages."""
    return any(kind in (_ERROR, _DONE) for kind, _ in _messages(messages))


def error_of(messages: bytes) -> int:
    """errno that the kernel answered with, 0 for none."""
    for kind, body in _messages(messages):
        if kind in (_ERROR, _DONE) and len(body) >= 4:
            code = -int(struct.unpack_from("=i", body)[0])
            if code:
                return code
    return 0


def decode_device(messages: bytes, family: int) -> Tunnel:
    """All answers to encode_device_request(), put together; peers may be spread over several.

    Raises ValueError or struct.error where they are not understood.
    """
    port, endpoints = 0, []
    for kind, body in _messages(messages):
        if kind != family:
            continue
        for attribute, value in _attributes(body[_GENERIC.size :]):
            if attribute == _LISTEN_PORT:
                port = int(struct.unpack("=H", value)[0])
            elif attribute == _PEERS:
                for _, peer in _attributes(value):
                    endpoints += [
                        _decode_endpoint(one)
                        for kind, one in _attributes(peer)
                        if kind == _ENDPOINT
                    ]
    return _tunnel(port, endpoints)


def _decode_endpoint(raw: bytes) -> tuple[Address, int]:
    """struct sockaddr_in or sockaddr_in6: family, port and IPv4 address, or flow and address."""
    (family,) = struct.unpack_from("=H", raw)
    (port,) = struct.unpack_from("!H", raw, 2)
    if family == _AF_INET:
        return IPv4Address(raw[4:8]), port
    if family == _AF_INET6:
        found = IPv6Address(raw[8:24])
        return found.ipv4_mapped or found, port
    raise ValueError(f"an endpoint of address family {family}")


def _request(
    kind: int, command: int, flags: int, sequence: int, attribute: int, value: bytes
) -> bytes:
    body = _GENERIC.pack(command, _VERSION, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), attribute) + value
    body += bytes(-len(body) % 4)
    return _MESSAGE.pack(_MESSAGE.size + len(body), kind, flags, sequence, 0) + body


def _messages(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message."""
    at = 0
    while at + _MESSAGE.size <= len(raw):
        length, kind, *_ = _MESSAGE.unpack_from(raw, at)
        if length < _MESSAGE.size:
            raise ValueError("a message shorter than its header")
        yield kind, raw[at + _MESSAGE.size : at + length]
        at += length + -length % 4


def _attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute."""
    at = 0
    while at + _ATTRIBUTE.size <= len(raw):
        length, kind = _ATTRIBUTE.unpack_from(raw, at)
        if length < _ATTRIBUTE.size:
            raise ValueError("an attribute shorter than its header")
        yield kind & _TYPE_MASK, raw[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4
