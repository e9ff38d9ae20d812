# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's stay on the bus: it outlives the bus, and it leaves when told to, at once."""

import asyncio
import logging
import time
from collections.abc import Callable

import pytest
import uvloop
from dbus_next.message import Message

from mimicd.bus import names
from mimicd.bus.keeper import BusKeeper
from tests.bus.caller import FILTER, OPTIONS, Caller, run, serving, until
from tests.bus.dbus_daemon import PrivateBus
from tests.bus.fake_manager import FakeManager, connection

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


@LOOPS
def test_after_the_bus_was_restarted_the_daemon_is_back_with_what_ran(
    bus: PrivateBus, new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, keeper):
            manager.add("eth0", {"filter": [FILTER]})
            for _ in range(2):
                bus.stop()
                await until(lambda: not keeper.connected, "the keeper has noticed")
                assert manager.interfaces()
                manager.say("eth0", 2, "nobody hears this")
                bus.start()
                await until(lambda: keeper.connected, "the keeper is back")
                async with Caller.on(bus) as caller:
                    paths = await caller.result("ListInterfaces")
                    assert paths == [names.interface_path("eth0")]
                assert len(manager.listeners) == 1
            assert manager.called("stop") == []

    with caplog.at_level(logging.INFO, "mimicd"):
        run(scene(), new_loop)
    lost = [one for one in caplog.records if "what runs goes on" in one.message]
    assert [one.levelname for one in lost] == ["WARNING"] * 2
    assert caplog.text.count("back on the bus") == 2


def test_while_the_bus_is_away_the_reason_is_said_once(
    bus: PrivateBus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimicd.bus.keeper._FIRST_DELAY_S", 0.01)
    monkeypatch.setattr("mimicd.bus.keeper._LONGEST_DELAY_S", 0.01)

    async def scene() -> None:
        async with serving(bus) as (_, keeper):
            bus.stop()
            await until(lambda: "cannot be reached" in caplog.text, "an attempt has failed")
            attempts = [one for one in caplog.records if "cannot be reached" in one.message]
            assert len(attempts) >= 1
            await until(lambda: len(told("DEBUG")) > 3, "more attempts have failed")
            assert len(told("WARNING")) == 1
            assert not keeper.connected

    def told(level: str) -> list[logging.LogRecord]:
        return [
            one
            for one in caplog.records
            if "cannot be reached" in one.message and one.levelname == level
        ]

    with caplog.at_level(logging.DEBUG, "mimicd"):
        run(scene())


@LOOPS
def test_closing_takes_the_name_off_the_bus_and_leaves_what_runs(
    bus: PrivateBus, new_loop: NewLoop
) -> None:
    async def scene() -> None:
        async with Caller.on(bus) as caller:
            async with serving(bus) as (manager, _):
                manager.add("eth0", {"filter": [FILTER]})
                assert await caller.driver("NameHasOwner", "s", [names.BUS_NAME])
            assert not await caller.driver("NameHasOwner", "s", [names.BUS_NAME])
            assert manager.interfaces()
            assert manager.listeners == []

    run(scene(), new_loop)


def test_closing_is_quick_when_the_bus_hangs(bus: PrivateBus) -> None:
    async def scene() -> float:
        manager = FakeManager()
        keeper = BusKeeper(manager, bus.address)
        await keeper.start()
        with bus.frozen():
            for _ in range(3000):
                manager.say("eth0", 4, "x" * 1000)
            await asyncio.sleep(0)
            begun = time.monotonic()
            await keeper.close()
            return time.monotonic() - begun

    assert run(scene()) < 1


def test_closing_is_quick_while_the_bus_is_away(bus: PrivateBus) -> None:
    async def scene() -> float:
        async with serving(bus) as (_, keeper):
            bus.stop()
            await until(lambda: not keeper.connected, "the keeper has noticed")
            begun = time.monotonic()
            await keeper.close()
            return time.monotonic() - begun

    assert run(scene()) < 1


def test_a_change_in_progress_is_finished_when_the_bus_goes_away(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, keeper):
            async with Caller.on(bus) as caller:
                manager.gate.clear()
                call = asyncio.ensure_future(caller.call("Run", "sa{sv}", ["eth0", OPTIONS]))
                await until(lambda: manager.called("run"), "Run has begun")
                bus.stop()
                await until(lambda: not keeper.connected, "the keeper has noticed")
                await asyncio.wait((call,))
            assert isinstance(call.exception(), EOFError | OSError)
            manager.gate.set()
            await until(manager.interfaces, "eth0 runs")

    run(scene())


def test_an_answer_that_was_given_is_sent_before_leaving(bus: PrivateBus) -> None:
    async def scene() -> None:
        manager = FakeManager()
        manager.add("eth0", {"filter": [FILTER]})
        manager.connections_of["eth0"] = [connection(number) for number in range(150)]
        async with Caller.on(bus) as caller:
            async with serving(bus, manager):
                replies = [
                    asyncio.ensure_future(caller.call("ListConnections", "s", ["eth0"]))
                    for _ in range(5)
                ]
                first: Message = await replies[0]
                assert len(first.body[0]) == 150
            ends = [await one for one in replies]
            for end in ends:
                assert end.error_name in (None, names.NO_REPLY)

    run(scene())
