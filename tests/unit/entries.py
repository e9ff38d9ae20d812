# SPDX-License-Identifier: GPL-2.0-only
"""Connections and events made up for tests."""

import dataclasses
from ipaddress import IPv4Address
from typing import Any

from mimicd.core import abi
from mimicd.core.abi import ConnEntry, Event, EventType, Reason
from mimicd.core.connection import Role, State

NS = 1_000_000_000
BLANK = abi.decode_conn(bytes(abi.CONN_BYTES))


def key_of(number: int = 1) -> bytes:
    """A flow key; another one for each number."""
    return abi.encode_flow(
        IPv4Address("192.0.2.1"), 51820, IPv4Address("203.0.113.5"), 40000 + number
    )


KEY = key_of()


def entry(state: State, **members: Any) -> ConnEntry:
    """Of rule 1, as initiator; what is not given is zero."""
    given = {"rule": 1, "role": Role.INITIATOR, **members}
    return dataclasses.replace(BLANK, state=state, **given)


def state_event(
    state: State, reason: Reason, generation: int = 1, at_ns: int = 0, key: bytes = KEY
) -> Event:
    return Event(
        EventType.STATE, at_ns, key, generation, state, Role.INITIATOR, reason, False, 0, b""
    )


def held_event(
    frame: bytes,
    generation: int = 1,
    state: State = State.SYN_SENT,
    reason: Reason = Reason.NONE,
    key: bytes = KEY,
) -> Event:
    """A datagram that user space is to keep; its checksum needs nothing."""
    return Event(
        EventType.HELD, 0, key, generation, state, Role.INITIATOR, reason, False, 34, frame
    )
