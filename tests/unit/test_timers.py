# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.timers: what is due for a connection, on a clock that the test turns."""

import dataclasses
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicd.core.abi import ConnEntry, ConnFlag, Operation, Reason
from mimicd.core.connection import Role, State
from mimicd.core.model import FlowSettings, Handshake, Keepalive
from mimicd.core.timers import Plan, plan
from tests.unit.entries import NS, entry

START_NS = 1_000 * NS
MS = NS // 1_000
SYN, PROBE, KEEPALIVE, RESET = (
    Operation.SYN,
    Operation.PROBE,
    Operation.KEEPALIVE,
    Operation.RESET,
)
Seconds = float


@dataclass
class Clock:
    """Plays user space and the kernel for a connection that hears nothing from its peer."""

    entry: ConnEntry
    settings: FlowSettings
    now_ns: int = START_NS
    attempt: int = 0
    done: list[tuple[Seconds, Operation, Reason]] = field(default_factory=list)

    def look(self) -> Plan:
        due = plan(self.entry, self.settings, self.now_ns, self.attempt)
        assert due.next_ns > self.now_ns or due.forget, "it would be looked at again at once"
        self.attempt = due.attempt or self.attempt
        if due.operation is not None:
            self.done.append(((self.now_ns - START_NS) / NS, due.operation, due.reason))
        if due.operation is SYN:
            flags = self.entry.flags & ~ConnFlag.CROSS_PENDING
            self.entry = dataclasses.replace(self.entry, last_tx_ns=self.now_ns, flags=flags)
        return due

    def run_until_reset(self, looks: int = 100) -> list[tuple[Seconds, Operation, Reason]]:
        """Sleep exactly from deadline to deadline."""
        for _ in range(looks):
            due = self.look()
            if due.operation is RESET:
                return self.done
            self.now_ns = due.next_ns
        raise AssertionError(f"no reset within {looks} looks: {self.done}")


def opening(handshake: Handshake, state: State = State.SYN_SENT) -> Clock:
    started = entry(state, state_since_ns=START_NS, last_tx_ns=START_NS)
    return Clock(started, FlowSettings(handshake=handshake))


def silent(keepalive: Keepalive) -> Clock:
    """Established, and the last segment came at START_NS."""
    heard = entry(State.ESTABLISHED, state_since_ns=0, last_rx_ns=START_NS, last_active_ns=START_NS)
    return Clock(heard, FlowSettings(keepalive=keepalive))


def idle(cooldown_step: int, reset_s: int = 0, last_rx_s: int = 0) -> ConnEntry:
    reset_ns, last_rx_ns = START_NS + reset_s * NS, START_NS + last_rx_s * NS
    return entry(
        State.IDLE,
        cooldown_step=cooldown_step,
        reset_ns=reset_ns,
        state_since_ns=reset_ns,
        last_rx_ns=last_rx_ns,
    )


# Crossing SYNs.


def crossed(state: State, heard_ms: int = 1) -> Clock:
    """Our SYN left at the start, and the peer's came this long after it."""
    clock = opening(Handshake(2, 3), state)
    clock.entry = dataclasses.replace(
        clock.entry,
        flags=ConnFlag.CROSSED | ConnFlag.CROSS_PENDING,
        last_rx_ns=START_NS + heard_ms * MS,
    )
    return clock


def test_the_lower_end_answers_when_its_own_syn_has_certainly_left() -> None:
    clock = crossed(State.SYN_RECEIVED)
    assert clock.look().next_ns == START_NS + 2 * MS
    clock.now_ns = START_NS + 2 * MS
    clock.look()
    assert clock.done == [(0.002, SYN, Reason.NONE)]
    assert clock.look().next_ns == START_NS + 8 * NS
    assert len(clock.done) == 1


def test_the_higher_end_repeats_its_syn_soon_and_then_at_its_interval() -> None:
    clock = crossed(State.SYN_SENT, heard_ms=5)
    clock.run_until_reset()
    assert [at_s for at_s, operation, _ in clock.done if operation is SYN] == [
        0.255,
        2.255,
        4.255,
        6.255,
    ]


def test_a_crossing_syn_puts_nothing_off() -> None:
    clock = crossed(State.SYN_SENT, heard_ms=1999)
    assert clock.look().next_ns == START_NS + 2 * NS


def test_a_repeated_crossing_syn_was_answered_by_the_kernel() -> None:
    clock = crossed(State.SYN_RECEIVED)
    clock.entry = dataclasses.replace(clock.entry, flags=ConnFlag.CROSSED)
    assert clock.look().next_ns == START_NS + 8 * NS


# Handshake.


@pytest.mark.parametrize(
    ("handshake", "syns", "end"),
    [
        (Handshake(2, 3), [2, 4, 6], 8),
        (Handshake(1, 1), [1], 2),
        (Handshake(5, 0), [], 5),
        (Handshake(30, 2), [30, 60], 90),
        (Handshake(32767, 1), [32767], 65534),
    ],
)
def test_a_syn_is_repeated_each_interval_and_then_given_up(
    handshake: Handshake, syns: list[int], end: int
) -> None:
    expected = [(at, SYN, Reason.NONE) for at in syns] + [(end, RESET, Reason.NO_ANSWER)]
    assert opening(handshake).run_until_reset() == expected


def test_syn_received_sends_nothing_by_itself_and_ends_with_the_same_limit() -> None:
    clock = opening(Handshake(2, 3), State.SYN_RECEIVED)
    assert clock.run_until_reset() == [(8, RESET, Reason.NO_ANSWER)]


@pytest.mark.parametrize("state", [State.SYN_SENT, State.SYN_RECEIVED])
def test_a_passive_handshake_lives_as_long_as_one_of_default_settings(state: State) -> None:
    passive = opening(Handshake(interval_s=0, retry=9), state).run_until_reset()
    assert passive[-1] == (8, RESET, Reason.NO_ANSWER)


def test_a_retried_handshake_has_its_own_limit() -> None:
    """The kernel answered a RST with a new SYN: state_since moved."""
    clock = opening(Handshake(2, 3))
    clock.now_ns += NS
    clock.entry = dataclasses.replace(
        clock.entry, state_since_ns=clock.now_ns, last_tx_ns=clock.now_ns
    )
    assert clock.run_until_reset()[-1] == (9, RESET, Reason.NO_ANSWER)


# Keepalive.


@pytest.mark.parametrize(
    ("keepalive", "sent", "end"),
    [
        (Keepalive(180, 10, 3, 600), [(180, KEEPALIVE), (190, PROBE), (200, KEEPALIVE)], 210),
        (Keepalive(180, 10, 1, 600), [(180, KEEPALIVE)], 190),
        (Keepalive(180, 10, 0, 600), [(180, KEEPALIVE)], 190),
        (Keepalive(180, 10, 2, 600), [(180, KEEPALIVE), (190, PROBE)], 200),
        (Keepalive(180, 0, 3, 600), [], 180),
        (
            Keepalive(10, 1, 5, 0),
            [(10, KEEPALIVE), (11, PROBE), (12, KEEPALIVE), (13, KEEPALIVE), (14, KEEPALIVE)],
            15,
        ),
    ],
)
def test_a_silent_peer_is_asked_the_second_time_by_a_probe_and_then_given_up(
    keepalive: Keepalive, sent: list[tuple[int, Operation]], end: int
) -> None:
    expected = [(at, operation, Reason.NONE) for at, operation in sent]
    assert silent(keepalive).run_until_reset() == [*expected, (end, RESET, Reason.KEEPALIVE)]


def test_time_0_asks_nothing_and_only_stale_ends() -> None:
    clock = silent(Keepalive(time_s=0, stale_s=600))
    assert clock.run_until_reset() == [(600, RESET, Reason.STALE)]


def test_stale_0_and_time_0_end_never() -> None:
    clock = silent(Keepalive(time_s=0, stale_s=0))
    for days in (0, 1, 365, 36500):
        clock.now_ns = START_NS + days * 86400 * NS
        due = clock.look()
        assert due.operation is None
        assert due.next_ns > START_NS + 200 * 365 * 86400 * NS


def test_stale_0_leaves_the_keepalive() -> None:
    clock = silent(Keepalive(180, 10, 3, 0))
    assert clock.run_until_reset()[-1] == (210, RESET, Reason.KEEPALIVE)


def test_answered_keepalives_do_not_keep_a_stale_connection() -> None:
    """Each answer moves last_rx, none moves last_active."""
    clock = silent(Keepalive(180, 10, 3, 600))
    while not clock.done or clock.done[-1][1] is not RESET:
        due = clock.look()
        if due.operation is KEEPALIVE:
            clock.entry = dataclasses.replace(clock.entry, last_rx_ns=clock.now_ns)
            clock.attempt = 0
        clock.now_ns = due.next_ns
    times = [(at, operation) for at, operation, _ in clock.done]
    assert times == [(180, KEEPALIVE), (360, KEEPALIVE), (540, KEEPALIVE), (600, RESET)]
    assert clock.done[-1][2] is Reason.STALE


def test_stale_comes_first_where_both_are_due() -> None:
    clock = silent(Keepalive(180, 10, 3, 185))
    assert clock.run_until_reset() == [(180, KEEPALIVE, Reason.NONE), (185, RESET, Reason.STALE)]


def test_an_attempt_is_made_once_however_often_one_looks() -> None:
    clock = silent(Keepalive(180, 10, 3, 600))
    for tenths in range(1790, 2110):
        clock.now_ns = START_NS + tenths * NS // 10
        clock.look()
    operations = [operation for _, operation, _ in clock.done]
    assert operations[:3] == [KEEPALIVE, PROBE, KEEPALIVE]
    assert set(operations[3:]) == {RESET}


# Idle.


@pytest.mark.parametrize(("step", "cooldown_s"), [(1, 5), (2, 10), (3, 20), (4, 40)])
def test_an_idle_entry_is_forgotten_after_twice_its_cooldown(step: int, cooldown_s: int) -> None:
    one = idle(step)
    assert one.cooldown_until_ns == START_NS + cooldown_s * NS
    for after_s in (0, cooldown_s, 2 * cooldown_s - 1):
        due = plan(one, FlowSettings(), START_NS + after_s * NS)
        assert due == Plan(None, Reason.NONE, False, START_NS + 2 * cooldown_s * NS)
    assert plan(one, FlowSettings(), START_NS + 2 * cooldown_s * NS).forget


def test_cooldown_counts_from_the_later_of_reset_and_last_segment() -> None:
    assert idle(1, reset_s=3, last_rx_s=1).cooldown_until_ns == START_NS + 8 * NS
    assert idle(1, reset_s=1, last_rx_s=3).cooldown_until_ns == START_NS + 8 * NS
    assert plan(idle(1, 1, 3), FlowSettings(), START_NS).next_ns == START_NS + 13 * NS


def test_an_entry_without_cooldown_is_forgotten_as_well() -> None:
    one = idle(0)
    due = plan(one, FlowSettings(), START_NS)
    assert (due.operation, due.forget) == (None, False)
    assert plan(one, FlowSettings(), due.next_ns).forget


# A machine that slept.


@pytest.mark.parametrize("asleep_s", [10, 3600, 86400 * 365])
@pytest.mark.parametrize(
    "clock",
    [
        opening(Handshake(2, 3)),
        opening(Handshake(2, 3), State.SYN_RECEIVED),
        silent(Keepalive()),
        silent(Keepalive(stale_s=0)),
        silent(Keepalive(time_s=0)),
    ],
    ids=["syn-sent", "syn-received", "established", "never stale", "no keepalive"],
)
def test_a_long_sleep_is_caught_up_with_one_action(clock: Clock, asleep_s: int) -> None:
    clock = dataclasses.replace(clock, done=[], now_ns=START_NS + asleep_s * NS)
    before_ns = clock.now_ns
    due = clock.look()
    assert len(clock.done) <= 1
    assert due.next_ns >= before_ns + NS or due.operation is None


def test_a_short_sleep_skips_what_it_missed() -> None:
    clock = opening(Handshake(2, 9))
    clock.now_ns += 7 * NS
    assert clock.look().next_ns == START_NS + 9 * NS
    assert clock.done == [(7, SYN, Reason.NONE)]
    clock = silent(Keepalive(180, 10, 5, 600))
    clock.now_ns += 205 * NS
    assert clock.look().next_ns == START_NS + 210 * NS
    assert clock.done == [(205, KEEPALIVE, Reason.NONE)]


# Whatever comes.

numbers = st.integers(0, 32767)
moments = st.integers(0, 1 << 55)


@given(
    st.sampled_from(State),
    st.sampled_from(Role),
    st.tuples(moments, moments, moments, moments, moments),
    st.integers(0, 4),
    st.builds(Handshake, numbers, numbers),
    st.builds(Keepalive, numbers, numbers, numbers, numbers),
    moments,
    st.integers(0, 5),
)
def test_no_entry_and_no_setting_make_it_spin(
    state: State,
    role: Role,
    times: tuple[int, int, int, int, int],
    cooldown_step: int,
    handshake: Handshake,
    keepalive: Keepalive,
    now_ns: int,
    attempt: int,
) -> None:
    names = ("state_since_ns", "reset_ns", "last_rx_ns", "last_active_ns", "last_tx_ns")
    one = entry(
        state, role=role, cooldown_step=cooldown_step, **dict(zip(names, times, strict=True))
    )
    due = plan(one, FlowSettings(handshake, keepalive), now_ns, attempt)
    assert due.next_ns > now_ns or due.forget
    assert (due.reason is not Reason.NONE) == (due.operation is RESET)
    if due.attempt:
        assert due.attempt > attempt
