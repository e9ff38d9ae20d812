# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of the service are made of: a served fake manager, and callers on the bus.

async with serving(bus) as (manager, keeper), Caller.on(bus) as caller:
    reply = await caller.call("Run", "sa{sv}", ["eth0", {}])
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop
from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from mimicd.bus import names
from mimicd.bus.keeper import BusKeeper
from tests.bus.dbus_daemon import PrivateBus
from tests.bus.fake_manager import FakeManager

T = TypeVar("T")

FILTER = "remote=203.0.113.5:51820"
OPTIONS = {"filter": Variant("as", [FILTER])}
BOUND = {**OPTIONS, names.OPTION_BIND_TO_CALLER: Variant("b", True)}
WITHIN_S = 10.0
TEST_WITHIN_S = 60.0


def run(
    work: Coroutine[Any, Any, T],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
) -> T:
    """One asynchronous test, which may not hang, on the event loop that the daemon has."""

    async def bounded() -> T:
        async with asyncio.timeout(TEST_WITHIN_S):
            return await work

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(bounded())


async def until(condition: Callable[[], object], what: str, within_s: float = WITHIN_S) -> None:
    """Wait until a condition holds."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what}: not so in {within_s:g} s"
        await asyncio.sleep(0.005)


async def until_answers(
    ask: Callable[[], Awaitable[object]], what: str, within_s: float = WITHIN_S
) -> None:
    """Wait until an asynchronous question is answered with something true."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not await ask():
        assert asyncio.get_running_loop().time() < deadline, f"{what}: not so in {within_s:g} s"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def serving(
    bus: PrivateBus, manager: FakeManager | None = None, **options: Any
) -> AsyncIterator[tuple[FakeManager, BusKeeper]]:
    """The real service over a fake manager; options are the keeper's."""
    manager = manager or FakeManager()
    keeper = BusKeeper(manager, bus.address, **options)
    await keeper.start()
    try:
        yield manager, keeper
    finally:
        await keeper.close()


@dataclass
class Caller:
    """Somebody else on the bus."""

    connection: MessageBus
    signals: list[Message] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, bus: PrivateBus) -> AsyncIterator["Caller"]:
        connection = await MessageBus(bus_address=bus.address).connect()
        caller = cls(connection)
        connection.add_message_handler(caller._note)
        try:
            yield caller
        finally:
            await caller.leave()

    @property
    def name(self) -> str:
        return str(self.connection.unique_name)

    async def leave(self) -> None:
        """Leave the bus. Harmless when repeated."""
        if self.connection.connected:
            self.connection.disconnect()  # type: ignore[no-untyped-call]
        await asyncio.wait((self.connection._disconnect_future,))
        self.connection._stream.close()
        self.connection._sock.close()

    async def call(
        self,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        path: str = names.ROOT_PATH,
        interface: str | None = names.MANAGER,
        destination: str = names.BUS_NAME,
        flags: MessageFlag = MessageFlag.NONE,
    ) -> Message:
        """Call a method of mimicd; the reply, whether it is an error or not."""
        message = Message(
            destination=destination,
            path=path,
            interface=interface,  # type: ignore[arg-type]
            member=member,
            signature=signature,
            body=body or [],
            flags=flags,
        )
        reply = await self.connection.call(message)
        assert reply is not None
        return reply

    async def result(self, *arguments: Any, **options: Any) -> Any:
        """The only result of a call that must not fail, without variants."""
        reply = await self.call(*arguments, **options)
        assert reply.message_type is MessageType.METHOD_RETURN, (reply.error_name, reply.body)
        return plain(reply.body[0]) if reply.body else None

    async def fault(self, *arguments: Any, **options: Any) -> tuple[str, str]:
        """Name and text of the error that a call must end in."""
        reply = await self.call(*arguments, **options)
        assert reply.message_type is MessageType.ERROR, reply.body
        assert reply.signature == "s"
        return str(reply.error_name), reply.body[0]

    async def driver(self, member: str, signature: str, body: list[Any]) -> Any:
        return await self.result(
            member,
            signature,
            body,
            path=names.DRIVER_PATH,
            interface=names.DRIVER,
            destination=names.DRIVER_NAME,
        )

    async def follow(self, rule: str = f"type='signal',sender='{names.BUS_NAME}'") -> None:
        """Note the signals that match from now on."""
        await self.driver("AddMatch", "s", [rule])

    def heard(self, member: str) -> list[list[Any]]:
        """The bodies of the noted signals of one kind."""
        return [plain(one.body) for one in self.signals if one.member == member]

    async def until_heard(self, member: str, count: int = 1) -> list[list[Any]]:
        await until(lambda: len(self.heard(member)) >= count, f"{count} signals {member}")
        return self.heard(member)

    def _note(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL:
            self.signals.append(message)


def plain(value: Any) -> Any:
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value
