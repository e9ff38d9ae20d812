# SPDX-License-Identifier: GPL-2.0-only
"""The syntax of one filter: "{local|remote}={address}[/{bits}]:{port}[,key=value...]".

The port may be a range, "6000-6100", or "any". In: a text. Out: its parts, the address checked,
the settings still texts; `settings` gives those their meaning. An IPv6 address stands in brackets
(RFC 3986 section 3.2.2 has the same rule for the same reason). A host name is kept for whoever
resolves names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address, ip_network

from mimicd.core.errors import InvalidConfigError, Problem, escape, quote
from mimicd.core.model import ANY_PORT, PORT_MAX, Address, Filter, Origin
from mimicd.core.values import parse_decimal, suggestion

EXAMPLE = "remote=203.0.113.5:51820"

# RFC 1035 section 2.3.4 in text form; labels as in RFC 1123 section 2.1, and "_", which
# resolvers take.
_HOST_LENGTH_MAX = 253
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
# A name that ends like this is an address to the C library's resolver ("127.1", "0x7f.1").
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text without the spaces around it."""

    text: str
    offset: int
    """Where it starts in the whole text, in characters."""


@dataclass(frozen=True, slots=True)
class FilterText:
    """A filter taken apart, its own settings still texts."""

    filter: Filter | None
    """None if that part cannot be read."""
    settings: tuple[tuple[Piece, Piece], ...]
    """(key, value) pairs in their order."""
    problems: tuple[Problem, ...]


def split_filter(text: str) -> FilterText:
    """Take a filter apart as far as it can be read, and note every fault with its offset."""
    first, *rest = _split(Piece(text, 0), ",")
    found: Filter | None = None
    pairs: list[tuple[Piece, Piece]] = []
    problems: list[Problem] = []
    try:
        found = _parse_end(first)
    except InvalidConfigError as exc:
        problems += exc.problems
    for piece in rest:
        try:
            pairs.append(_parse_pair(piece))
        except InvalidConfigError as exc:
            problems += exc.problems
    return FilterText(found, tuple(pairs), tuple(problems))


def _parse_pair(piece: Piece) -> tuple[Piece, Piece]:
    key, *rest = _split(piece, "=", 1)
    if not rest or not key.text:
        raise InvalidConfigError(
            f"expected key=value after the comma, found {quote(piece.text)}",
            f"settings follow the port, as in {EXAMPLE},padding=4",
            piece.offset,
        )
    return key, rest[0]


def _parse_end(piece: Piece) -> Filter:
    """Read "local=address:port" or "remote=address:port"."""
    key, *rest = _split(piece, "=", 1)
    origins = [origin.value for origin in Origin]
    if not rest or key.text not in origins:
        raise InvalidConfigError(
            f"expected local= or remote= in front of the address, found {quote(key.text)}",
            suggestion(key.text, origins) or f"for example {EXAMPLE}",
            key.offset,
        )
    origin = Origin(key.text)
    host, ports = _split_port(origin, rest[0])
    whole, bits = _split_prefix(origin, host)
    first, last = _parse_ports(ports)
    address = _parse_address(whole)
    if address is None:
        if bits is not None:
            raise InvalidConfigError(
                f"{quote(host.text)} has a prefix length, which only an address can have",
                "a host name stands for all its addresses",
                bits.offset,
            )
        return Filter(origin, None, first, host=_parse_host(whole), last_port=last)
    found = Filter(origin, address, first, last_port=last)
    if bits is not None:
        found = replace(found, prefix_bits=_parse_prefix(address, bits, whole.offset))
    check_address(found, whole.offset)
    return found


def _parse_prefix(address: Address, bits: Piece, address_offset: int) -> int:
    """The prefix length, 96 less for a mapped address, as in a Filter."""
    width = address.max_prefixlen
    number = parse_decimal(bits.text, width)
    if number is None:
        raise InvalidConfigError(
            f"prefix length {quote(bits.text)} is not a number from 0 to {width}",
            "a network is written as 198.51.100.0/24 or [2001:db8::/32]",
            bits.offset,
        )
    network = ip_network((address, number), strict=False)
    if network.network_address != address:
        raise InvalidConfigError(
            f"{address}/{number} is no network, {address} lies inside of {network}",
            f"write {network}, or leave out /{number} for the one address",
            address_offset,
        )
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped is not None
    return number - 96 if mapped else number


def check_address(found: Filter, offset: int = 0) -> None:
    """Refuse an address that can never match; also for addresses that a name led to."""
    if found.origin is Origin.REMOTE and found.is_wildcard:
        anybody = replace(found, origin=Origin.LOCAL)
        raise InvalidConfigError(
            f"{found.address} is no peer's address: a remote filter needs that of one peer",
            f"to match every peer of one local port, write {anybody.text()}",
            offset,
        )


def _split_port(origin: Origin, end: Piece) -> tuple[Piece, Piece]:
    """Divide "address:ports"; brackets stay on the address."""
    host, colon, ports = end.text.rpartition(":")
    opened = end.text.startswith("[")
    if not opened and ":" in host:
        raise _brackets_missing(origin, end, host, ports)
    if not colon or (opened and end.text.endswith("]")):
        raise InvalidConfigError(
            f"{quote(end.text)} has no port",
            f"write {origin.value}={escape(end.text)}:PORT"
            if end.text
            else f"for example {EXAMPLE}",
            end.offset,
        )
    return _trim(Piece(host, end.offset)), _trim(Piece(ports, end.offset + len(host) + 1))


def _split_prefix(origin: Origin, host: Piece) -> tuple[Piece, Piece | None]:
    """Divide "address/bits", and take the brackets off; they may end before or after the bits."""
    inside, closing, behind = host.text.partition("]")
    if host.text.startswith("[") != bool(closing) or (behind and behind[0] != "/"):
        missing, have = ("[", "]") if closing else ("]", "[")
        raise InvalidConfigError(
            f"{quote(host.text)} has {have} without {missing}"
            if not (closing and host.text.startswith("["))
            else f"{quote(host.text)} has {quote(behind)} behind ]",
            f"write an IPv6 address as {origin.value}=[2001:db8::1]:51820",
            host.offset,
        )
    if not closing:
        whole, *bits = _split(host, "/", 1)
    elif behind:
        whole = _trim(Piece(inside[1:], host.offset + 1))
        bits = [_trim(Piece(behind[1:], host.offset + len(inside) + 2))]
    else:
        whole, *bits = _split(Piece(inside[1:], host.offset + 1), "/", 1)
    return whole, bits[0] if bits else None


def _parse_ports(piece: Piece) -> tuple[int, int]:
    """Read "51820", "6000-6100" or "any"; the first and the last port."""
    if piece.text == ANY_PORT:
        return 1, PORT_MAX
    ends = _split(piece, "-", 1)
    numbers = [parse_decimal(end.text, PORT_MAX) for end in ends]
    for end, number in zip(ends, numbers, strict=True):
        if not number:
            raise InvalidConfigError(
                f"port {quote(end.text or piece.text)} is not a number from 1 to {PORT_MAX}",
                "the port is the UDP port of the program whose packets are meant; a range is"
                " 6000-6100, every port is any",
                end.offset,
            )
    first, last = numbers[0] or 0, numbers[-1] or 0
    if last < first:
        raise InvalidConfigError(
            f"the range of ports {quote(piece.text)} ends before it begins",
            f"write {last}-{first}",
            piece.offset,
        )
    return first, last


def _brackets_missing(origin: Origin, end: Piece, host: str, port_text: str) -> InvalidConfigError:
    if _as_address(host) is not None:
        meant = f"[{host}]:{port_text}"
    elif _as_address(end.text) is not None:
        meant = f"[{end.text}]:PORT"
    else:
        meant = "[ADDRESS]:PORT"
    return InvalidConfigError(
        f"{quote(end.text)} is not address:port, an IPv6 address needs brackets",
        f"write {origin.value}={escape(meant)}",
        end.offset,
    )


def _parse_address(host: Piece) -> Address | None:
    """The address that `host` is; None if it may be a name."""
    if ":" in host.text and "%" in host.text:
        raise InvalidConfigError(
            f"{quote(host.text)} has a zone, which a filter cannot have",
            "leave out the % and what follows, a filter belongs to one interface anyhow",
            host.offset + host.text.index("%"),
        )
    found = _as_address(host.text)
    if found is None and (":" in host.text or _NUMERIC_LABEL.fullmatch(_last_label(host.text))):
        raise InvalidConfigError(
            f"{quote(host.text)} is not an {'IPv6' if ':' in host.text else 'IPv4'} address",
            "write it in full, without leading zeros" if ":" not in host.text else "",
            host.offset,
        )
    return found


def _as_address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _last_label(name: str) -> str:
    return name.lower().removesuffix(".").rpartition(".")[2]


def _parse_host(host: Piece) -> str:
    """The name in lower case, since DNS compares without case."""
    if not host.text:
        raise InvalidConfigError(
            "there is no address in front of the port",
            "every local address is local=0.0.0.0:PORT or local=[::]:PORT",
            host.offset,
        )
    name = host.text.lower()
    labels = name.removesuffix(".").split(".")
    if len(name) > _HOST_LENGTH_MAX or not all(map(_LABEL.fullmatch, labels)):
        raise InvalidConfigError(
            f"{quote(host.text)} is neither an IP address nor a host name",
            "" if host.text.isascii() else "write an international name in its xn-- form",
            host.offset,
        )
    return name


def _split(piece: Piece, separator: str, maximum: int = -1) -> list[Piece]:
    pieces = []
    offset = piece.offset
    for part in piece.text.split(separator, maximum):
        pieces.append(_trim(Piece(part, offset)))
        offset += len(part) + len(separator)
    return pieces


def _trim(piece: Piece) -> Piece:
    return Piece(piece.text.strip(), piece.offset + len(piece.text) - len(piece.text.lstrip()))
