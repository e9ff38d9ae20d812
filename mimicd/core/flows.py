# SPDX-License-Identifier: GPL-2.0-only
"""What user space does for connections: timers and held datagrams. Events in, actions out.

The kernel owns every connection; here stands only what it cannot keep: the datagrams of
handshakes that are under way, and when to look at which connection again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mimicd.core.abi import ConnEntry, Event, EventType, Operation, Reason
from mimicd.core.connection import State
from mimicd.core.deadlines import Deadlines
from mimicd.core.frames import finish_checksum
from mimicd.core.model import FlowSettings
from mimicd.core.timers import plan

HELD_BYTES_MAX = 8 << 20
"""Of all connections of an interface together; what exceeds it is given up and counted."""


@dataclass(frozen=True, slots=True)
class Resend:
    """Send a held frame again."""

    key: bytes
    frame: bytes
    generation: int


@dataclass(frozen=True, slots=True)
class Command:
    """Ask the BPF program for something."""

    key: bytes
    operation: Operation
    generation: int
    argument: int = 0


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete the entry, if it still is what the plan was made for."""

    key: bytes
    generation: int


Action = Resend | Command | Forget


@dataclass(slots=True)
class _Flow:
    """Nothing of this is needed to go on: after a restart an empty one serves as well."""

    established: bool = False
    generation: int | None = None
    """The latest handshake that was told of."""
    floor: int | None = None
    """Datagrams held for an earlier handshake than this are no longer wanted."""
    attempt: int = 0
    attempt_rx_ns: int = 0
    """last_rx_ns for which `attempt` counts."""
    held: list[tuple[int, bytes]] = field(default_factory=list)
    """Generation and frame."""


class Flows:
    """All connections of one interface."""

    def __init__(self, rules: Mapping[int, FlowSettings]) -> None:
        """`rules`: settings by rule number; read at each look, so that a reload applies."""
        self._rules = rules
        self._flows: dict[bytes, _Flow] = {}
        self._deadlines = Deadlines()
        self._held_bytes = 0
        self._drained: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._flows)

    def knows(self, key: bytes) -> bool:
        """Whether the connection is under watch."""
        return key in self._flows

    @property
    def held_bytes(self) -> int:
        """Of all held datagrams."""
        return self._held_bytes

    def next_deadline_ns(self) -> int | None:
        """When `due` will have something."""
        return self._deadlines.next_ns()

    def due(self, now_ns: int, limit: int) -> list[bytes]:
        """Keys to be looked at with `examine`."""
        return self._deadlines.take_due(now_ns, limit)

    def on_event(self, event: Event) -> list[Action]:
        """One record of the ring buffer, in order. `drained` says what comes after the last."""
        flow = self._flows.setdefault(event.key, _Flow())
        if event.reason:
            # Whatever changed, the next look decides from the entry itself.
            self._deadlines.set(event.key, event.at_ns)
        match event.type:
            case EventType.STATE:
                return self._on_state(event, flow)
            case EventType.HELD:
                return self._on_held(event, flow)
            case _:
                return []

    def drained(self) -> list[Action]:
        """Where all held datagrams were sent by now: later ones need not queue behind them."""
        keys, self._drained = self._drained, set()
        return [
            Command(key, Operation.DRAINED, flow.generation)
            for key in keys
            if (flow := self._flows.get(key)) is not None and flow.generation is not None
        ]

    def _on_state(self, event: Event, flow: _Flow) -> list[Action]:
        # CPUs push their events after they have let go of the entry, so one may overtake another.
        is_latest = flow.generation is None or not _is_after(flow.generation, event.generation)
        if is_latest:
            same = flow.generation == event.generation
            flow.generation = event.generation
            # within one handshake nothing follows that; what says less was overtaken
            flow.established = event.state is State.ESTABLISHED or (
                same and flow.established and event.state is not State.IDLE
            )
        if event.state is State.IDLE:
            if flow.floor is None or _is_after(event.generation, flow.floor):
                flow.floor = event.generation
            self._drop_held(flow, before=event.generation)
            return []
        if not is_latest or not flow.established:
            return []
        actions: list[Action] = [
            Resend(event.key, frame, event.generation) for _, frame in flow.held
        ]
        self._drop_held(flow)
        if actions:
            self._drained.add(event.key)
        return actions

    def _on_held(self, event: Event, flow: _Flow) -> list[Action]:
        if flow.floor is not None and _is_after(flow.floor, event.generation):
            return []
        if flow.generation is None:
            flow.generation = event.generation
            flow.established = event.state is State.ESTABLISHED
        elif _is_after(event.generation, flow.generation):
            # a handshake of which nothing else was told yet: that is on its way
            flow.generation = event.generation
            flow.established = False
        frame = event.frame
        if event.partial:
            frame = finish_checksum(frame, event.transport_at, event.key)
        if flow.established:
            self._drained.add(event.key)
            return [Resend(event.key, frame, event.generation)]
        if self._held_bytes + len(frame) > HELD_BYTES_MAX:
            return [Command(event.key, Operation.RELEASE, event.generation, 1)]
        flow.held.append((event.generation, frame))
        self._held_bytes += len(frame)
        return []

    def _drop_held(self, flow: _Flow, before: int | None = None) -> None:
        """All of them, or those of handshakes before one."""
        if not flow.held:
            return
        kept = [
            (generation, frame)
            for generation, frame in flow.held
            if before is not None and not _is_after(before, generation)
        ]
        self._held_bytes -= sum(len(frame) for _, frame in flow.held)
        self._held_bytes += sum(len(frame) for _, frame in kept)
        flow.held = kept

    def examine(self, key: bytes, entry: ConnEntry | None, now_ns: int) -> list[Action]:
        """A look at one connection, as it stands in the map (None: it is gone)."""
        settings = self._rules.get(entry.rule) if entry else None
        if entry is None or settings is None:
            self.forget(key)
            return []
        flow = self._flows.get(key)
        if flow is None:
            # Adopted. For a known one only events tell, since they keep the order of datagrams.
            established = entry.state is State.ESTABLISHED
            flow = self._flows[key] = _Flow(established, entry.generation)
        if flow.attempt_rx_ns != entry.last_rx_ns:
            flow.attempt, flow.attempt_rx_ns = 0, entry.last_rx_ns
        due = plan(entry, settings, now_ns, flow.attempt)
        if due.forget:
            self.forget(key)
            return [Forget(key, entry.generation)]
        flow.attempt = due.attempt or flow.attempt
        self._deadlines.set(key, due.next_ns)
        if due.operation is None:
            return []
        return [Command(key, due.operation, entry.generation, int(due.reason))]

    def disown(self, key: bytes, entry: ConnEntry) -> list[Action]:
        """What an earlier process held is lost with it: nothing must wait for that to leave.

        To be asked when every record so far was read, and the entry was looked up behind that.
        """
        flow = self._flows.get(key)
        lost = entry.held_now - (len(flow.held) if flow else 0)
        if lost <= 0:
            return []
        if entry.state is State.ESTABLISHED:
            self._drained.add(key)
        return [Command(key, Operation.RELEASE, entry.generation, lost)]

    def forget(self, key: bytes) -> None:
        """The entry is gone, and what was held for it."""
        self._deadlines.clear(key)
        flow = self._flows.pop(key, None)
        if flow is not None:
            self._drop_held(flow)


def _is_after(generation: int, other: int) -> bool:
    """Of 32-bit numbers that wrap."""
    return 0 < (generation - other) & 0xFFFFFFFF < 0x80000000


def stop_commands(entries: Mapping[bytes, ConnEntry]) -> list[Command]:
    """A RST to every peer that still believes in a connection.

    None in syn-sent (RFC 9293, section 3.10.5): on another CPU it could overtake the SYN, and a
    peer whose SYN+ACK comes later is answered by the host.
    """
    return [
        Command(key, Operation.RESET, entry.generation, int(Reason.STOPPED))
        for key, entry in entries.items()
        if entry.state not in (State.IDLE, State.SYN_SENT)
    ]
