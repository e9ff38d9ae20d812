# SPDX-License-Identifier: GPL-2.0-only
"""What is shown of a connection and of a running interface: snapshots, plain values only."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


class State(enum.IntEnum):
    """Connection states (RFC 9293 section 3.3.2, the ones used here); numbers as in the maps."""

    IDLE = 0
    SYN_SENT = 1
    SYN_RECEIVED = 2
    ESTABLISHED = 3

    @property
    def words(self) -> str:
        """As shown and as on the bus: "idle", "syn-sent", "syn-received", "established"."""
        return self.name.lower().replace("_", "-")


class Role(enum.IntEnum):
    """Which end sent the SYN; numbers as in the maps."""

    NONE = 0
    INITIATOR = 1
    RESPONDER = 2

    @property
    def words(self) -> str:
        """As shown and as on the bus: "none", "initiator", "responder"."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection at one moment. Sequence numbers are 32-bit, windows are unscaled bytes."""

    local: str
    """ "192.0.2.1:51820" or "[2001:db8::1]:51820"."""
    remote: str
    state: State
    role: Role
    seq: int
    """Sequence number of the next segment to send."""
    ack: int
    """Sequence number expected from the peer."""
    window: int
    peer_window: int
    peer_mss: int
    filter: str
    """Filter.text() of the filter it uses."""
    age_s: float
    idle_s: float
    """Seconds since a segment was received."""
    cooldown_s: float
    """Seconds left until a new attempt is allowed; 0 when none is pending."""
    tx_packets: int
    tx_bytes: int
    rx_packets: int
    rx_bytes: int
    held: int
    """Datagrams kept until it is established."""
    drops: dict[str, int]
    """Reason -> count, only those that are not zero."""
    note: str
    """One sentence why it does not work, "" when it does."""
    interface: str

    def as_plain(self) -> dict[str, object]:
        """Keys and values as on the bus: kebab case, no unit suffix, state and role in words."""
        # for tens of thousands of them in a row: no more than a lookup for each value
        plain: dict[str, object] = {key: getattr(self, name) for name, key in _KEYS}
        plain["state"], plain["role"] = _STATE_WORDS[self.state], _ROLE_WORDS[self.role]
        plain["drops"] = dict(self.drops)
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Connection:
        """The inverse of `as_plain`; keys of a newer peer are skipped.

        Raises KeyError for a missing key or an unknown state or role.
        """
        values = {field.name: plain[_key_of(field.name)] for field in fields(cls)}
        values["state"] = _STATES[values["state"]]
        values["role"] = _ROLES[values["role"]]
        values["drops"] = dict(values["drops"])
        return cls(**values)


def _key_of(field_name: str) -> str:
    return field_name.removesuffix("_s").replace("_", "-")


_KEYS = tuple((field.name, _key_of(field.name)) for field in fields(Connection))
_STATE_WORDS = {member: member.words for member in State}
_ROLE_WORDS = {member: member.words for member in Role}
_STATES = {member.words: member for member in State}
_ROLES = {member.words: member for member in Role}


@dataclass(frozen=True, slots=True)
class InterfaceView:
    """One running interface at one moment."""

    name: str
    ifindex: int
    link_type: str
    """ "eth" or "none"."""
    xdp_mode: str
    """ "native" or "skb"."""
    state: str
    """ "running"."""
    filters: tuple[str, ...]
    settings: dict[str, str]
    """Configuration key -> text."""
    counters: dict[str, int]
    max_payload: int
    """Largest datagram, in bytes, that fits the interface's MTU after the disguise."""
    started_at: float
    """Unix time, seconds."""
