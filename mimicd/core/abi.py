# SPDX-License-Identifier: GPL-2.0-only
"""The layouts that user space shares with the BPF programs: bpf/abi.h in Python.

Flow keys stay as their 36 raw bytes, the form in which they come and go; they are decoded
only to be shown. Integers are in host order, addresses and ports in network order. A test
compares sizes, offsets and names with what the compiler made of bpf/abi.h.
"""

import enum
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mimicd.core.connection import Role, State
from mimicd.core.model import PADDING_RANDOM, FlowSettings, Origin, Strict

VERSION = 5
MAX_CONNECTIONS = 65536
MAX_RULES = 32768
MAX_FILTERS = 524288
HELD_MAX = 256

CONN_DROPS = ("cooldown", "passive", "held-full", "window", "lost-held", "received")

# enum counter, in order: bpf/abi.h's names without prefix, in kebab case
COUNTERS = (
    "tx-data",
    "tx-syn",
    "tx-syn-ack",
    "tx-ack",
    "tx-rst",
    "tx-probe",
    "tx-keepalive",
    "tx-window-update",
    "rx-data",
    "rx-syn",
    "rx-syn-ack",
    "rx-rst",
    "rx-fin",
    "rx-probe",
    "rx-keepalive",
    "rx-ack",
    "held",
    "resent",
    "hop",
    "drop-cooldown",
    "drop-passive",
    "drop-held-full",
    "drop-ring-full",
    "drop-lost-held",
    "drop-resend-late",
    "drop-window",
    "drop-too-big",
    "drop-superpacket",
    "drop-fragment",
    "drop-malformed",
    "drop-map-full",
    "drop-stale-command",
    "drop-rewrite",
    "drop-rx-malformed",
    "drop-rx-fragment",
    "drop-rx-checksum",
    "drop-rx-flags",
    "drop-rx-options",
    "drop-rx-ack",
    "drop-rx-reset",
    "drop-rx-no-connection",
    "drop-rx-unexpected",
    "drop-rx-short",
    "drop-rx-too-big",
    "drop-rx-map-full",
    "drop-rx-rewrite",
    "trace-lost",
    "drop-plain",
    "drop-rx-plain",
    "rx-path-mtu",
    "drained",
)

_MAPPED = b"\0" * 10 + b"\xff\xff"

# struct flow_key: local[16] remote[16] local_port remote_port, all in network order
FLOW_KEY = struct.Struct("!16s16sHH")


def encode_address(address: IPv4Address | IPv6Address) -> bytes:
    """16 bytes; IPv4 as ::ffff:a.b.c.d."""
    return address.packed if address.version == 6 else _MAPPED + address.packed


def decode_address(raw: bytes) -> IPv4Address | IPv6Address:
    """The address of 16 bytes, the mapped form back as IPv4."""
    return IPv4Address(raw[12:]) if raw.startswith(_MAPPED) else IPv6Address(raw)


def encode_flow(
    local: IPv4Address | IPv6Address,
    local_port: int,
    remote: IPv4Address | IPv6Address,
    remote_port: int,
) -> bytes:
    """A flow key."""
    return FLOW_KEY.pack(encode_address(local), encode_address(remote), local_port, remote_port)


def flow_is_ipv4(key: bytes) -> bool:
    """Whether a flow key is one of IPv4."""
    return key.startswith(_MAPPED)


def flow_texts(key: bytes) -> tuple[str, str]:
    """Local and remote end of a flow key, as `192.0.2.1:51820` or `[2001:db8::1]:51820`."""
    local, remote, local_port, remote_port = FLOW_KEY.unpack(key)
    return _end_text(local, local_port), _end_text(remote, remote_port)


def _end_text(raw: bytes, port: int) -> str:
    if raw.startswith(_MAPPED):
        return f"{raw[12]}.{raw[13]}.{raw[14]}.{raw[15]}:{port}"
    address = decode_address(raw)
    return f"[{address}]:{port}"


# struct filter_key: prefix_bits origin family port_class address[16]
_FILTER_KEY = struct.Struct("=IBBH16s")
_FILTER_VALUE = struct.Struct("=II")  # rule rank
_FILTER_HEAD_BITS = 32
_MAPPED_BITS = 96
_ORIGINS = {Origin.LOCAL: 1, Origin.REMOTE: 2}


def encode_filter_key(
    origin: Origin, port_class: int, address: IPv4Address | IPv6Address, prefix_bits: int
) -> bytes:
    """The longest-prefix key of the network that begins with `address`."""
    bits = prefix_bits + (_MAPPED_BITS if address.version == 4 else 0)
    return _FILTER_KEY.pack(
        _FILTER_HEAD_BITS + bits,
        _ORIGINS[origin],
        address.version,
        port_class,
        encode_address(address),
    )


def encode_filter_value(rule: int, rank: int) -> bytes:
    """`rule` is an index of the map rules, from 1; of two ranks the higher one wins."""
    return _FILTER_VALUE.pack(rule, rank)


# struct port_classes: local[65536] remote[65536], by port in host order
_PORTS = 65536
PORT_CLASSES_BYTES = 2 * 2 * _PORTS


def encode_port_classes(local: Sequence[int], remote: Sequence[int]) -> bytes:
    """The one value of the map ports: 65536 classes for either origin."""
    return array("H", local).tobytes() + array("H", remote).tobytes()


def decode_port_classes(raw: bytes) -> tuple[Sequence[int], Sequence[int]]:
    """The inverse of encode_port_classes()."""
    half = len(raw) // 2
    return array("H", raw[:half]), array("H", raw[half:])


# struct rule: handshake interval, retry; keepalive time, interval, retry, stale; padding flags
_RULE = struct.Struct("=6HBBH")
_PADDING_RANDOM = 255
_RULE_MAX_WINDOW, _RULE_STRICT = 1, 2


def encode_rule(flow: FlowSettings) -> bytes:
    """One value of the map rules."""
    handshake, keepalive = flow.handshake, flow.keepalive
    flags = _RULE_MAX_WINDOW if flow.max_window else 0
    flags |= 0 if flow.strict is Strict.NO else _RULE_STRICT
    return _RULE.pack(
        handshake.interval_s,
        handshake.retry,
        keepalive.time_s,
        keepalive.interval_s,
        keepalive.retry,
        keepalive.stale_s,
        _PADDING_RANDOM if flow.padding == PADDING_RANDOM else flow.padding,
        flags,
        0,
    )


class Reason(enum.IntEnum):
    """enum reason: why a connection changed its state."""

    NONE = 0
    OPENED = 1
    ESTABLISHED = 2
    RESET_BY_PEER = 3
    CLOSED_BY_PEER = 4
    RESTARTED_BY_PEER = 5
    NO_ANSWER = 6
    KEEPALIVE = 7
    STALE = 8
    STOPPED = 9
    CROSSED = 10


class ConnFlag(enum.IntFlag):
    """enum conn_flag."""

    DRAINING = 1
    PROBE_OUT = 2
    KEEPALIVE_OUT = 4
    CROSSED = 8
    RETRIED = 16
    CROSS_SILENTLY = 32
    CROSS_PENDING = 64
    HINT_FAILED = 128
    DRAIN_OVERTAKEN = 256


# struct conn, without its lock: rule, bytes, 6 words, times and totals by turns, 5 words, drops,
# MSS, link header
_CONN = struct.Struct("=4xI4BHBB6I3Q2Q3Q2Q3Q5I6IH2x24s")
_DROPS_AT = 32
CONN_BYTES = _CONN.size


@dataclass(frozen=True, slots=True)
class ConnEntry:
    """One value of the map conns. Times are CLOCK_BOOTTIME nanoseconds, 0 for never."""

    rule: int
    state: State
    role: Role
    peer_wscale: int
    cooldown_step: int
    flags: ConnFlag
    last_reset: Reason
    generation: int
    seq: int
    ack: int
    window: int
    peer_window: int
    stray_next: int
    """Where the latest segment outside the window ended."""
    last_tx_ns: int
    last_probe_ns: int
    hop_at_ns: int
    tx_packets: int
    tx_bytes: int
    last_rx_ns: int
    last_active_ns: int
    syn_answered_ns: int
    rx_packets: int
    rx_bytes: int
    state_since_ns: int
    reset_ns: int
    drain_until_ns: int
    isn: int
    peer_isn: int
    probe_seq: int
    held: int
    resent: int
    drops: tuple[int, ...]
    peer_mss: int
    link_header: bytes

    @property
    def held_now(self) -> int:
        """Datagrams that user space holds."""
        return (self.held - self.resent) & 0xFFFFFFFF

    @property
    def cooldown_ns(self) -> int:
        """How long the initiator waits before it opens again."""
        return 5_000_000_000 << (self.cooldown_step - 1) if self.cooldown_step else 0

    @property
    def cooldown_until_ns(self) -> int:
        """When an idle initiator may open again."""
        return max(self.reset_ns, self.last_rx_ns) + self.cooldown_ns


def decode_conn(raw: bytes) -> ConnEntry:
    """A value of the map conns."""
    fields = _CONN.unpack(raw)
    rule, state, role, wscale, cooldown, flags, reset, header_bytes = fields[:8]
    values = (
        *(rule, State(state), Role(role), wscale, cooldown, ConnFlag(flags), Reason(reset)),
        *fields[8:_DROPS_AT],
        fields[_DROPS_AT:-2],
        fields[-2],
        fields[-1][:header_bytes],
    )
    return ConnEntry(*values)


# struct config: cookie key, ifindex hop_ifindex mtu flags, three marks, reserved, tick, rst_at_ns
_CONFIG = struct.Struct("=2Q7I4x24x")


@dataclass(frozen=True, slots=True)
class Config:
    """The one value of the map config."""

    ifindex: int
    hop_ifindex: int
    """0: superpackets are dropped."""
    mtu_bytes: int
    flags: int
    resend_mark: int
    command_mark: int
    deliver_mark: int
    cookie_key: tuple[int, int]

    def encode(self) -> bytes:
        """struct config."""
        return _CONFIG.pack(
            *self.cookie_key,
            self.ifindex,
            self.hop_ifindex,
            self.mtu_bytes,
            self.flags,
            self.resend_mark,
            self.command_mark,
            self.deliver_mark,
        )


def decode_config(raw: bytes) -> Config:
    """The inverse of Config.encode()."""
    fields = _CONFIG.unpack(raw)
    values = (*fields[2:], (fields[0], fields[1]))
    return Config(*values)


class ConfigFlag(enum.IntFlag):
    """enum config_flag."""

    TRACE = 1
    KEEP_TAIL = 2
    STRICT = 4


class EventType(enum.IntEnum):
    """enum event_type."""

    HELD = 1
    STATE = 2
    TRACE = 3


_EVENT_SENT, _EVENT_PARTIAL = 1, 2
# struct event: type frame_len at_ns key generation seq ack length, 4 + 4 bytes, transport_at
_EVENT = struct.Struct("=IIQ36sIIII8BI")
EVENT_BYTES = _EVENT.size


@dataclass(frozen=True, slots=True)
class Event:
    """One record of the ring buffer."""

    type: EventType
    at_ns: int
    key: bytes
    generation: int
    state: State
    role: Role
    reason: Reason
    partial: bool
    """HELD: the frame's UDP checksum is still to be filled in."""
    transport_at: int
    """HELD: offset of the UDP header in the frame."""
    frame: bytes


def decode_event(raw: bytes) -> Event:
    """A record of the ring buffer; raises ValueError or struct.error where it is none."""
    type_, frame_len, at_ns, key, generation, _, _, _, *rest = _EVENT.unpack_from(raw)
    state, role, reason, flags = rest[:4]
    return Event(
        EventType(type_),
        at_ns,
        key,
        generation,
        State(state),
        Role(role),
        Reason(reason),
        bool(flags & _EVENT_PARTIAL),
        rest[8],
        raw[EVENT_BYTES : EVENT_BYTES + frame_len],
    )


_TCP_FLAGS = {"SYN": 2, "FIN": 1, "RST": 4, "PSH": 8, "ACK": 16}


@dataclass(frozen=True, slots=True)
class TracedSegment:
    """One record of the trace's ring buffer."""

    at_ns: int
    key: bytes
    sent: bool
    """False: received."""
    seq: int
    ack: int
    length: int
    """TCP payload, bytes."""
    flags: int
    """As in the header (RFC 9293 section 3.1)."""

    def text(self) -> str:
        """What the log says of it, without the connection."""
        names = ",".join(name for name, bit in _TCP_FLAGS.items() if self.flags & bit) or "none"
        direction = "sent" if self.sent else "received"
        return f"{direction} - len={self.length}, {names} seq={self.seq}, ack={self.ack}"


def decode_trace(raw: bytes) -> TracedSegment:
    """A record of the trace's ring; raises ValueError or struct.error where it is none."""
    type_, _, at_ns, key, _, seq, ack, length, *rest = _EVENT.unpack_from(raw)
    if EventType(type_) is not EventType.TRACE:
        raise ValueError("not of a segment")
    return TracedSegment(at_ns, key, bool(rest[3] & _EVENT_SENT), seq, ack, length, rest[4])


class Operation(enum.IntEnum):
    """enum operation: what a command asks the BPF program to do."""

    SYN = 1
    KEEPALIVE = 2
    PROBE = 3
    RESET = 4
    RELEASE = 5
    DRAINED = 6


_COMMAND = struct.Struct("=III")


def encode_command(operation: Operation, generation: int, argument: int = 0) -> bytes:
    """struct command."""
    return _COMMAND.pack(operation, generation, argument)
