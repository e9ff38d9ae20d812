# SPDX-License-Identifier: GPL-2.0-only
"""The state machine of one connection as its description has it, to be compared with the programs.

Written from docs/state-machine.md and the protocol, row by row, apart from the code under test.
What the programs leave to chance is told to the model, which says whether it may be so. Time is
virtual: nanoseconds that go by only when the script says so.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from mimicd.core import abi
from mimicd.core.abi import ConnFlag, Operation, Reason
from mimicd.core.connection import Role, State
from mimicd.core.model import PADDING_RANDOM, FlowSettings
from tests.rig.segment import ACK, FIN, PSH, RST, SYN

MS, S = 1_000_000, 1_000_000_000
WORD = 1 << 32
WINDOW = {False: 0x3400000, True: 65535 << 14}
"""Of ours, by max_window."""
SCALE = {False: 12, True: 14}
PROBE_BELOW = 0x3400000 // 2
PROBE_EVERY_NS = RESET_EVERY_NS = 10 * MS
DRAIN_NS = S
DRAIN_TOTAL_NS = 10 * S
DRAIN_FLAGS = ConnFlag.DRAINING | ConnFlag.DRAIN_OVERTAKEN
DRAIN_SETTLE_NS = S // 10
HALF_OPEN_NS = 8 * S
PROOF_NS = 6 << 34
"""So long after a SYN an established connection may be replaced."""
ISN_STEP = range(0x10000, 0x10000 + 0x10000000)
"""How far a new ISN lies above the last number used."""
NO_FLAG = ConnFlag(0)
KEPT = ConnFlag.CROSS_SILENTLY | ConnFlag.HINT_FAILED
"""From one attempt to open to the next."""
DROPS = {name: number for number, name in enumerate(abi.CONN_DROPS)}


def before(a: int, b: int) -> bool:
    """In sequence space."""
    return (a - b) % WORD >= WORD // 2


def ahead(a: int, b: int) -> int:
    """How far a is ahead of b."""
    return (a - b) % WORD


@dataclass(frozen=True, slots=True)
class Incoming:
    """A segment as the state machine sees it; its checksum is right."""

    flags: int
    seq: int
    ack: int
    window: int
    length: int
    scale: int = 0
    mss: int = 0
    proves_scale: int | None = None
    """Where its ack is a stateless ISN of ours plus one: the window scale of that."""
    cookie: int = 0
    """What a SYN is answered with, where nothing is kept."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A segment that leaves."""

    flags: int
    seq: int
    ack: int
    window: int
    length: int = 0


@dataclass(slots=True)
class Outcome:
    """What one event leads to."""

    answer: Outgoing | None = None
    """To a segment, or in place of a datagram."""
    delivered: int | None = None
    """The padding of a segment whose datagram is delivered."""
    data: Outgoing | None = None
    """A datagram's segment; `padding` is that of it."""
    padding: int = 0
    held: bool = False
    counted: Counter[str] = field(default_factory=Counter)
    events: list[tuple[str, State, Role, Reason, int]] = field(default_factory=list)


@dataclass(slots=True)
class Entry:
    """As abi.ConnEntry; times are virtual, 0 for never."""

    state: State = State.IDLE
    role: Role = Role.NONE
    seq: int = 0
    ack: int = 0
    window: int = 0
    peer_window: int = 0
    isn: int = 0
    peer_isn: int = 0
    probe_seq: int = 0
    stray_next: int = 0
    generation: int = 0
    held: int = 0
    resent: int = 0
    peer_wscale: int = 0
    peer_mss: int = 0
    flags: ConnFlag = NO_FLAG
    cooldown_step: int = 0
    last_reset: Reason = Reason.NONE
    tx_packets: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    rx_bytes: int = 0
    drops: list[int] = field(default_factory=lambda: [0] * len(abi.CONN_DROPS))
    state_since_ns: int = 0
    reset_ns: int = 0
    last_rx_ns: int = 0
    last_active_ns: int = 0
    last_tx_ns: int = 0
    last_probe_ns: int = 0
    drain_until_ns: int = 0
    syn_answered_ns: int = 0


@dataclass(slots=True)
class Hint:
    """A SYN that was answered and not kept."""

    at_ns: int
    isn: int
    peer_isn: int
    ack: int
    mss: int
    scale: int


class Chance(Protocol):
    """What the programs drew."""

    def isn(self) -> int: ...
    def restored(self) -> bool:
        """Whether the window was restored, where either is right."""


@dataclass(slots=True)
class Model:
    """One flow; `entry` None: nothing is kept of it."""

    settings: FlowSettings
    we_are_higher: bool
    uptime_ns: int
    now_ns: int = 1000 * S
    entry: Entry | None = None
    hint: Hint | None = None
    reset_at_ns: int = 0

    # What leaves.

    def send(self, length: int, resent: bool, chance: Chance) -> Outcome:
        """A datagram, or one that user space held."""
        out = Outcome()
        entry = self.entry
        passive = self.settings.handshake.is_passive
        if entry is None:
            if resent:
                out.counted["drop-resend-late"] += 1
                return out
            if passive and not self._hint_counts(None):
                out.counted["drop-passive"] += 1
                return out
            entry = self.entry = Entry()
        if entry.state is State.ESTABLISHED:
            self._send_established(entry, length, resent, out)
        elif resent:
            self._refuse(entry, out, "drop-resend-late", "lost-held")
        elif entry.state is not State.IDLE:
            self._hold(entry, out)
        elif self._hint_counts(entry):
            assert self.hint is not None
            entry.isn, entry.peer_isn = self.hint.isn, self.hint.peer_isn
            entry.seq, entry.ack = (self.hint.isn + 1) % WORD, self.hint.ack
            entry.peer_wscale, entry.peer_mss = self.hint.scale, self.hint.mss
            self._enter(entry, State.SYN_RECEIVED, Role.RESPONDER)
            self._hold(entry, out, Reason.OPENED)
        elif passive:
            self._refuse(entry, out, "drop-passive", "passive")
        elif entry.cooldown_step and self.now_ns < self._cooldown_end(entry):
            self._refuse(entry, out, "drop-cooldown", "cooldown")
        else:
            self._open(entry, chance)
            self._hold(entry, out, Reason.OPENED)
            out.answer = Outgoing(SYN, entry.isn, 0, 65535)
            out.counted["tx-syn"] += 1
        return out

    def _send_established(self, entry: Entry, length: int, resent: bool, out: Outcome) -> None:
        if entry.flags & ConnFlag.DRAINING:
            if resent:
                entry.resent += entry.resent != entry.held
                last = entry.resent == entry.held
                entry.drain_until_ns = self.now_ns + (DRAIN_SETTLE_NS if last else DRAIN_NS)
            elif self.now_ns > entry.drain_until_ns:
                entry.drops[DROPS["lost-held"]] += entry.held - entry.resent
                entry.resent = entry.held
                entry.flags &= ~DRAIN_FLAGS
            else:
                too_many = entry.held - entry.resent >= abi.HELD_MAX
                if too_many or self.now_ns - entry.state_since_ns > DRAIN_TOTAL_NS:
                    entry.flags |= ConnFlag.DRAIN_OVERTAKEN
                if not entry.flags & ConnFlag.DRAIN_OVERTAKEN:
                    self._hold(entry, out)
                    return
        padding = self._padding(entry.seq, entry.ack)
        payload = length + padding
        probe = (
            entry.peer_window < PROBE_BELOW and self.now_ns - entry.last_probe_ns >= PROBE_EVERY_NS
        )
        if payload > entry.peer_window:
            self._refuse(entry, out, "drop-window", "window")
            if probe:
                out.answer = self._probe(entry, out)
            return
        out.data = Outgoing(ACK | PSH, entry.seq, entry.ack, self._field(entry.window), payload)
        out.padding = padding
        out.counted["tx-data"] += 1
        out.counted["resent"] += resent
        entry.seq = (entry.seq + payload) % WORD
        entry.peer_window -= payload
        entry.last_tx_ns = self.now_ns
        entry.tx_packets += 1
        entry.tx_bytes += length
        if probe:
            entry.flags &= ~ConnFlag.PROBE_OUT  # data lies behind an older one: a new byte
            out.answer = self._probe(entry, out)

    def _probe(self, entry: Entry, out: Outcome) -> Outgoing:
        repeated = entry.flags & ConnFlag.PROBE_OUT and (entry.probe_seq + 1) % WORD == entry.seq
        if not repeated:
            entry.probe_seq = entry.seq
            entry.seq = (entry.seq + 1) % WORD
        entry.flags |= ConnFlag.PROBE_OUT
        entry.last_probe_ns = self.now_ns
        out.counted["tx-probe"] += 1
        return Outgoing(ACK, entry.probe_seq, entry.ack, self._field(entry.window), 1)

    def _hold(self, entry: Entry, out: Outcome, reason: Reason = Reason.NONE) -> None:
        if entry.held - entry.resent >= abi.HELD_MAX:
            self._refuse(entry, out, "drop-held-full", "held-full")
            return
        entry.held += 1
        out.held = True
        out.counted["held"] += 1
        out.events.append(("HELD", entry.state, entry.role, reason, entry.generation))

    def command(self, operation: int, generation: int, argument: int) -> Outcome:
        """Of the daemon."""
        out = Outcome()
        entry = self.entry
        stale = entry is None or entry.generation != generation or entry.state is State.IDLE
        if stale or entry is None:
            out.counted["drop-stale-command"] += 1
            return out
        state = entry.state
        if operation == Operation.SYN:
            entry.flags &= ~ConnFlag.CROSS_PENDING
        crossed = state is State.SYN_RECEIVED and entry.flags & ConnFlag.CROSSED
        if operation == Operation.SYN and crossed:
            out.answer = Outgoing(SYN | ACK, entry.isn, entry.ack, 65535)
            out.counted["tx-syn-ack"] += 1
        elif operation == Operation.SYN and state is State.SYN_SENT:
            out.answer = Outgoing(SYN, entry.isn, 0, 65535)
            out.counted["tx-syn"] += 1
        elif operation == Operation.KEEPALIVE and state is State.ESTABLISHED:
            entry.flags |= ConnFlag.KEEPALIVE_OUT
            seq = (entry.seq - 1) % WORD
            out.answer = Outgoing(ACK, seq, entry.ack, self._field(entry.window))
            out.counted["tx-keepalive"] += 1
        elif operation == Operation.PROBE and state is State.ESTABLISHED:
            out.answer = self._probe(entry, out)
        elif operation == Operation.RESET:
            flags = RST | ACK if entry.ack else RST
            out.answer = Outgoing(flags, entry.seq, entry.ack, 0)
            out.counted["tx-rst"] += 1
            self._reset(entry, Reason(argument), out)
        elif operation == Operation.RELEASE:
            lost = min(argument, entry.held - entry.resent)
            entry.resent += lost
            entry.drops[DROPS["lost-held"]] += lost
            out.counted["drop-lost-held"] += 1
            return out
        elif operation == Operation.DRAINED:
            if entry.resent == entry.held:
                entry.flags &= ~DRAIN_FLAGS
            out.counted["drained"] += 1
            return out
        else:
            out.counted["drop-stale-command"] += 1
            return out
        entry.last_tx_ns = self.now_ns
        return out

    # What comes.

    def receive(self, segment: Incoming, chance: Chance) -> Outcome:
        """A segment of the peer, or of somebody who would like to be it."""
        out = Outcome()
        entry, flags = self.entry, segment.flags
        if flags & RST:
            kind = "RST"
        elif flags & SYN and flags & FIN:
            out.counted["drop-rx-flags"] += 1
            return out
        elif flags & SYN:
            kind = "SYN+ACK" if flags & ACK else "SYN"
        else:
            kind = "FIN" if flags & FIN else "ACK" if flags & ACK else "nothing"
        state = entry.state if entry else State.IDLE
        proof = kind == "ACK" and segment.proves_scale is not None
        if entry is None or state is State.IDLE:
            if kind == "SYN":
                self._answer_statelessly(segment, out)
            elif proof:
                self._replace(segment, out, chance)
            else:
                self._stray(kind, segment, out)
            return out
        match state, kind:
            case _, "RST":
                self._receive_reset(entry, segment, out, chance)
            case State.SYN_SENT, "SYN":
                out.counted["rx-syn"] += 1
                entry.last_rx_ns = self.now_ns
                self._take_syn(entry, segment)
                first = not entry.flags & ConnFlag.CROSSED
                # what answers it, or our SYN again, user space asks for a moment later
                entry.flags |= ConnFlag.CROSSED | ConnFlag.CROSS_PENDING
                if not (self.we_are_higher or entry.flags & ConnFlag.CROSS_SILENTLY):
                    entry.state = State.SYN_RECEIVED
                if first:
                    self._tell(entry, out, Reason.CROSSED)
            case State.SYN_SENT | State.SYN_RECEIVED, "SYN+ACK":
                if segment.ack == entry.seq:
                    out.counted["rx-syn-ack"] += 1
                    self._take_syn(entry, segment)
                    entry.peer_window = segment.window
                    self._establish(entry, out)
                    self._acknowledge(entry, out)
                else:
                    self._drop(entry, out, "drop-rx-ack")
                    self._answer_reset(segment, out)
            case State.SYN_SENT, "ACK" if (
                entry.flags & ConnFlag.CROSSED and segment.ack == entry.seq
            ):
                out.counted["rx-ack"] += 1
                entry.last_rx_ns = self.now_ns
                entry.flags &= ~ConnFlag.CROSS_PENDING
                self._answer(out, SYN, entry.isn, 0, 65535)
            case State.SYN_RECEIVED, "SYN" if (
                entry.role is Role.RESPONDER and segment.seq != entry.peer_isn
            ):
                self._answer_statelessly(segment, out)
            case State.SYN_RECEIVED, "SYN":
                out.counted["rx-syn"] += 1
                entry.last_rx_ns = self.now_ns
                entry.flags &= ~ConnFlag.CROSS_PENDING
                self._take_syn(entry, segment)
                self._answer(out, SYN | ACK, entry.isn, entry.ack, 65535)
            case State.SYN_SENT | State.SYN_RECEIVED, "ACK" if proof:
                self._replace(segment, out, chance)
            case State.SYN_RECEIVED, "ACK" if (
                segment.ack == entry.seq and not entry.flags & ConnFlag.CROSS_PENDING
            ):
                entry.peer_window = segment.window << entry.peer_wscale
                self._establish(entry, out)
                self._acknowledge(entry, out, count=False)
                self._receive_established(entry, segment, out, chance)
            case State.SYN_RECEIVED | State.ESTABLISHED, "FIN" if self._in_window(entry, segment):
                out.counted["rx-fin"] += 1
                entry.last_rx_ns = self.now_ns
                ack = (segment.seq + segment.length + 1) % WORD
                self._answer(out, RST | ACK, entry.seq, ack, 0)
                self._reset(entry, Reason.CLOSED_BY_PEER, out)
            case State.ESTABLISHED, "SYN" if segment.seq != entry.peer_isn:
                self._answer_statelessly(segment, out)
            case State.ESTABLISHED, "SYN" | "SYN+ACK":
                out.counted["rx-syn" if kind == "SYN" else "rx-syn-ack"] += 1
                entry.last_rx_ns = self.now_ns
                ours = (entry.isn + 1) % WORD
                # the peer repeats it with a growing seq, and goes on from the last one
                quiet = entry.last_active_ns == entry.state_since_ns
                if kind == "SYN+ACK" and entry.role is Role.INITIATOR and quiet:
                    entry.ack = (segment.seq + 1) % WORD if segment.ack == ours else entry.ack
                self._acknowledge(entry, out)
            case State.ESTABLISHED, "ACK":
                if proof and self._replaceable(entry) and segment.ack != (entry.isn + 1) % WORD:
                    self._replace(segment, out, chance)
                else:
                    self._receive_established(entry, segment, out, chance)
            case _, "nothing":
                self._drop(entry, out, "drop-rx-flags")
            case _:
                self._drop(entry, out, "drop-rx-unexpected")
        return out

    def _receive_established(
        self, entry: Entry, segment: Incoming, out: Outcome, chance: Chance
    ) -> None:
        keepalive_out = entry.flags & ConnFlag.KEEPALIVE_OUT
        entry.last_rx_ns = self.now_ns
        entry.flags &= ~ConnFlag.KEEPALIVE_OUT
        is_ahead = before(entry.seq, segment.ack)
        probed = (entry.probe_seq + 1) % WORD
        answers_probe = entry.flags & ConnFlag.PROBE_OUT and segment.ack == probed
        in_window = ahead(segment.seq, entry.ack) <= self._full
        if not is_ahead and not before(segment.ack, probed):
            entry.flags &= ~ConnFlag.PROBE_OUT
        if not is_ahead and (answers_probe or in_window):
            edge = (segment.ack + (segment.window << entry.peer_wscale)) % WORD
            entry.peer_window = 0 if before(edge, entry.seq) else ahead(edge, entry.seq)
        is_keepalive = segment.seq == (entry.ack - 1) % WORD and segment.length < 2
        if segment.flags & PSH or (segment.length > 1 and not is_keepalive):
            self._receive_data(entry, segment, out, chance)
        elif is_ahead:
            # the peer expects what we never sent: a probe says what we did
            self._drop(entry, out, "drop-rx-ack")
            if segment.length:
                self._take_ack(entry, segment)
            if self.now_ns - entry.last_probe_ns >= PROBE_EVERY_NS:
                out.answer = self._probe(entry, out)
            return
        elif is_keepalive:
            out.counted["rx-keepalive"] += 1
            self._acknowledge(entry, out)
        elif segment.length == 0:
            out.counted["rx-ack"] += 1
            if not keepalive_out:
                entry.last_active_ns = self.now_ns
        else:
            out.counted["rx-probe"] += 1
            entry.last_active_ns = self.now_ns
            self._take_ack(entry, segment)
            entry.window = self._full
            self._acknowledge(entry, out)
        if out.delivered is None and out.answer is not None:
            out.counted["tx-ack"] = 1

    def _take_ack(self, entry: Entry, segment: Incoming) -> None:
        end = (segment.seq + segment.length) % WORD
        near = min(ahead(segment.seq, entry.ack), ahead(entry.ack, segment.seq)) <= self._full
        if near or entry.stray_next in (segment.seq, end):
            entry.ack = end
        else:
            entry.stray_next = end

    def _receive_data(self, entry: Entry, segment: Incoming, out: Outcome, chance: Chance) -> None:
        padding = self._padding(segment.seq, segment.ack)
        if segment.length < padding:
            self._drop(entry, out, "drop-rx-short")
            return
        out.counted["rx-data"] += 1
        out.delivered = padding
        entry.flags &= ~ConnFlag.CROSSED
        entry.last_active_ns = self.now_ns
        self._take_ack(entry, segment)
        entry.rx_packets += 1
        entry.rx_bytes += segment.length - padding
        must = entry.window <= self._full // 4
        may = entry.window < self._full // 2
        if must or (may and chance.restored()):
            entry.window = self._full - segment.length
            self._acknowledge(entry, out, count=False)
        else:
            entry.window -= segment.length
            if out.answer is not None:
                self._acknowledge(entry, out, count=False)
        out.counted["tx-window-update"] += out.answer is not None

    def _receive_reset(self, entry: Entry, segment: Incoming, out: Outcome, chance: Chance) -> None:
        if entry.state is State.SYN_SENT:
            crossed = entry.flags & ConnFlag.CROSSED and segment.seq == entry.ack
            if segment.flags & ACK:
                acceptable = segment.ack == entry.seq
            else:
                acceptable = segment.seq == 0 or bool(crossed)
        else:
            acceptable = segment.seq == 0 or self._in_window(entry, segment)
        if not acceptable:
            self._drop(entry, out, "drop-rx-reset")
            return
        out.counted["rx-rst"] += 1
        entry.last_rx_ns = self.now_ns
        if entry.state is not State.SYN_SENT and entry.flags & ConnFlag.CROSSED:
            entry.flags |= ConnFlag.CROSS_SILENTLY
        first = entry.role is Role.INITIATOR and not entry.flags & ConnFlag.RETRIED
        if entry.state is not State.ESTABLISHED and first:
            entry.flags = entry.flags & KEPT | ConnFlag.RETRIED
            self._open(entry, chance)
            self._answer(out, SYN, entry.isn, 0, 65535)
            self._tell(entry, out, Reason.OPENED)
        else:
            self._reset(entry, Reason.RESET_BY_PEER, out)

    def _stray(self, kind: str, segment: Incoming, out: Outcome) -> None:
        out.counted["drop-rx-no-connection"] += 1
        if kind in ("ACK", "SYN+ACK"):
            self._answer_reset(segment, out)
        hint = self.hint
        if kind == "RST" and hint and segment.seq in (0, hint.ack):
            self.hint = None

    def _answer_reset(self, segment: Incoming, out: Outcome) -> None:
        if self.now_ns - self.reset_at_ns >= RESET_EVERY_NS:
            self.reset_at_ns = self.now_ns
            self._answer(out, RST, segment.ack, 0, 0)

    def _answer_statelessly(self, segment: Incoming, out: Outcome) -> None:
        out.counted["rx-syn"] += 1
        ack = (segment.seq + 1 + segment.length) % WORD
        self._answer(out, SYN | ACK, segment.cookie, ack, 65535)
        hint = (segment.cookie, segment.seq, ack, segment.mss, segment.scale)
        self.hint = Hint(self.now_ns, *hint)
        if self.entry is not None:
            self.entry.syn_answered_ns = self.now_ns

    def _replace(self, segment: Incoming, out: Outcome, chance: Chance) -> None:
        """The peer has proven that it received our stateless answer."""
        entry = self.entry = self.entry or Entry()
        assert segment.proves_scale is not None
        living = entry.state is State.ESTABLISHED
        entry.generation = (entry.generation + 1) % WORD
        entry.role = Role.RESPONDER
        entry.isn, entry.seq = (segment.ack - 1) % WORD, segment.ack
        entry.peer_isn, entry.ack = (segment.seq - 1) % WORD, segment.seq
        entry.peer_wscale, entry.peer_mss = segment.proves_scale, 0
        if self.hint and self.hint.isn == entry.isn:
            entry.peer_isn, entry.peer_mss = self.hint.peer_isn, self.hint.mss
        self._establish(entry, out, Reason.RESTARTED_BY_PEER if living else Reason.ESTABLISHED)
        self._acknowledge(entry, out, count=False)
        self._receive_established(entry, segment, out, chance)

    # Parts of it.

    @property
    def _full(self) -> int:
        return WINDOW[self.settings.max_window]

    def _field(self, window: int) -> int:
        return 65535 if self.settings.max_window else min(window >> 12, 65535)

    def _padding(self, seq: int, ack: int) -> int:
        padding = self.settings.padding
        return (seq + ack) % WORD % 11 if padding == PADDING_RANDOM else padding

    def _in_window(self, entry: Entry, segment: Incoming) -> bool:
        return ahead(segment.seq, entry.ack) < self._full

    def _replaceable(self, entry: Entry) -> bool:
        since = entry.syn_answered_ns or self.now_ns - self.uptime_ns
        return self.now_ns - since < PROOF_NS

    def _hint_counts(self, entry: Entry | None) -> bool:
        ended_ns = entry.reset_ns if entry else 0
        hint = self.hint
        if entry and entry.flags & ConnFlag.HINT_FAILED:
            return False
        return hint is not None and ended_ns < hint.at_ns > self.now_ns - HALF_OPEN_NS

    def _cooldown_end(self, entry: Entry) -> int:
        since = max(entry.reset_ns, entry.last_rx_ns)
        return since + (5 * S << (entry.cooldown_step - 1))

    def _take_syn(self, entry: Entry, segment: Incoming) -> None:
        entry.peer_isn = segment.seq
        entry.ack = (segment.seq + 1 + segment.length) % WORD
        entry.peer_wscale, entry.peer_mss = segment.scale, segment.mss

    def _enter(self, entry: Entry, state: State, role: Role) -> None:
        entry.state, entry.role = state, role
        entry.state_since_ns = self.now_ns
        entry.generation = (entry.generation + 1) % WORD

    def _open(self, entry: Entry, chance: Chance) -> None:
        isn = chance.isn()
        assert not entry.seq or ahead(isn, entry.seq) in ISN_STEP
        entry.isn, entry.seq = isn, (isn + 1) % WORD
        entry.ack = entry.peer_isn = entry.peer_wscale = entry.peer_mss = 0
        entry.last_tx_ns = self.now_ns
        self._enter(entry, State.SYN_SENT, Role.INITIATOR)

    def _establish(self, entry: Entry, out: Outcome, reason: Reason = Reason.ESTABLISHED) -> None:
        # a RST may still be the answer to our crossing SYN+ACK
        crossed = entry.flags & ConnFlag.CROSSED
        entry.flags = crossed if entry.state is State.SYN_RECEIVED else NO_FLAG
        entry.state = State.ESTABLISHED
        entry.state_since_ns = entry.last_rx_ns = entry.last_active_ns = self.now_ns
        entry.window = self._full
        entry.cooldown_step = entry.last_probe_ns = entry.syn_answered_ns = 0
        entry.last_reset = Reason.NONE
        entry.held, entry.resent = entry.held - entry.resent, 0
        if entry.held:
            entry.flags |= ConnFlag.DRAINING
            entry.drain_until_ns = self.now_ns + DRAIN_NS
        self._tell(entry, out, reason)

    def _reset(self, entry: Entry, reason: Reason, out: Outcome) -> None:
        if reason is Reason.STALE:
            entry.cooldown_step = 0
        elif entry.role is Role.INITIATOR:
            entry.cooldown_step = min(entry.cooldown_step + 1, 4)
        entry.drops[DROPS["lost-held"]] += entry.held - entry.resent
        entry.held = entry.resent = 0
        entry.flags &= KEPT
        if entry.state is State.SYN_RECEIVED and entry.role is Role.RESPONDER:
            entry.flags |= ConnFlag.HINT_FAILED
        entry.last_reset = reason
        entry.reset_ns = self.now_ns
        self._enter(entry, State.IDLE, entry.role)
        self._tell(entry, out, reason)

    def _tell(self, entry: Entry, out: Outcome, reason: Reason) -> None:
        out.events.append(("STATE", entry.state, entry.role, reason, entry.generation))

    def _acknowledge(self, entry: Entry, out: Outcome, count: bool = True) -> None:
        answer = Outgoing(ACK, entry.seq, entry.ack, self._field(entry.window))
        out.answer = answer
        if count:
            out.counted["tx-ack"] = 1

    def _answer(self, out: Outcome, flags: int, seq: int, ack: int, window: int) -> None:
        out.answer = Outgoing(flags, seq, ack, window)
        names = {SYN: "tx-syn", SYN | ACK: "tx-syn-ack", RST: "tx-rst", RST | ACK: "tx-rst"}
        out.counted[names[flags]] += 1

    def _drop(self, entry: Entry, out: Outcome, counter: str) -> None:
        entry.drops[DROPS["received"]] += 1
        out.counted[counter] += 1

    def _refuse(self, entry: Entry, out: Outcome, counter: str, drop: str) -> None:
        entry.drops[DROPS[drop]] += 1
        out.counted[counter] += 1
