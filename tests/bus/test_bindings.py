# SPDX-License-Identifier: GPL-2.0-only
"""bind-to-caller: an interface that goes when its caller leaves the bus, and survives the bus."""

import asyncio

from dbus_next.constants import MessageFlag
from dbus_next.message import Message

from mimicd.bus import names
from mimicd.core.errors import AlreadyRunningError
from tests.bus.caller import BOUND, FILTER, OPTIONS, Caller, run, serving, until, until_answers
from tests.bus.dbus_daemon import PrivateBus
from tests.bus.fake_manager import FakeManager

RUN = ("Run", "sa{sv}")


def test_a_bound_interface_is_stopped_when_its_caller_leaves(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, keeper), Caller.on(bus) as caller:
            await caller.result(*RUN, ["eth0", BOUND])
            assert manager.calls == [("run", "eth0", {"filter": [FILTER]})]
            assert keeper.bound_interfaces == ("eth0",)
            await caller.leave()
            await until(lambda: not manager.interfaces(), "eth0 is stopped")
            assert not keeper.bound_interfaces

    run(scene())


def test_an_interface_that_is_not_bound_stays(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            await caller.result(*RUN, ["eth0", OPTIONS])
            await caller.result(*RUN, ["eth1", BOUND])
            await caller.leave()
            await until(lambda: len(manager.interfaces()) == 1, "eth1 is stopped")
            assert [view.name for view in manager.interfaces()] == ["eth0"]

    run(scene())


def test_a_caller_that_leaves_while_its_interface_is_attached_takes_it_along(
    bus: PrivateBus,
) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            manager.gate.clear()
            call = asyncio.ensure_future(caller.call(*RUN, ["eth0", BOUND]))
            await until(lambda: manager.called("run"), "Run has begun")
            call.cancel()
            await caller.leave()
            async with Caller.on(bus) as other:
                await until_answers(
                    lambda: left(other, caller.name), "the bus has seen the caller leave"
                )
                assert await other.result("ListInterfaces") == []
            manager.gate.set()
            await until(lambda: manager.called("stop"), "eth0 is stopped again")
            assert manager.interfaces() == []

    async def left(other: Caller, name: str) -> bool:
        return not await other.driver("NameHasOwner", "s", [name])

    run(scene())


def test_a_failed_run_binds_nothing_and_its_caller_may_leave(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, keeper), Caller.on(bus) as first:
            await first.result(*RUN, ["eth0", BOUND])
            async with Caller.on(bus) as second:
                name, _ = await second.fault(*RUN, ["eth0", BOUND])
                assert name == names.ERROR_PREFIX + AlreadyRunningError.error_name
            await first.result("ListInterfaces")
            assert keeper.bound_interfaces == ("eth0",)
            assert manager.called("stop") == []

    run(scene())


def test_a_reload_can_hand_an_interface_to_another_caller(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as first, Caller.on(bus) as second:
            await first.result(*RUN, ["eth0", BOUND])
            await second.result("Reload", "sa{sv}", ["eth0", BOUND])
            await first.leave()
            await second.result("ListInterfaces")
            assert manager.called("stop") == []
            await second.leave()
            await until(lambda: not manager.interfaces(), "eth0 is stopped")

    run(scene())


def test_an_interface_that_somebody_stopped_is_no_longer_bound(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, keeper), Caller.on(bus) as first:
            await first.result(*RUN, ["eth0", BOUND])
            async with Caller.on(bus) as second:
                await second.result("Stop", "s", ["eth0"])
                assert keeper.bound_interfaces == ()
                await second.result(*RUN, ["eth0", OPTIONS])
                await first.leave()
                await second.result("ListInterfaces")
                assert len(manager.called("stop")) == 1

    run(scene())


def test_nobody_can_pretend_that_somebody_else_left(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller, Caller.on(bus) as liar:
            await caller.result(*RUN, ["eth0", BOUND])
            owner = await liar.driver("GetNameOwner", "s", [names.BUS_NAME])
            lie = Message.new_signal(
                names.DRIVER_PATH, names.DRIVER, "NameOwnerChanged", "sss", [caller.name] * 2 + [""]
            )
            lie.destination = owner
            await liar.connection.send(lie)
            # Replies come in order, so the lie has been heard by now.
            await liar.result("ListInterfaces", flags=MessageFlag.NONE)
            assert manager.called("stop") == []

    run(scene())


def test_a_bound_interface_survives_the_bus_if_its_caller_comes_back(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus, grace_s=1.0) as (manager, keeper):
            async with Caller.on(bus) as caller:
                await caller.result(*RUN, ["eth0", BOUND])
                bus.stop()
            await until(lambda: not keeper.connected, "the keeper has noticed")
            assert keeper.bound_interfaces == ("eth0",)
            bus.start()
            await until(lambda: keeper.connected, "the keeper is back")
            async with Caller.on(bus) as caller:
                await caller.result("Reload", "sa{sv}", ["eth0", BOUND])
                await asyncio.sleep(1.2)  # past the grace, which this is about
                assert manager.called("stop") == []
            await until(lambda: manager.called("stop"), "eth0 is stopped with its caller")

    run(scene())


def test_a_bound_interface_is_stopped_if_its_caller_does_not_come_back(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus, grace_s=0.1) as (manager, keeper):
            async with Caller.on(bus) as caller:
                await caller.result(*RUN, ["eth0", BOUND])
                bus.stop()
            await until(lambda: not keeper.connected, "the keeper has noticed")
            assert manager.called("stop") == []
            bus.start()
            await until(lambda: manager.called("stop"), "eth0 is stopped")

    run(scene())


def test_what_a_predecessor_had_bound_waits_for_its_caller(bus: PrivateBus) -> None:
    async def scene() -> None:
        manager = FakeManager()
        manager.add("eth0", {"filter": [FILTER]})
        async with serving(bus, manager, bound={"eth0": ""}, grace_s=0.1) as (_, keeper):
            assert keeper.bound_interfaces == ("eth0",)
            await until(lambda: manager.called("stop"), "eth0 is stopped")

    run(scene())
