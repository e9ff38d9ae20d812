# SPDX-License-Identifier: GPL-2.0-only
"""What a configuration says, as values.

Text becomes these in `settings` and `filter_text`; nothing here reads text or touches the system.
Ranges are checked where text is read, so a value made in code is taken as it is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

TIMER_MAX = 32767
"""Largest value of every number in `handshake` and `keepalive`."""

PADDING_MAX = 16
"""Largest fixed padding, in bytes."""

PADDING_RANDOM = -1
"""`FlowSettings.padding` that varies from segment to segment."""

PORT_MAX = 65535

ANY_PORT = "any"

# of ::ffff:0:0/96, which stands for IPv4
_MAPPED_BITS = 96


class Origin(enum.Enum):
    """Which end of a packet a filter is compared with, in both directions."""

    LOCAL = "local"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class Handshake:
    interval_s: int = 2
    """Seconds between SYNs; 0 = passive, wait for the peer to connect."""
    retry: int = 3
    """SYNs after the first one."""

    @property
    def is_passive(self) -> bool:
        return self.interval_s == 0


@dataclass(frozen=True, slots=True)
class Keepalive:
    time_s: int = 180
    """Seconds without a segment from the peer before the first keepalive; 0 = off."""
    interval_s: int = 10
    """Seconds between keepalives; 0 = reset at once after `time_s`."""
    retry: int = 3
    stale_s: int = 600
    """Seconds without data from the peer before the connection is forgotten; 0 = never."""


class Strict(enum.Enum):
    """Whether plain UDP of a filter's flows is dropped, and how long."""

    NO = "false"
    RUNNING = "true"
    """From the first attempt to run it until it is stopped."""
    ALWAYS = "always"
    """Also after it was stopped."""


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """How the connections of one filter behave."""

    handshake: Handshake = Handshake()
    keepalive: Keepalive = Keepalive()
    padding: int = 0
    """Bytes before the datagram, 0..16, or PADDING_RANDOM."""
    max_window: bool = False
    strict: Strict = Strict.NO


@dataclass(frozen=True, slots=True)
class Filter:
    """Which flows are disguised: those whose local or remote end is in `address` and the ports."""

    origin: Origin
    address: Address | None
    """None: `host` is not resolved yet. An IPv4-mapped IPv6 address becomes its IPv4 address."""
    port: int
    """The first one, 1..65535, host byte order."""
    settings: FlowSettings = FlowSettings()
    host: str = ""
    """What the address came from, a name or "wireguard wg0"; "" if an address was given."""
    last_port: int = 0
    """Of a range; given as 0 it becomes `port`."""
    prefix_bits: int = -1
    """Of a network, whose first address is `address`; given as -1 it becomes all bits."""

    def __post_init__(self) -> None:
        # A frozen dataclass offers no other way to normalise its fields.
        if not self.last_port:
            object.__setattr__(self, "last_port", self.port)
        if self.address is not None and self.prefix_bits < 0:
            object.__setattr__(self, "prefix_bits", self.address.max_prefixlen)
        if isinstance(self.address, IPv6Address) and self.address.ipv4_mapped is not None:
            object.__setattr__(self, "address", self.address.ipv4_mapped)
            object.__setattr__(self, "prefix_bits", self.prefix_bits - _MAPPED_BITS)

    def text(self) -> str:
        """The canonical "origin=address:port", without settings; the name while unresolved."""
        return f"{self.origin.value}={self.end_text()}"

    def end_text(self) -> str:
        """The canonical "address:port", each perhaps several."""
        if self.address is None:
            return f"{self.host}:{self.ports_text()}"
        shown = str(self.address)
        if self.is_network:
            shown = f"{shown}/{self.prefix_bits}"
        if self.address.version == 6:
            shown = f"[{shown}]"
        return f"{shown}:{self.ports_text()}"

    def ports_text(self) -> str:
        """A port, "first-last" or "any"."""
        if self.is_any_port:
            return ANY_PORT
        return str(self.port) if self.last_port == self.port else f"{self.port}-{self.last_port}"

    @property
    def ports(self) -> tuple[int, int]:
        """The first and the last one."""
        return self.port, self.last_port

    @property
    def is_any_port(self) -> bool:
        """Whether it matches every port."""
        return self.ports == (1, PORT_MAX)

    @property
    def is_network(self) -> bool:
        """Whether it matches the addresses of a network, not one."""
        return self.address is not None and self.prefix_bits < self.address.max_prefixlen

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every address of the interface (0.0.0.0 or ::)."""
        return self.address is not None and self.address.is_unspecified and not self.is_network

    @property
    def identity(self) -> tuple[Origin, Address | None, int, str, int, int]:
        """What it matches. Filters with the same identity are the same filter, set otherwise."""
        host = self.host if self.address is None else ""
        return self.origin, self.address, self.prefix_bits, host, self.port, self.last_port


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """Everything one interface is run with."""

    filters: tuple[Filter, ...] = ()
    link_type: str = "auto"
    """ "auto", "eth" or "none"."""
    xdp_mode: str = "auto"
    """ "auto", "skb", "native" or "none"."""
    verbosity: int = 2
    """0 error, 1 warn, 2 info, 3 debug, 4 trace."""
    flow: FlowSettings = field(default_factory=FlowSettings)
    """What filters fall back to."""
    wireguard: tuple[str, ...] = ()
    """WireGuard interfaces whose packets are disguised beside what the filters name."""
    set_mtu: bool = False
    """Whether their MTU is lowered to what fits."""
