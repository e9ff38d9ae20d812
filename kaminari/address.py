# SPDX-License-Identifier: GPL-2.0-only
"""Addresses as people write them: `host:port`, `[v6]:port`, or a bare `v6:port`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from kaminari.errors import UsageError


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    """Name or numeric address without brackets; several to listen on are joined by "|"."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, what: str) -> Address:
    """Read "host:port"; `what` names the value in the error. Raises UsageError."""
    host, colon, port = text.strip().rpartition(":")
    if not colon:
        raise UsageError(f"{what} '{text}' has no port", "write it as host:port")
    return build_address(host, port, what)


def build_address(host: str, port: str, what: str) -> Address:
    """Put a host and a port together as a SIP003 environment gives them. Raises UsageError."""
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not bare or any(character in bare for character in "[]/ \t"):
        raise UsageError(f"{what} has no usable host in '{host}'", "write it as host:port")
    if (bracketed or ":" in bare) and "|" not in bare:
        try:
            ipaddress.IPv6Address(bare)
        except ValueError:
            raise UsageError(
                f"{what} '{host}' is not an IPv6 address", "write it as [address]:port"
            ) from None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"{what} has the port '{port}'", "a port is a number from 1 to 65535")
    return Address(bare, int(port))


def is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
