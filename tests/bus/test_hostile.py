# SPDX-License-Identifier: GPL-2.0-only
"""Callers that flood, leave in the middle or send what nobody asked for: they harm nobody."""

import asyncio
import json
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant

from mimicd.bus import names
from mimicd.bus.connection import Connection
from mimicd.bus.dispatch import CALLS_PER_SENDER
from mimicd.bus.signals import Signals
from mimicd.bus.transport import MESSAGE_LIMIT_BYTES
from tests.bus.caller import FILTER, OPTIONS, Caller, run, serving, until
from tests.bus.dbus_daemon import PrivateBus
from tests.bus.fake_manager import FakeManager, connection
from tests.bus.programs import StandIn, ctl

ROOT = Path(__file__).resolve().parents[2]
STALL_LIMIT_S = 0.05
MANY = 10_000


@asynccontextmanager
async def raw_caller(bus: PrivateBus, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bus.raw_caller", str(bus.path), *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def test_ten_thousand_connections_are_listed_within_a_second_and_hold_up_nobody(
    bus: PrivateBus,
) -> None:
    async def scene() -> None:
        async with raw_caller(bus, "list") as caller:
            out, _ = await caller.communicate()
        seconds, size = out.split()
        assert int(size) > MANY * 400
        assert float(seconds) < 1

    with StandIn(bus, "--running", "eth0", "--connections", str(MANY)) as daemon:
        run(scene())
        assert daemon.longest_stall_s() < STALL_LIMIT_S


def test_describing_ten_thousand_connections_holds_up_nobody(bus: PrivateBus) -> None:
    with StandIn(bus, "--running", "eth0", "--connections", str(MANY)) as daemon:
        code, out, _ = ctl(bus, "show", "--json")
        assert code == 0
        assert out.count('"local"') == MANY
        assert daemon.longest_stall_s() < STALL_LIMIT_S


@pytest.mark.parametrize("what", ["flood", "greedy"])
def test_a_flood_of_calls_holds_up_neither_the_loop_nor_other_callers(
    bus: PrivateBus, what: str
) -> None:
    async def scene() -> None:
        async with Caller.on(bus) as other, raw_caller(bus, what, "3000") as flooder:
            served = [names.interface_path("eth0")]
            assert flooder.stdout is not None
            sent = asyncio.ensure_future(flooder.stdout.readline())
            while not sent.done():
                assert await other.result("ListInterfaces") == served
                await asyncio.wait((sent,), timeout=0.02)
            assert sent.result() == b"sent\n"
            # this call stands behind all of them, and nobody has taken one of their answers
            assert await other.result("ListInterfaces") == served
            assert len(json.loads(await other.result("Describe"))["connections"]) == 2000
            assert flooder.returncode is None
            flooder.kill()
            await flooder.wait()
            assert await other.result("ListInterfaces") == served

    with StandIn(bus, "--running", "eth0", "--connections", "2000") as daemon:
        run(scene())
        assert daemon.longest_stall_s() < STALL_LIMIT_S


def test_one_caller_has_a_bounded_number_of_calls_in_progress(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as greedy, Caller.on(bus) as other:
            manager.gate.clear()
            calls = [
                asyncio.ensure_future(greedy.call("Run", "sa{sv}", [f"eth{number}", OPTIONS]))
                for number in range(CALLS_PER_SENDER)
            ]
            await until(lambda: len(manager.calls) == CALLS_PER_SENDER, "all are in progress")
            name, text = await greedy.fault("Stop", "s", ["eth0"])
            assert name == names.LIMITS_EXCEEDED
            assert text == f"{CALLS_PER_SENDER} calls of this caller are in progress"
            assert await other.result("ListInterfaces") == []
            manager.gate.set()
            await asyncio.gather(*calls)
            assert len(await greedy.result("ListInterfaces")) == CALLS_PER_SENDER

    run(scene())


def test_a_caller_that_leaves_in_the_middle_is_forgotten(bus: PrivateBus) -> None:
    async def scene() -> None:
        manager = FakeManager()
        manager.add("eth0", {"filter": [FILTER]})
        manager.connections_of["eth0"] = [connection(number) for number in range(MANY)]
        async with serving(bus, manager), Caller.on(bus) as other:
            async with raw_caller(bus, "leave") as leaver:
                await leaver.communicate()
            assert len(await other.result("ListInterfaces")) == 1
            async with Caller.on(bus) as caller:
                manager.gate.clear()
                call = asyncio.ensure_future(caller.call("Run", "sa{sv}", ["eth1", OPTIONS]))
                await until(lambda: manager.called("run"), "Run has begun")
                call.cancel()
            manager.gate.set()
            await until(lambda: len(manager.interfaces()) == 2, "the change is finished")
            assert len(await other.result("ListInterfaces")) == 2

    run(scene())


def test_a_message_that_is_too_large_is_refused_by_name_and_the_next_one_served(
    bus: PrivateBus,
) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            options = {"filter": Variant("as", ["x" * (MESSAGE_LIMIT_BYTES * 4)])}
            name, text = await caller.fault("Run", "sa{sv}", ["eth0", options])
            assert name == names.LIMITS_EXCEEDED
            assert text == "a message may have 256 KiB, this one had more"
            assert manager.calls == []
            assert await caller.result("ListInterfaces") == []

    run(scene())


def test_a_few_thousand_filters_fit_into_one_call(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            filters = [f"remote=203.0.113.5:{port}" for port in range(1, 4001)]
            await caller.result("Run", "sa{sv}", ["eth0", {"filter": Variant("as", filters)}])
            assert manager.calls == [("run", "eth0", {"filter": filters})]

    run(scene())


def test_values_that_are_slow_to_decode_hold_up_nobody(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with Caller.on(bus) as caller:
            options = {"filter": Variant("av", [Variant("y", 1)] * 60_000)}
            name, _ = await caller.fault("Run", "sa{sv}", ["eth0", options])
            assert name == names.INVALID_ARGS

    with StandIn(bus) as daemon:
        run(scene())
        assert daemon.longest_stall_s() < STALL_LIMIT_S


def test_a_long_path_holds_up_nobody(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with Caller.on(bus) as caller:
            for path in ("/a" * 100_000, names.INTERFACES_PATH + "/" + "_61" * 60_000):
                name, _ = await caller.fault("Ping", path=path, interface=names.PEER)
                assert name == names.UNKNOWN_OBJECT

    with StandIn(bus) as daemon:
        run(scene())
        assert daemon.longest_stall_s() < STALL_LIMIT_S


def test_calls_of_one_caller_keep_their_order_when_a_large_one_is_among_them(
    bus: PrivateBus,
) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            large = {"filter": Variant("as", [f"remote=203.0.113.5:{n}" for n in range(1, 3000)])}
            await asyncio.gather(
                caller.result("Run", "sa{sv}", ["eth0", large]),
                caller.result("Run", "sa{sv}", ["eth1", OPTIONS]),
            )
            assert [call[1] for call in manager.calls] == ["eth0", "eth1"]

    run(scene())


def test_types_that_nobody_uses_twice_do_not_stay_in_memory(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus), Caller.on(bus) as caller:
            for number in range(600):
                signature = "(" + "".join("ynqiuxtd"[int(digit)] for digit in f"{number:04o}") + ")"
                options = {"padding": Variant(signature, [0, 0, 0, 0])}
                await caller.fault("Run", "sa{sv}", ["eth0", options])
            assert len(SignatureTree._cache) < 600

    run(scene())


@asynccontextmanager
async def fake_bus(folder: Path, words: bytes) -> AsyncIterator[tuple[asyncio.Event, Connection]]:
    """A bus that says Hello, and `words` once the event is set."""
    speak, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n")
        writer.write(b"OK 1234deadbeef\r\n")
        await reader.readuntil(b"BEGIN\r\n")
        call = await reader.readexactly(16)
        body_bytes, serial, field_bytes = struct.unpack_from("<III", call, 4)
        await reader.readexactly(field_bytes + -field_bytes % 8 + body_bytes)
        hello = Message.new_method_return(
            Message(path="/", member="Hello", sender=":1.7", serial=serial), "s", [":1.7"]
        )
        hello.serial = 1
        writer.write(bytes(hello._marshall()))  # type: ignore[no-untyped-call]
        await speak.wait()
        writer.write(words)
        await writer.drain()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    path = str(folder / "bus")
    async with await asyncio.start_unix_server(serve, path):
        connection = await Connection.open(f"unix:path={path}")
        try:
            yield speak, connection
        finally:
            connection.close()
            await ended.wait()


def packed_call(member: str = "Ping") -> bytearray:
    call = Message(destination=":1.7", path="/x", interface=names.PEER, member=member, serial=9)
    return bytearray(call._marshall())  # type: ignore[no-untyped-call]


def test_a_message_that_the_library_cannot_read_does_not_end_the_connection(
    tmp_path: Path,
) -> None:
    unknown_type = packed_call()
    unknown_type[1] = 77
    unknown_field = packed_call()
    unknown_field[16] = 99  # the code of the first header field
    words = bytes(unknown_type + unknown_field + packed_call("GetMachineId"))

    async def scene() -> None:
        heard: list[str] = []
        async with fake_bus(tmp_path, words) as (speak, connection):
            connection.listen(lambda message, _: heard.append(message.member), lambda _: None)
            speak.set()
            await until(lambda: heard, "a call is heard")
            assert heard == ["GetMachineId"]
            assert connection.connected

    run(scene())


def test_bytes_that_are_no_message_end_the_connection_with_a_reason(tmp_path: Path) -> None:
    async def scene() -> None:
        async with fake_bus(tmp_path, b"HTTP/1.1 400 Bad Request\r\n") as (speak, connection):
            speak.set()
            reason = await connection.wait_closed()
            assert "not a message" in reason

    run(scene())


def test_signals_are_dropped_when_the_bus_does_not_take_them(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, keeper), Caller.on(bus) as caller:
            (signals,) = manager.listeners
            assert isinstance(signals, Signals)
            with bus.frozen():
                for _ in range(100):
                    for _ in range(100):
                        manager.say("eth0", 4, "x" * 500)
                    await asyncio.sleep(0)
                assert signals.dropped > 1000
                dropped = signals.dropped
            assert await caller.result("ListInterfaces") == []
            await caller.follow()
            manager.say("eth0", 2, "all is well")
            assert await caller.until_heard("Log") == [["eth0", 2, "all is well"]]
            assert signals.dropped == dropped
            assert keeper.connected

    run(scene())
