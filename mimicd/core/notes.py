# SPDX-License-Identifier: GPL-2.0-only
"""What `show` says of a connection: the entry of the map, and why it does not work, in words."""

from mimicd.core.abi import CONN_DROPS, ConnEntry, ConnFlag, Reason, flow_texts
from mimicd.core.connection import Connection, Role, State

_NS = 1_000_000_000

_ENDED = {
    Reason.RESET_BY_PEER: "the peer reset it",
    Reason.CLOSED_BY_PEER: "the peer closed it",
    Reason.NO_ANSWER: "the peer did not answer",
    Reason.KEEPALIVE: "the peer stopped answering",
    Reason.STALE: "nothing was received for long",
    Reason.STOPPED: "it was stopped",
}

_LOOK_THERE = (
    "check that mimic runs there, that its filter names this address and port, and that no firewall"
    " drops TCP"
)
_REFUSED = "answered with RST, so no mimic may be running there"

CHANGES = {
    Reason.OPENED: "opening",
    Reason.CROSSED: "the peer opens it as well",
    Reason.ESTABLISHED: "established",
    Reason.RESTARTED_BY_PEER: "established anew: the peer had restarted",
    **_ENDED,
}
"""What the log says of a change."""


def connection_of(
    key: bytes, entry: ConnEntry, filter_text: str, interface: str, now_ns: int
) -> Connection:
    """The snapshot that goes to the bus. `now_ns`: CLOCK_BOOTTIME."""
    local, remote = flow_texts(key)
    cooldown_s = 0.0
    if entry.state is State.IDLE and entry.cooldown_step:
        cooldown_s = max(0.0, (entry.cooldown_until_ns - now_ns) / _NS)
    return Connection(
        local=local,
        remote=remote,
        state=entry.state,
        role=entry.role,
        seq=entry.seq,
        ack=entry.ack,
        window=entry.window,
        peer_window=entry.peer_window,
        peer_mss=entry.peer_mss,
        filter=filter_text,
        age_s=_seconds_since(entry.state_since_ns, now_ns),
        idle_s=_seconds_since(entry.last_rx_ns or entry.state_since_ns, now_ns),
        cooldown_s=round(cooldown_s, 3),
        tx_packets=entry.tx_packets,
        tx_bytes=entry.tx_bytes,
        rx_packets=entry.rx_packets,
        rx_bytes=entry.rx_bytes,
        held=entry.held_now,
        drops={name: count for name, count in zip(CONN_DROPS, entry.drops, strict=True) if count},
        note=note(entry, remote, cooldown_s, now_ns),
        interface=interface,
    )


def _seconds_since(then_ns: int, now_ns: int) -> float:
    return round(max(0, now_ns - then_ns) / _NS, 3)


def note(entry: ConnEntry, remote: str, cooldown_s: float, now_ns: int) -> str:
    """One sentence, or "" for a connection that works or rests."""
    match entry.state:
        case State.SYN_SENT | State.SYN_RECEIVED:
            return _note_opening(entry, remote, now_ns)
        case State.IDLE:
            return _note_idle(entry, remote, cooldown_s)
        case State.ESTABLISHED:
            return _note_established(entry, remote, now_ns)


def _note_opening(entry: ConnEntry, remote: str, now_ns: int) -> str:
    waited = f"waiting for {remote} for {_seconds_since(entry.state_since_ns, now_ns):.0f} s"
    if entry.flags & ConnFlag.RETRIED:
        return f"{waited}: it {_REFUSED}"
    if entry.state is State.SYN_RECEIVED:
        return f"{waited}: its SYN came, the end of the handshake did not"
    return f"{waited}: nothing was received; {_LOOK_THERE}"


def _note_idle(entry: ConnEntry, remote: str, cooldown_s: float) -> str:
    why = _ENDED.get(entry.last_reset, "")
    # `ack` is that of the peer's SYN+ACK or SYN; 0 as long as none came.
    if entry.last_reset is Reason.RESET_BY_PEER and not entry.ack:
        why = f"the peer {_REFUSED}"
    if cooldown_s > 0:
        more = f"; {_LOOK_THERE}" if entry.last_reset is Reason.NO_ANSWER else ""
        return f"cooling down for {cooldown_s:.0f} s more: {why or 'it ended'} ({remote}){more}"
    if entry.drops[CONN_DROPS.index("passive")]:
        return f"passive: datagrams are dropped until {remote} connects"
    return f"idle: {why}; the next datagram opens it again" if why else ""


def _note_established(entry: ConnEntry, remote: str, now_ns: int) -> str:
    quiet = _seconds_since(entry.state_since_ns, now_ns) > 3
    if quiet and entry.tx_packets and not entry.rx_packets and entry.role is not Role.NONE:
        return (
            f"one-way: {entry.tx_packets} datagrams were sent to {remote} and none came back;"
            " check that padding is the same at both ends"
        )
    return ""
