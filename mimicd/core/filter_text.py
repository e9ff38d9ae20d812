# SPDX-License-Identifier: GPL-2.0-only
"""The syntax of one filter: "{local|remote}={address}:{port}[,key=value...]".

In: a text. Out: its parts, the address checked, the settings still texts; `settings` gives
those their meaning. An IPv6 address stands in brackets (RFC 3986 section 3.2.2 has the same
rule for the same reason). A host name is kept for whoever resolves names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address

from mimicd.core.errors import InvalidConfigError, Problem, quote
from mimicd.core.model import PORT_MAX, Address, Filter, Origin
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
    host, port = _split_port(origin, rest[0])
    address = _parse_address(host)
    if address is None:
        return Filter(origin, None, port, host=_parse_host(host))
    found = Filter(origin, address, port)
    check_address(found, host.offset)
    return found


def check_address(found: Filter, offset: int = 0) -> None:
    """Refuse an address that can never match; also for addresses that a name led to."""
    if found.origin is Origin.REMOTE and found.is_wildcard:
        anybody = replace(found, origin=Origin.LOCAL)
        raise InvalidConfigError(
            f"{found.address} is no peer's address: a remote filter needs that of one peer",
            f"to match every peer of one local port, write {anybody.text()}",
            offset,
        )


def _split_port(origin: Origin, end: Piece) -> tuple[Piece, int]:
    """Divide "address:port", and take the brackets off the address."""
    host, colon, port_text = end.text.rpartition(":")
    opened = end.text.startswith("[")
    if not opened and ":" in host:
        raise _brackets_missing(origin, end, host, port_text)
    if not colon or (opened and end.text.endswith("]")):
        raise InvalidConfigError(
            f"{quote(end.text)} has no port",
            f"write {origin.value}={end.text}:PORT" if end.text else f"for example {EXAMPLE}",
            end.offset,
        )
    if opened != host.endswith("]"):
        missing, have = ("]", "[") if opened else ("[", "]")
        raise InvalidConfigError(
            f"{quote(end.text)} has {have} without {missing}",
            f"write an IPv6 address as {origin.value}=[2001:db8::1]:51820",
            end.offset,
        )
    port = parse_decimal(port_text.strip(), PORT_MAX)
    if not port:
        raise InvalidConfigError(
            f"port {quote(port_text)} is not a number from 1 to {PORT_MAX}",
            "the port is the UDP port of the program whose packets are meant",
            offset=end.offset + len(host) + 1,
        )
    inside = Piece(host[1:-1], end.offset + 1) if opened else Piece(host, end.offset)
    return _trim(inside), port


def _brackets_missing(origin: Origin, end: Piece, host: str, port_text: str) -> InvalidConfigError:
    if _as_address(host) is not None:
        meant = f"[{host}]:{port_text}"
    elif _as_address(end.text) is not None:
        meant = f"[{end.text}]:PORT"
    else:
        meant = "[ADDRESS]:PORT"
    return InvalidConfigError(
        f"{quote(end.text)} is not address:port, an IPv6 address needs brackets",
        f"write {origin.value}={meant}",
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
