# SPDX-License-Identifier: GPL-2.0-only
"""The scripted peer's end of one fake-TCP connection. Pure: segments in, segments out.

With no quirk it follows the protocol; each quirk makes it err as a deployed mimic 0.7 does.
It has no timers: the script says when to repeat a SYN, to probe or to test for life.
"""

import enum
import random
from dataclasses import dataclass

from tests.rig.segment import (
    ACK,
    FIN,
    PSH,
    RST,
    SEQUENCE_SPACE,
    SYN,
    End,
    Segment,
    decode_datagram,
    decode_syn_options,
    encode_datagram,
    encode_syn_options,
    sequence_after,
)

FULL_WINDOW_BYTES = 0x3400000
SYN_WINDOW = 0xFFFF
SCALE = 12
MAX_WINDOW_SCALE = 14
PROBE_INTERVAL_S = 0.010


class State(enum.Enum):
    IDLE = "idle"
    SYN_SENT = "syn-sent"
    SYN_RECEIVED = "syn-received"
    ESTABLISHED = "established"


@dataclass(frozen=True)
class Quirks:
    """How this end errs."""

    data_overtakes_ack: bool = False
    """As initiator its first data goes out ahead of the ACK that establishes."""
    reset_with_seq_zero: bool = False
    growing_syn_ack: bool = False
    """A repeated SYN+ACK carries ISN+1, ISN+2, ..."""
    discards_first_data: bool = False
    """As responder it throws away the data of the segment that establishes."""
    keepalive_before_push: bool = False
    """It takes an empty or 1-byte datagram for a keepalive when the numbers look so."""
    keepalive_is_window_update: bool = False
    """It never answers a keepalive, as when it has missed the last data; probes it does answer."""
    no_push: bool = False
    """PSH only on datagrams under 2 bytes."""
    ack_to_crossing_syn: bool = False
    starved_window: bool = False
    """As responder its window field is 15 until it has received data; probes change nothing."""
    resets_unexpected: bool = False
    """A SYN on a living connection, a segment that a half-open one did not expect: RST."""


PLAIN = Quirks()
MIMIC = Quirks(
    data_overtakes_ack=True,
    reset_with_seq_zero=True,
    growing_syn_ack=True,
    discards_first_data=True,
    keepalive_before_push=True,
    no_push=True,
    ack_to_crossing_syn=True,
    starved_window=True,
    resets_unexpected=True,
)
"""What mimic 0.7 always does; `keepalive_is_window_update` needs a lost datagram first."""


class FakeTcp:
    """State machine of one connection. `delivered` collects the datagrams that came in."""

    def __init__(
        self,
        local: End,
        remote: End,
        *,
        padding: int = 0,
        quirks: Quirks = PLAIN,
        max_window: bool = False,
        resets_unknown: bool = True,
        mtu_bytes: int = 1500,
        chance: random.Random | None = None,
    ) -> None:
        self.local = local
        self.remote = remote
        self.padding = padding
        self.quirks = quirks
        self.max_window = max_window
        self.resets_unknown = resets_unknown
        self.mtu_bytes = mtu_bytes
        self.chance = chance or random.Random()
        self.delivered: list[bytes] = []
        self.malformed = 0
        """Data segments shorter than their padding."""
        self.window_drops = 0
        """Own datagrams that did not fit into the peer's window."""
        self.forget()

    def forget(self) -> None:
        """Lose the connection without a word, as a restarted program does."""
        self.state = State.IDLE
        self.isn = 0
        self.seq = 0
        self.ack = 0
        self.own_window = FULL_WINDOW_BYTES
        self.peer_window = SYN_WINDOW
        self.peer_scale = 0
        self.peer_isn: int | None = None
        self._waiting: list[bytes] = []
        self._probed_at_s: float | None = None
        self._keepalive_sent = False
        self._reset_retried = False

    # What the script asks for.

    def connect(self, datagrams: tuple[bytes, ...] = (), isn: int | None = None) -> list[Segment]:
        """SYN; the datagrams follow once it is answered."""
        self.forget()
        self._waiting = list(datagrams)
        self.isn = self.chance.getrandbits(32) if isn is None else isn
        self.seq = (self.isn + 1) % SEQUENCE_SPACE
        self.state = State.SYN_SENT
        return [self.syn()]

    def syn(self) -> Segment:
        """The SYN of the present connection, for the first time or again."""
        return self._segment(SYN, self.isn, 0, SYN_WINDOW, options=self._syn_options())

    def send(self, datagram: bytes, now_s: float) -> list[Segment]:
        """Data, or a handshake first when there is no connection."""
        if self.state is State.IDLE:
            return self.connect((datagram,))
        if self.state is not State.ESTABLISHED:
            self._waiting.append(datagram)
            return []
        return self._data(datagram, now_s)

    def probe(self, now_s: float) -> Segment:
        """A window probe, which consumes one sequence number."""
        self._probed_at_s = now_s
        segment = self._segment(ACK, self.seq, self.ack, self._window_field(), b"\0")
        self.seq = (self.seq + 1) % SEQUENCE_SPACE
        return segment

    def keepalive(self) -> Segment:
        self._keepalive_sent = True
        return self._segment(ACK, self.seq - 1, self.ack, self._window_field())

    def reset(self) -> Segment:
        """RST, and the connection is gone."""
        seq = 0 if self.quirks.reset_with_seq_zero else self.seq
        segment = self._segment(RST, seq, 0, 0)
        self.forget()
        return segment

    # What the wire brings.

    def receive(self, segment: Segment, now_s: float) -> list[Segment]:
        """What to answer to a segment of this connection whose checksum is right."""
        if segment.has(RST):
            return self._on_reset(segment)
        if segment.has(FIN):
            return [] if self.state is State.IDLE else [self.reset()]
        if self.state is not State.IDLE and sequence_after(segment.seq, self.ack) >= 0:
            scale = 0 if segment.has(SYN) else self.peer_scale
            self.peer_window = segment.window << scale
            self._probed_at_s = None
        if self.state is State.IDLE:
            return self._on_idle(segment)
        if self.state is State.SYN_SENT:
            return self._on_syn_sent(segment, now_s)
        if self.state is State.SYN_RECEIVED:
            return self._on_syn_received(segment, now_s)
        return self._on_established(segment)

    def _on_reset(self, segment: Segment) -> list[Segment]:
        retries = not self._reset_retried and not self.quirks.resets_unexpected
        if self.state is State.SYN_SENT and retries:
            answer = self.connect(tuple(self._waiting))
            self._reset_retried = True
            return answer
        self.forget()
        return []

    def _on_idle(self, segment: Segment) -> list[Segment]:
        if segment.has(SYN) and not segment.has(ACK):
            return self._accept(segment)
        if not self.resets_unknown:
            return []
        return [self._segment(RST, segment.ack, 0, 0)]

    def _accept(self, segment: Segment) -> list[Segment]:
        """As responder: take the peer's numbers and options, answer SYN+ACK."""
        options = decode_syn_options(segment.options)
        if options is None:
            return []
        self.forget()
        self._take_syn(segment)
        self.isn = self.chance.getrandbits(32)
        if self.quirks.starved_window:
            self.own_window = SYN_WINDOW
        self.state = State.SYN_RECEIVED
        self.seq = self.isn
        return [self._syn_ack()]

    def _syn_ack(self) -> Segment:
        """For the first time, or again: the same, or with the next number."""
        if self.state is State.SYN_RECEIVED and not self.quirks.growing_syn_ack:
            self.seq = self.isn
        segment = self._segment(
            SYN | ACK, self.seq, self.ack, SYN_WINDOW, options=self._syn_options()
        )
        self.seq = (self.seq + 1) % SEQUENCE_SPACE
        return segment

    def _take_syn(self, segment: Segment) -> None:
        options = decode_syn_options(segment.options)
        self.peer_isn = segment.seq
        self.peer_scale = (options.scale or 0) if options else 0
        self.peer_window = segment.window
        self.ack = (segment.seq + 1 + len(segment.payload)) % SEQUENCE_SPACE

    def _on_syn_sent(self, segment: Segment, now_s: float) -> list[Segment]:
        acknowledged = segment.has(ACK) and segment.ack == (self.isn + 1) % SEQUENCE_SPACE
        if segment.has(SYN | ACK) and (acknowledged or self.quirks.resets_unexpected):
            self._take_syn(segment)
            return self._establish(now_s, as_initiator=True)
        if segment.has(SYN) and not segment.has(ACK):
            return self._on_crossing_syn(segment)
        if acknowledged and self.peer_isn is not None:
            return self._establish(now_s, as_initiator=True)
        return [self.reset()] if self.quirks.resets_unexpected else []

    def _on_crossing_syn(self, segment: Segment) -> list[Segment]:
        self._take_syn(segment)
        if self.quirks.ack_to_crossing_syn:
            self.state = State.SYN_RECEIVED
            return [self._bare_ack()]
        if self.local > self.remote:
            return []
        self.state = State.SYN_RECEIVED
        return [self._syn_ack()]

    def _on_syn_received(self, segment: Segment, now_s: float) -> list[Segment]:
        if segment.has(SYN) and not segment.has(ACK):
            if segment.seq == self.peer_isn:
                return [self._syn_ack()]
            return [self.reset()] if self.quirks.resets_unexpected else self._accept(segment)
        if segment.has(SYN):
            if self.quirks.resets_unexpected:
                return [self.reset()]
            return self._establish(now_s, as_initiator=True)
        if segment.ack != self.seq and not self.quirks.resets_unexpected:
            return []
        answer = self._establish(now_s, as_initiator=False)
        if segment.payload and self.quirks.discards_first_data:
            self.ack = (segment.seq + len(segment.payload)) % SEQUENCE_SPACE
            return answer
        return answer + self._on_established(segment)

    def _establish(self, now_s: float, as_initiator: bool) -> list[Segment]:
        self.state = State.ESTABLISHED
        waiting, self._waiting = self._waiting, []
        # A responder says its scaled window at once, else a firewall goes on with the SYN's.
        says_window = as_initiator or not self.quirks.starved_window
        acks = [self._bare_ack()] if says_window else []
        data = [segment for datagram in waiting for segment in self._data(datagram, now_s)]
        return data + acks if as_initiator and self.quirks.data_overtakes_ack else acks + data

    def _on_established(self, segment: Segment) -> list[Segment]:
        if segment.has(SYN):
            return self._on_late_syn(segment)
        length = len(segment.payload)
        push = segment.has(PSH)
        looks_alive = segment.seq == (self.ack - 1) % SEQUENCE_SPACE and length < 2
        if looks_alive and (not push or self.quirks.keepalive_before_push):
            return [] if self.quirks.keepalive_is_window_update else [self._bare_ack()]
        if self._keepalive_sent and length == 0 and not push:
            self._keepalive_sent = False
            return []
        if length == 1 and not push:
            self.ack = (segment.seq + 1) % SEQUENCE_SPACE
            if not self.quirks.starved_window:
                self.own_window = FULL_WINDOW_BYTES
            return [self._bare_ack()]
        if length == 0 and not push:
            return []
        return self._on_data(segment)

    def _on_late_syn(self, segment: Segment) -> list[Segment]:
        if self.quirks.resets_unexpected:
            return [self.reset()]
        if segment.has(ACK) or segment.seq == self.peer_isn:
            return [self._bare_ack()]
        return self._accept(segment)

    def _on_data(self, segment: Segment) -> list[Segment]:
        length = len(segment.payload)
        datagram = decode_datagram(segment.payload, self.padding, segment.seq, segment.ack)
        if datagram is None:
            self.malformed += 1
            return []
        self.delivered.append(datagram)
        self.ack = (segment.seq + length) % SEQUENCE_SPACE
        bound = self.chance.randrange(FULL_WINDOW_BYTES // 4, FULL_WINDOW_BYTES // 2)
        restores = self.own_window <= bound
        if restores:
            self.own_window = FULL_WINDOW_BYTES
        self.own_window -= length
        return [self._bare_ack()] if restores else []

    # What goes out.

    def _data(self, datagram: bytes, now_s: float) -> list[Segment]:
        payload = encode_datagram(datagram, self.padding, self.seq, self.ack)
        if len(payload) > self.peer_window:
            self.window_drops += 1
            return [self._probe_again(now_s)] if self._may_probe(now_s) else []
        flags = ACK if self.quirks.no_push and len(datagram) >= 2 else ACK | PSH
        out = [self._segment(flags, self.seq, self.ack, self._window_field(), payload)]
        self.seq = (self.seq + len(payload)) % SEQUENCE_SPACE
        self.peer_window -= len(payload)
        if self.peer_window < FULL_WINDOW_BYTES // 2 and self._may_probe(now_s):
            out.append(self.probe(now_s))
        return out

    def _may_probe(self, now_s: float) -> bool:
        return self._probed_at_s is None or now_s - self._probed_at_s >= PROBE_INTERVAL_S

    def _probe_again(self, now_s: float) -> Segment:
        """A first probe, or the outstanding one repeated without a new sequence number."""
        if self._probed_at_s is not None:
            self.seq = (self.seq - 1) % SEQUENCE_SPACE
        return self.probe(now_s)

    def _bare_ack(self) -> Segment:
        return self._segment(ACK, self.seq, self.ack, self._window_field())

    def _window_field(self) -> int:
        return 0xFFFF if self.max_window else self.own_window >> SCALE

    def _syn_options(self) -> bytes:
        mss = self.mtu_bytes - (40 if self.local.version == 4 else 60)
        return encode_syn_options(mss, MAX_WINDOW_SCALE if self.max_window else SCALE)

    def _segment(
        self,
        flags: int,
        seq: int,
        ack: int,
        window: int,
        payload: bytes = b"",
        options: bytes = b"",
    ) -> Segment:
        seq, ack = seq % SEQUENCE_SPACE, ack % SEQUENCE_SPACE
        return Segment(self.local, self.remote, flags, seq, ack, window, payload, options)
