# SPDX-License-Identifier: GPL-2.0-only
"""The deadlines of an interface by clocks of the test: the machine sleeps, the wall clock jumps.

The loop's clock stands still while the machine is suspended, CLOCK_BOOTTIME goes on.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mimicd import instance as module
from mimicd.core import abi
from mimicd.core.abi import ConnEntry, Operation
from mimicd.core.connection import State
from mimicd.core.model import InterfaceConfig
from mimicd.core.rules import RuleBook
from mimicd.core.settings import parse_filter
from mimicd.core.shortages import Shortages
from mimicd.instance import Instance
from tests.unit.entries import KEY, NS, entry

START_NS = 1000 * NS
KEEPALIVE_S = 180
RAW = b"entry"


class Clocks:
    """A loop's timers, and CLOCK_BOOTTIME beside its clock."""

    def __init__(self) -> None:
        self.loop_s = 5000.0
        self.boot_ns = START_NS
        self._timers: list[tuple[float, int, Any]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.loop_s

    def call_later(self, delay_s: float, work: Callable[[], None]) -> Any:
        handle = SimpleNamespace(work=work, cancelled=False)
        handle.cancel = lambda: setattr(handle, "cancelled", True)
        heapq.heappush(self._timers, (self.loop_s + delay_s, next(self._numbers), handle))
        return handle

    def pass_s(self, seconds: float) -> None:
        """Awake: both clocks go on, and timers run when they are due."""
        end_s = self.loop_s + seconds
        while self._timers and self._timers[0][0] <= end_s:
            at_s, _, handle = heapq.heappop(self._timers)
            self._move(max(at_s, self.loop_s))
            if not handle.cancelled:
                handle.work()
        self._move(end_s)

    def _move(self, loop_s: float) -> None:
        self.boot_ns += round((loop_s - self.loop_s) * NS)
        self.loop_s = loop_s

    def suspend_s(self, seconds: float) -> None:
        """Asleep: nothing runs."""
        self.boot_ns += round(seconds * NS)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    found = Clocks()
    monkeypatch.setattr(module, "now_ns", lambda: found.boot_ns)
    return found


def watched(
    clocks: Clocks, one: ConnEntry, monkeypatch: pytest.MonkeyPatch
) -> tuple[Instance, list[Operation]]:
    """An interface with one connection, and what it asks the BPF program for."""
    commands: list[Operation] = []

    def lookup(_key: bytes) -> bytes:
        return RAW

    def items() -> list[tuple[bytes, bytes]]:
        return [(KEY, RAW)]

    async def make() -> Instance:
        link: Any = SimpleNamespace(name="eth0", ifindex=3, mtu_bytes=1500)
        plane: Any = SimpleNamespace(
            conns=SimpleNamespace(lookup=lookup, items=items), counter=lambda _index: 0
        )
        filter_ = parse_filter("remote=203.0.113.5:40001", InterfaceConfig().flow)
        none: Any = None
        made = Instance(link, plane, InterfaceConfig(), RuleBook({1: filter_}), none, none)
        made._loop = clocks  # type: ignore[assignment]
        monkeypatch.setattr(abi, "decode_conn", lambda _raw: one)
        monkeypatch.setattr(
            made._outlet, "act", lambda action, _entry=None: commands.append(action.operation)
        )
        made._shortages = Shortages(plane.counter)
        await made._rescan()
        clocks.call_later(1.0, made._keep_house)
        return made

    return asyncio.run(make()), commands


def established(at_ns: int) -> ConnEntry:
    times = dict.fromkeys(("state_since_ns", "last_rx_ns", "last_active_ns", "last_tx_ns"), at_ns)
    return entry(State.ESTABLISHED, generation=1, **times)


def test_a_deadline_that_came_while_the_machine_slept_is_met_at_once(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, commands = watched(clocks, established(START_NS), monkeypatch)
    clocks.pass_s(5)
    assert commands == []
    clocks.suspend_s(KEEPALIVE_S)
    assert commands == []
    clocks.pass_s(1.5)
    assert commands == [Operation.KEEPALIVE]


def test_without_sleep_a_deadline_is_met_when_it_comes(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, commands = watched(clocks, established(START_NS), monkeypatch)
    clocks.pass_s(KEEPALIVE_S - 0.5)
    assert commands == []
    clocks.pass_s(1)
    assert commands == [Operation.KEEPALIVE]


def test_after_a_long_sleep_a_dead_connection_is_reset_and_not_asked_first(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, commands = watched(clocks, established(START_NS), monkeypatch)
    clocks.suspend_s(8 * 3600)
    clocks.pass_s(1.5)
    assert commands[0] is Operation.RESET


def test_a_wall_clock_that_is_set_changes_no_deadline(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, commands = watched(clocks, established(START_NS), monkeypatch)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    clocks.pass_s(KEEPALIVE_S - 0.5)
    assert commands == []
    monkeypatch.setattr(time, "time", lambda: 0.0)
    clocks.pass_s(1)
    assert commands == [Operation.KEEPALIVE]
