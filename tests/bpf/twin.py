# SPDX-License-Identifier: GPL-2.0-only
"""The programs and the model, led through the same events and compared after each one.

Before an event everything that the programs keep of the flow is written as the model has it, with
its virtual times turned into real ones; afterwards it is read and turned back. So hours go by in
no time, and nothing depends on how fast the machine is: an event that it held up, so that one of
the programs' deadlines may have come in between, is undone and done again.
"""

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from mimicd.core import abi
from mimicd.core.abi import ConnEntry, Operation
from mimicd.core.connection import State
from mimicd.core.frames import command_frame
from mimicd.core.model import PADDING_RANDOM, Filter, FlowSettings, Origin
from tests.bpf.disguised import restored
from tests.bpf.model import (
    DRAIN_NS,
    DRAIN_SETTLE_NS,
    MS,
    WORD,
    Entry,
    Hint,
    Incoming,
    Model,
    Outcome,
    Outgoing,
    S,
)
from tests.bpf.packets import link_header, udp_frame
from tests.bpf.plane import (
    COMMAND_MARK,
    COOKIE_KEY,
    RESEND_MARK,
    Arrival,
    Arrived,
    Departure,
    Plane,
    now_ns,
)
from tests.bpf.siphash import siphash
from tests.rig.program_run import ProgramRun
from tests.rig.segment import (
    ACK,
    FIN,
    RANDOM_PADDING,
    RST,
    SYN,
    End,
    Segment,
    decode_datagram,
    decode_packet,
    decode_syn_options,
    encode_packet,
    encode_syn_options,
)

T = TypeVar("T")

HELD_UP_NS = 5 * MS
"""Half of the shortest time that the programs measure."""
EPOCH_SHIFT = 34
TIMES = tuple(field.name for field in fields(Entry) if field.name.endswith("_ns"))
VALUES = tuple(field.name for field in fields(Entry) if not field.name.endswith("_ns"))
_HALF_OPEN = struct.Struct("=QIIHBxI")
_RULE = 1


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of one event: when it began and ended, and by how much virtual time is behind."""

    began_ns: int
    ended_ns: int
    behind_ns: int

    def virtual(self, real_ns: int, virtual_now_ns: int, drain: bool = False) -> int:
        """A time that the programs wrote or left; 0 is never."""
        for later in (DRAIN_NS, DRAIN_SETTLE_NS) if drain else (0,):
            if real_ns and self.began_ns <= real_ns - later <= self.ended_ns:
                return virtual_now_ns + later
        return real_ns - self.behind_ns if real_ns else 0


class Drawn:
    """What the programs drew, seen in the entry that they left."""

    def __init__(self, before: Entry | None, after: ConnEntry | None) -> None:
        self._before, self._after = before, after

    def isn(self) -> int:
        assert self._after is not None
        return self._after.isn

    def restored(self) -> bool:
        assert self._after is not None
        return self._before is None or self._after.window > self._before.window


class Twin:
    """One flow of both."""

    def __init__(self, plane: Plane, local: End, remote: End, settings: FlowSettings) -> None:
        self.plane = plane
        self.local, self.remote = local, remote
        self.key = abi.encode_flow(local.address, local.port, remote.address, remote.port)
        plane.reset()
        plane.add_filter(Filter(Origin.LOCAL, local.address, local.port, settings))
        self.model = Model(settings, local > remote, now_ns())
        self._link_header = b""

    @property
    def entry(self) -> Entry | None:
        return self.model.entry

    # Events.

    def wait(self, by_ns: int) -> None:
        self.model.now_ns += by_ns

    def set_rule(self, settings: FlowSettings) -> None:
        """A reload."""
        self.model.settings = settings
        self.plane.set_rule(_RULE, settings)

    def send(self, datagram: bytes, resent: bool = False) -> None:
        frame = udp_frame(self.local, self.remote, datagram)
        run, drawn = self._both(lambda: self.plane.egress(frame, RESEND_MARK if resent else 0))
        outcome = self.model.send(len(datagram), resent, drawn)
        self._compare_departure(run, outcome, datagram, resent)
        self._compare(outcome)

    def command(self, operation: int, generation: int, argument: int = 0) -> None:
        payload = struct.pack("=III", operation, generation, argument)
        frame = command_frame(link_header(self.local.version), self.key, payload)
        run, _ = self._both(lambda: self.plane.egress(frame, COMMAND_MARK))
        outcome = self.model.command(operation, generation, argument)
        self._compare_departure(run, outcome, b"", from_user_space=True)
        self._compare(outcome)

    def receive(self, segment: Segment) -> None:
        header = link_header(self.local.version, incoming=True)
        frame = header + encode_packet(segment)
        arrived, drawn = self._both(lambda: self.plane.ingress(frame))
        outcome = self.model.receive(self._seen(segment), drawn)
        self._compare_arrival(arrived, outcome, frame)
        self._compare(outcome)

    def segment(self, flags: int, seq: int, ack: int, window: int, payload: bytes) -> Segment:
        """One of the peer, with the options of a SYN where it is one."""
        options = b""
        if flags & SYN and window != 1:  # of a SYN with a window of 1 there are none
            options = encode_syn_options(1460, window % 18)
        ends = (self.remote, self.local)
        return Segment(*ends, flags, seq % WORD, ack % WORD, window, payload, options)

    # What our stateless answers must look like.

    def cookie(self, age_epochs: int, scale: int) -> int:
        """A stateless ISN of ours, as of so many epochs ago."""
        return self._cookie((now_ns() >> EPOCH_SHIFT) - age_epochs, scale)

    def _cookie(self, epoch: int, scale: int) -> int:
        message = self.key + struct.pack("<II", epoch & 0xFFFFFFFF, 0)
        value = siphash(COOKIE_KEY, message)
        return value & 0xFFFFFFC0 | (epoch & 3) << 4 | (scale ^ value >> 32) & 0xF

    def _seen(self, segment: Segment) -> Incoming:
        epoch = self._clock.began_ns >> EPOCH_SHIFT
        proves = None
        if segment.flags & (SYN | ACK | RST | FIN) == ACK:
            isn = (segment.ack - 1) % WORD
            for age in range(4):
                scale = (self._cookie(epoch - age, 0) ^ isn) % WORD
                if scale < 15:
                    proves = scale
        options = decode_syn_options(segment.options)
        assert options is not None
        scale = options.scale or 0
        return Incoming(
            segment.flags,
            segment.seq,
            segment.ack,
            segment.window,
            len(segment.payload),
            scale,
            options.mss or 0,
            proves,
            self._cookie(epoch, scale),
        )

    # The programs.

    def _both(self, act: Callable[[], T]) -> tuple[T, Drawn]:
        """Run the programs on what the model has; then it is the model's turn."""
        while True:
            self.plane.forget_clones()
            self.plane.counted()
            self.plane.events()
            began_ns = now_ns()
            behind_ns = began_ns - self.model.now_ns
            self._write(behind_ns)
            result = act()
            ended_ns = now_ns()
            same_epoch = began_ns >> EPOCH_SHIFT == ended_ns >> EPOCH_SHIFT
            if ended_ns - began_ns < HELD_UP_NS and same_epoch:
                break
        self._clock = Clock(began_ns, ended_ns, behind_ns)
        self._after = self.plane.entry(self.key)
        if self._after is not None:
            self._link_header = self._after.link_header
        return result, Drawn(self.model.entry, self._after)

    def _write(self, behind_ns: int) -> None:
        def real(virtual_ns: int) -> int:
            return virtual_ns + behind_ns if virtual_ns else 0

        maps, model = self.plane.maps, self.model
        entry = model.entry
        if entry is None:
            maps["conns"].delete(self.key)
        else:
            values = {name: getattr(entry, name) for name in VALUES}
            values |= {name: real(getattr(entry, name)) for name in TIMES}
            values["drops"] = tuple(entry.drops)
            header = self._link_header
            self.plane.put(
                self.key, ConnEntry(rule=_RULE, hop_at_ns=0, link_header=header, **values)
            )
        hint = model.hint
        if hint is None:
            maps["half_opens"].delete(self.key)
        else:
            numbers = (hint.isn, hint.peer_isn, hint.mss, hint.scale, hint.ack)
            maps["half_opens"].update(self.key, _HALF_OPEN.pack(real(hint.at_ns), *numbers))
        self.plane.set_reset_at(real(model.reset_at_ns))

    def _compare(self, outcome: Outcome) -> None:
        assert Counter(self.plane.counted()) == +outcome.counted
        told = [
            (event.type.name, event.state, event.role, event.reason, event.generation)
            for event in self.plane.events()
        ]
        assert told == outcome.events
        assert self._entry_now() == self.model.entry
        raw = self.plane.maps["half_opens"].lookup(self.key)
        assert self._hint_now(raw) == self.model.hint
        reset_at_ns = self._clock.virtual(self.plane.reset_at(), self.model.now_ns)
        assert reset_at_ns == self.model.reset_at_ns

    def _entry_now(self) -> Entry | None:
        after, now = self._after, self.model.now_ns
        if after is None:
            return None
        values = {name: getattr(after, name) for name in VALUES}
        for name in TIMES:
            is_drain = name == "drain_until_ns"
            values[name] = self._clock.virtual(getattr(after, name), now, is_drain)
        values["drops"] = list(after.drops)
        return Entry(**values)

    def _hint_now(self, raw: bytes | None) -> Hint | None:
        if raw is None:
            return None
        at_ns, isn, peer_isn, mss, scale, ack = _HALF_OPEN.unpack(raw)
        at_ns = self._clock.virtual(at_ns, self.model.now_ns)
        return Hint(at_ns, isn, peer_isn, ack, mss, scale)

    # Frames.

    def _compare_arrival(self, arrived: Arrived, outcome: Outcome, frame: bytes) -> None:
        delivered, answer = outcome.delivered is not None, outcome.answer
        kinds = {
            (False, False): Arrival.DROPPED,
            (False, True): Arrival.ANSWERED,
            (True, False): Arrival.PASSED,
            (True, True): Arrival.DELIVERED_AND_ANSWERED,
        }
        assert arrived.kind is kinds[delivered, answer is not None], arrived.kind
        if delivered:
            assert arrived.frame == restored(frame, self._padding)
            if answer is not None:
                note = arrived.note
                assert note is not None
                assert Outgoing(note.flags, note.seq, note.ack, note.window) == answer
        elif answer is not None:
            self._compare_segment(arrived.frame, answer)

    def _compare_departure(
        self, run: ProgramRun, outcome: Outcome, datagram: bytes, from_user_space: bool
    ) -> None:
        data, answer = outcome.data, outcome.answer
        if data is not None and answer is not None:
            self._compare_data(self.plane.clone(), data, outcome.padding, datagram)
            self._compare_segment(run.data, answer)
        elif data is not None:
            self._compare_data(run.data, data, outcome.padding, datagram)
        elif answer is not None:
            self._compare_segment(run.data, answer)
        kind = Departure.TAKEN if from_user_space else Departure.DROPPED
        if outcome.held:
            kind = Departure.HELD
        assert run.result == (Departure.SENT if data or answer else kind), Departure(run.result)

    def _compare_segment(self, frame: bytes, wanted: Outgoing) -> Segment:
        segment = decode_packet(frame[14:])
        assert segment is not None
        assert segment.checksum_right
        numbers = (segment.flags, segment.seq, segment.ack, segment.window)
        assert Outgoing(*numbers, len(segment.payload)) == wanted
        assert (segment.source, segment.target) == (self.local, self.remote)
        mss = 1460 if self.local.version == 4 else 1440
        scale = 14 if self.model.settings.max_window else 12
        assert segment.options == (encode_syn_options(mss, scale) if wanted.flags & SYN else b"")
        return segment

    def _compare_data(self, frame: bytes, wanted: Outgoing, padding: int, datagram: bytes) -> None:
        segment = self._compare_segment(frame, wanted)
        assert decode_datagram(segment.payload, padding, segment.seq, segment.ack) == datagram

    @property
    def _padding(self) -> int:
        padding = self.model.settings.padding
        return RANDOM_PADDING if padding == PADDING_RANDOM else padding


def known(twin: Twin, state: State) -> Twin:
    """Led to a state by the plainest way: of none there is no entry; idle is one that cools down.

    Raises AssertionError where model and programs differ on it.
    """
    if state is State.IDLE:
        twin.send(b"first")
        assert twin.entry is not None
        twin.command(Operation.RESET, twin.entry.generation, 6)
    elif state is State.SYN_RECEIVED:
        twin.receive(twin.segment(SYN, 7000, 0, 65535, b""))
        twin.send(b"first")
    else:
        twin.send(b"first")
        assert twin.entry is not None
        if state is State.ESTABLISHED:
            twin.receive(twin.segment(SYN | ACK, 7000, twin.entry.seq, 12 + 18 * 100, b""))
            twin.send(b"first", resent=True)
    twin.wait(2 * S)
    assert twin.entry is not None
    assert twin.entry.state is state
    return twin


def replaced(twin: Twin, entry: Entry | None, hint: Hint | None) -> None:
    """Back to what was kept before."""
    twin.model.hint = replace(hint) if hint else None
    twin.model.entry = replace(entry, drops=list(entry.drops)) if entry else None
