# SPDX-License-Identifier: GPL-2.0-only
"""What is due for one connection, and when to look again. Pure; time is an argument.

Every timer is a deadline computed from the entry itself, so a process that adopts a connection
goes on where the last one stopped, and an idle connection costs one look per deadline.
"""

from dataclasses import dataclass

from mimicd.core.abi import ConnEntry, ConnFlag, Operation, Reason
from mimicd.core.connection import State
from mimicd.core.model import FlowSettings, Handshake

NS = 1_000_000_000
_NEVER_NS = 1 << 63

# A passive handshake waits for its peer as long as one of default settings would try.
_DEFAULT_HANDSHAKE = Handshake()

# Our own SYN has certainly left its CPU then: firewalls take none behind the SYN+ACK.
_CROSSED_ANSWER_NS = 2_000_000
# The peer answers a crossing SYN at once; it has not seen ours where a firewall took only one.
_CROSSED_REPEAT_NS = 250_000_000

# An entry that no cooldown keeps is forgotten after this.
_FORGET_IDLE_NS = 10 * NS


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, if anything, and when to look again."""

    operation: Operation | None
    reason: Reason
    """Of a RESET."""
    forget: bool
    next_ns: int
    attempt: int = 0
    """Which keepalive this is, from 1; 0 where none is due."""


def plan(entry: ConnEntry, settings: FlowSettings, now_ns: int, last_attempt: int = 0) -> Plan:
    """`last_attempt`: the keepalive that was sent since the peer's last segment, 0 for none."""
    match entry.state:
        case State.SYN_SENT | State.SYN_RECEIVED:
            return _plan_handshake(entry, settings, now_ns)
        case State.ESTABLISHED:
            return _plan_established(entry, settings, now_ns, last_attempt)
        case State.IDLE:
            return _plan_idle(entry, now_ns)


def _wait(next_ns: int) -> Plan:
    return Plan(None, Reason.NONE, False, next_ns)


def _reset(reason: Reason, now_ns: int) -> Plan:
    return Plan(Operation.RESET, reason, False, now_ns + NS)


def _plan_handshake(entry: ConnEntry, settings: FlowSettings, now_ns: int) -> Plan:
    handshake = settings.handshake
    if handshake.is_passive:
        handshake = _DEFAULT_HANDSHAKE
    interval_ns = handshake.interval_s * NS
    end_ns = entry.state_since_ns + (handshake.retry + 1) * interval_ns
    if now_ns >= end_ns:
        return _reset(Reason.NO_ANSWER, now_ns)
    # last_tx_ns is when the latest SYN left; a late look sends one, not all that it missed
    due_ns = entry.last_tx_ns + interval_ns
    pending = ConnFlag.CROSS_PENDING in entry.flags
    if entry.state is State.SYN_RECEIVED:
        if not pending:
            return _wait(end_ns)
        due_ns = entry.last_tx_ns + _CROSSED_ANSWER_NS
    elif pending:
        due_ns = min(due_ns, entry.last_rx_ns + _CROSSED_REPEAT_NS)
    if now_ns < due_ns:
        return _wait(min(due_ns, end_ns))
    return Plan(Operation.SYN, Reason.NONE, False, min(now_ns + interval_ns, end_ns))


def _plan_established(
    entry: ConnEntry, settings: FlowSettings, now_ns: int, last_attempt: int
) -> Plan:
    keepalive = settings.keepalive
    stale_ns = entry.last_active_ns + keepalive.stale_s * NS if keepalive.stale_s else _NEVER_NS
    if now_ns >= stale_ns:
        return _reset(Reason.STALE, now_ns)
    if not keepalive.time_s:
        return _wait(stale_ns)
    first_ns = entry.last_rx_ns + keepalive.time_s * NS
    if now_ns < first_ns:
        return _wait(min(first_ns, stale_ns))
    interval_ns = keepalive.interval_s * NS
    attempts = max(keepalive.retry, 1)
    if now_ns >= first_ns + attempts * interval_ns:
        return _reset(Reason.KEEPALIVE, now_ns)
    attempt = 1 + (now_ns - first_ns) // interval_ns
    next_ns = min(first_ns + attempt * interval_ns, stale_ns)
    if attempt <= last_attempt:
        return _wait(next_ns)
    # A peer that lost our last data takes a keepalive for a window update and stays silent;
    # a probe it always answers. So the second attempt is one.
    operation = Operation.PROBE if attempt == 2 else Operation.KEEPALIVE
    return Plan(operation, Reason.NONE, False, next_ns, attempt)


def _plan_idle(entry: ConnEntry, now_ns: int) -> Plan:
    since_ns = max(entry.reset_ns, entry.last_rx_ns, entry.state_since_ns)
    end_ns = since_ns + (2 * entry.cooldown_ns or _FORGET_IDLE_NS)
    if now_ns < end_ns:
        return _wait(end_ns)
    return Plan(None, Reason.NONE, True, end_ns)
