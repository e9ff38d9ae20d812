# SPDX-License-Identifier: GPL-2.0-only
"""The programs are compared with a model of the state machine: after every event all of it.

State, numbers, windows, times, verdict, every byte that leaves or is delivered, counters, and what
user space is told.
"""

import itertools
import os
import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimicd.core.abi import Operation, Reason
from mimicd.core.connection import State
from mimicd.core.model import PADDING_RANDOM, FlowSettings, Handshake
from tests.bpf.model import MS, WINDOW, WORD, Hint, S
from tests.bpf.plane import Plane
from tests.bpf.talk import HIGHER_REMOTE, LOCAL, LOWER_REMOTE
from tests.bpf.twin import Twin, known, replaced
from tests.rig.segment import ACK, FIN, PSH, RST, SYN

SETTINGS = (
    FlowSettings(),
    FlowSettings(padding=7),
    FlowSettings(padding=PADDING_RANDOM),
    FlowSettings(handshake=Handshake(0, 0)),
    FlowSettings(max_window=True),
)
REMOTES = (*HIGHER_REMOTE.values(), *LOWER_REMOTE.values())
STATES = (None, *State)
EACH_STATE = pytest.mark.parametrize(
    "state", STATES, ids=["none", *(state.words for state in State)]
)
W = WINDOW[False]


@dataclass(frozen=True, slots=True)
class Arrives:
    """A segment; `seq` and `ack` say where in relation to what the connection expects."""

    flags: int
    seq: str
    ack: str
    off: int
    window: int
    length: int


@dataclass(frozen=True, slots=True)
class Leaves:
    length: int
    resent: bool


@dataclass(frozen=True, slots=True)
class Commanded:
    operation: int
    late_by: int
    argument: int


@dataclass(frozen=True, slots=True)
class Waited:
    by_ns: int


@dataclass(frozen=True, slots=True)
class Changed:
    """What would take gigabytes, or somebody else: "window", "peer", "reload", "hint" (it may be
    lost at any time), "forget" (an idle entry, by user space), "wrap"."""

    what: str
    value: int


Event = Arrives | Leaves | Commanded | Waited | Changed

LIKELY_FLAGS = (SYN, SYN | ACK, ACK, ACK, ACK | PSH, ACK | PSH, RST, RST | ACK, FIN | ACK, PSH)
SEQS = ("next", "next", "next", "before", "peer isn", "zero", "edge", "far", "stray")
ACKS = ("next", "next", "next", "behind", "zero", "beyond", "isn", "proof", "hint")
OFFS = (0, 0, 0, 0, 1, 2, -1)
WINDOWS = (0, 1, 16, 0x3400, 0x3400, 65535)
LENGTHS = (0, 0, 1, 2, 5, 7, 12, 31, 100)
WAITS = (15 * MS, 15 * MS, 900 * MS, 1100 * MS, 4 * S, 9 * S, 11 * S, 30 * S, 200 * S)
PEERS = (0, 40, 65535, W // 2, W)

ARRIVES = st.builds(
    Arrives,
    st.one_of(st.sampled_from(LIKELY_FLAGS), st.integers(0, 63)),
    *map(st.sampled_from, (SEQS, ACKS, OFFS, WINDOWS, LENGTHS)),
)
EVENTS = st.one_of(
    ARRIVES,
    ARRIVES,
    ARRIVES,
    st.builds(Leaves, st.sampled_from(LENGTHS), st.booleans()),
    st.builds(Leaves, st.sampled_from(LENGTHS), st.just(False)),
    st.builds(
        Commanded,
        st.integers(0, 7),
        st.sampled_from((0, 0, 0, 1, -1)),
        st.sampled_from((Reason.NO_ANSWER, Reason.STALE, Reason.KEEPALIVE)),
    ),
    st.builds(Waited, st.sampled_from(WAITS)),
    st.builds(Changed, st.just("window"), st.sampled_from((W // 4, W // 3, W // 2, W))),
    st.builds(Changed, st.just("peer"), st.sampled_from(PEERS)),
    st.builds(Changed, st.just("reload"), st.integers(0, len(SETTINGS) - 1)),
    st.builds(Changed, st.sampled_from(("hint", "forget", "wrap")), st.just(0)),
)


def play(twin: Twin, event: Event) -> None:
    """Let it happen to both."""
    entry = twin.entry
    match event:
        case Arrives(flags, seq, ack, off, window, length):
            payload = bytes(range(1, length + 1))
            numbers = (seq_of(twin, seq) + off, ack_of(twin, ack) + off * (ack != "next"))
            twin.receive(twin.segment(flags, *numbers, window, payload))
        case Leaves(length, resent):
            twin.send(bytes(range(length)), resent)
        case Commanded(operation, late_by, argument):
            generation = ((entry.generation if entry else 0) - late_by) % WORD
            is_release = operation == Operation.RELEASE
            twin.command(operation, generation, 1 if is_release else argument)
        case Waited(by_ns):
            twin.wait(by_ns)
        case Changed("reload", value):
            twin.set_rule(SETTINGS[value])
        case Changed("hint", _):
            twin.model.hint = None
        case Changed("forget", _):
            if entry and entry.state is State.IDLE:
                twin.model.entry = None
        case Changed(what, value) if entry and entry.state is State.ESTABLISHED:
            if what == "window":
                entry.window = value
            elif what == "peer":
                entry.peer_window = value
            else:
                entry.seq = entry.ack = WORD - 3


def seq_of(twin: Twin, which: str) -> int:
    entry = twin.entry
    if entry is None or not entry.ack:
        return {"zero": 0, "far": 1 << 31}.get(which, 7000)
    places = {
        "next": entry.ack,
        "before": entry.ack - 1,
        "peer isn": entry.peer_isn,
        "zero": 0,
        "stray": entry.stray_next,
        "edge": entry.ack + WINDOW[twin.model.settings.max_window],
        "far": entry.ack + (1 << 31),
    }
    return places[which]


def ack_of(twin: Twin, which: str) -> int:
    entry, hint = twin.entry, twin.model.hint
    seq, isn = (entry.seq, entry.isn) if entry else (0, 0)
    places = {
        "next": seq,
        "behind": seq - 1000,
        "zero": 0,
        "beyond": seq + 1,
        "isn": isn + 1,
        "proof": twin.cookie(age_epochs=0, scale=9) + 1,
        "hint": (hint.isn if hint else isn) + 1,
    }
    return places[which]


def twin_of(plane: Plane, number: int, of_settings: FlowSettings) -> Twin:
    remote = REMOTES[number % len(REMOTES)]
    return Twin(plane, LOCAL[remote.version], remote, of_settings)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, len(REMOTES) - 1),
    st.sampled_from(SETTINGS),
    st.sampled_from(STATES),
    st.lists(EVENTS, max_size=30),
)
def test_any_sequence_of_events_does_what_the_table_says(
    plane: Plane, remote: int, of_settings: FlowSettings, begin: State | None, events: list[Event]
) -> None:
    twin = twin_of(plane, remote, FlowSettings() if begin is not None else of_settings)
    if begin is not None:
        known(twin, begin)
        twin.set_rule(of_settings)
    for event in events:
        play(twin, event)


def drawn_event(chance: random.Random) -> Event:
    flags = chance.choice(LIKELY_FLAGS) if chance.random() < 0.8 else chance.randrange(64)
    choices = map(chance.choice, (SEQS, ACKS, OFFS, WINDOWS, LENGTHS))
    kinds: list[tuple[int, Event]] = [
        (50, Arrives(flags, *choices)),  # type: ignore[arg-type]
        (25, Leaves(chance.choice(LENGTHS), chance.random() < 0.3)),
        (8, Commanded(chance.randrange(7), chance.choice((0, 0, 1)), chance.randrange(6, 9))),
        (10, Waited(chance.choice(WAITS))),
        (3, Changed("peer", chance.choice(PEERS))),
        (2, Changed("window", chance.choice((W // 4, W // 3, W // 2, W)))),
        (2, Changed("reload", chance.randrange(len(SETTINGS)))),
        (3, Changed(chance.choice(("hint", "forget", "wrap")), 0)),
    ]
    weights, events = zip(*kinds, strict=True)
    drawn: Event = chance.choices(events, weights)[0]
    return drawn


def walk(plane: Plane, seed: int, steps: int) -> Counter[State | None]:
    """One long life of a flow; how many steps began in each state."""
    chance = random.Random(seed)
    twin = twin_of(plane, seed, SETTINGS[seed % len(SETTINGS)])
    visited: Counter[State | None] = Counter()
    for _ in range(steps):
        visited[twin.entry.state if twin.entry else None] += 1
        play(twin, drawn_event(chance))
    return visited


def test_long_lives_go_as_the_table_says(plane: Plane) -> None:
    visited = sum((walk(plane, seed, 300) for seed in range(5)), Counter[State | None]())
    assert set(visited) == set(STATES)


@pytest.mark.slow
def test_many_long_lives_go_as_the_table_says(plane: Plane) -> None:
    first = int(os.environ.get("SEED") or 100)
    for seed in range(first, first + 20):
        print(f"seed {seed}")
        walk(plane, seed, 2000)


def places(twin: Twin, everything: bool) -> list[tuple[int, int, int]]:
    """Seq, ack and length of the segments that each combination of flags is tried with."""
    every = itertools.product(sorted(set(SEQS)), sorted(set(ACKS)), (0, 1, 31))
    few = [
        ("next", "next", 0),
        ("zero", "proof", 31),
        ("far", "beyond", 1),
        ("peer isn", "hint", 0),
    ]
    chosen = list(every) if everything else few
    return [(seq_of(twin, seq), ack_of(twin, ack), length) for seq, ack, length in chosen]


def every_combination_of_flags(plane: Plane, state: State | None, everything: bool) -> None:
    twin = twin_of(plane, 0, FlowSettings())
    if state is not None:
        known(twin, state)
    hint = Hint(twin.model.now_ns, twin.cookie(0, 3), 5000, 5001, 1460, 3)
    entry = replace(twin.entry, drops=list(twin.entry.drops)) if twin.entry else None
    # of the other two bits of the byte nothing depends on the lower six
    tried = range(256) if everything else (*range(64), 0xC2, 0x91, 0x44)
    for with_hint in (None, hint):
        for flags in tried:
            replaced(twin, entry, with_hint)
            for seq, ack, length in places(twin, everything):
                replaced(twin, entry, with_hint)
                twin.model.reset_at_ns = 0
                twin.receive(twin.segment(flags, seq, ack, 0x3400, bytes(length)))


@EACH_STATE
def test_every_combination_of_flags_in_every_state(plane: Plane, state: State | None) -> None:
    every_combination_of_flags(plane, state, everything=False)


@pytest.mark.slow
@EACH_STATE
def test_every_combination_of_flags_everywhere_in_every_state(
    plane: Plane, state: State | None
) -> None:
    every_combination_of_flags(plane, state, everything=True)
