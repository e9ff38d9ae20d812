# SPDX-License-Identifier: GPL-2.0-only
"""Who may change something. The callers are processes of other users; polkit is played."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message

from mimicd.bus import names
from mimicd.bus.authorize import Authorizer
from mimicd.bus.connection import Connection
from mimicd.core.errors import NotAuthorizedError
from tests.bus.caller import FILTER, OPTIONS, Caller, plain, run, serving, until
from tests.bus.dbus_daemon import PrivateBus
from tests.rig.nobody import AS_NOBODY, NOBODY

ROOT = Path(__file__).resolve().parents[2]

# Calls Run with the flags in argv; prints the reply's error name and text.
_RUN_AS_SOMEBODY = """
import asyncio, json, sys
import mimicd.bus
from dbus_next.constants import MessageFlag
from tests.bus.caller import OPTIONS, Caller
from tests.bus.dbus_daemon import PrivateBus
from pathlib import Path

async def main():
    async with Caller.on(PrivateBus(Path(sys.argv[1]))) as caller:
        flags = MessageFlag(int(sys.argv[2]))
        reply = await caller.call("Run", "sa{sv}", ["eth0", OPTIONS], flags=flags)
        listed = await caller.result("ListInterfaces")
        print(json.dumps([reply.error_name, reply.body[0], caller.name, listed]))

asyncio.run(main())
"""


@dataclass
class Polkit:
    """Stands in for polkitd on the private bus."""

    allowed: bool = True
    challenge: bool = False
    error: str = ""
    silent: bool = False
    questions: list[list[Any]] = field(default_factory=list)

    @asynccontextmanager
    async def on(self, bus: PrivateBus) -> AsyncIterator[None]:
        connection = await MessageBus(bus_address=bus.address).connect()
        connection.add_message_handler(self._answer)
        async with Caller.on(bus):
            await connection.request_name(names.POLKIT_NAME)
            try:
                yield
            finally:
                await Caller(connection).leave()

    def _answer(self, message: Message) -> Message | bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        assert message.path == names.POLKIT_PATH
        assert message.interface == names.POLKIT_AUTHORITY
        assert message.member == "CheckAuthorization"
        self.questions.append(plain(message.body))
        if self.silent:
            return True
        if self.error:
            return Message.new_error(message, self.error, "polkit is unwell")
        verdict = [self.allowed, self.challenge, {}]
        return Message.new_method_return(message, "(bba{ss})", [verdict])


async def run_as_nobody(
    bus: PrivateBus, flags: MessageFlag = MessageFlag.NONE
) -> tuple[str | None, str, str, list[str]]:
    """Run eth0 as user nobody: error name, text or result, unique name, interfaces after it."""
    process = await asyncio.create_subprocess_exec(
        *AS_NOBODY,
        *(sys.executable, "-B", "-c", _RUN_AS_SOMEBODY, str(bus.folder), str(flags.value)),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        out, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode == 0
    name, text, caller, listed = json.loads(out)
    return name, text, caller, listed


@pytest.mark.root
def test_without_polkit_another_user_may_look_but_not_change(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _):
            name, text, _, listed = await run_as_nobody(bus)
            assert name == "org.mimicd1.Error.NotAuthorized"
            assert text == f"changing anything needs root, the caller is user {NOBODY}\nuse sudo"
            assert listed == []
            assert manager.calls == []

    run(scene())


@pytest.mark.root
def test_polkit_is_asked_about_the_very_caller_and_its_yes_counts(bus: PrivateBus) -> None:
    async def scene() -> None:
        polkit = Polkit()
        async with polkit.on(bus), serving(bus):
            name, _, caller, listed = await run_as_nobody(bus)
            assert name is None
            assert listed == [names.interface_path("eth0")]
            subject = ["system-bus-name", {"name": caller}]
            assert polkit.questions == [[subject, "org.mimicd1.manage", {}, 0, ""]]

    run(scene())


@pytest.mark.root
def test_a_person_is_asked_only_if_the_caller_lets_that_happen(bus: PrivateBus) -> None:
    async def scene() -> None:
        polkit = Polkit()
        async with polkit.on(bus), serving(bus):
            await run_as_nobody(bus, MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
            assert [question[3] for question in polkit.questions] == [1]

    run(scene())


@pytest.mark.root
@pytest.mark.parametrize(
    ("polkit", "words"),
    [
        (Polkit(allowed=False), "polkit does not allow user 65534 the action org.mimicd1.manage"),
        (Polkit(allowed=False, challenge=True), "\nauthenticate when asked, or use sudo"),
        (Polkit(error="org.freedesktop.PolicyKit1.Error.Failed"), "polkit is unwell"),
        (Polkit(silent=True), "did not answer within"),
    ],
    ids=["no", "not without a password", "an error", "silence"],
)
def test_anything_but_a_yes_of_polkit_is_a_no(
    bus: PrivateBus, polkit: Polkit, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimicd.bus.authorize._ANSWER_TIMEOUT_S", 0.3)

    async def scene() -> None:
        async with polkit.on(bus), serving(bus) as (manager, _):
            name, text, _, _ = await run_as_nobody(bus)
            assert name == "org.mimicd1.Error.NotAuthorized"
            assert words in text
            assert manager.calls == []

    run(scene())


@pytest.mark.root
def test_while_polkit_thinks_others_are_served(bus: PrivateBus) -> None:
    async def scene() -> None:
        polkit = Polkit(silent=True)
        async with polkit.on(bus), serving(bus) as (manager, _), Caller.on(bus) as caller:
            waiting = asyncio.ensure_future(run_as_nobody(bus))
            await until(lambda: polkit.questions, "polkit is asked")
            assert await caller.result("ListInterfaces") == []
            await caller.result("Run", "sa{sv}", ["eth1", OPTIONS])
            assert manager.called("run") == [("run", "eth1", {"filter": [FILTER]})]
            waiting.cancel()
            await asyncio.wait((waiting,))

    run(scene())


@pytest.mark.root
def test_who_lets_polkit_wait_keeps_nobody_else_from_a_change(
    bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimicd.bus.authorize.QUESTIONS", 1)

    async def scene() -> None:
        polkit = Polkit(silent=True)
        async with polkit.on(bus), serving(bus), Caller.on(bus) as root:
            waiting = asyncio.ensure_future(run_as_nobody(bus))
            await until(lambda: polkit.questions, "polkit is asked")
            name, text, _, _ = await run_as_nobody(bus)
            assert name == "org.mimicd1.Error.NotAuthorized"
            assert "polkit is asked for 1 calls already" in text
            await root.result("Run", "sa{sv}", ["eth1", OPTIONS])
            waiting.cancel()
            await asyncio.wait((waiting,))

    run(scene())


@pytest.mark.root
def test_root_is_allowed_without_polkit_being_asked(bus: PrivateBus) -> None:
    async def scene() -> None:
        polkit = Polkit(allowed=False)
        async with polkit.on(bus), serving(bus), Caller.on(bus) as caller:
            await caller.result("Run", "sa{sv}", ["eth0", OPTIONS])
            assert polkit.questions == []

    run(scene())


def test_the_daemons_own_user_counts_on_a_private_bus_only(
    bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        connection = await Connection.open(bus.address)
        async with Caller.on(bus) as caller:
            monkeypatch.setattr(os, "getuid", lambda: 4711)

            async def uid_4711(*_arguments: object) -> list[int]:
                return [4711]

            monkeypatch.setattr(connection, "ask_driver", uid_4711)
            await Authorizer(connection).check(caller.name, interactive=False)
            connection.address = names.SYSTEM_BUS_ADDRESS
            with pytest.raises(NotAuthorizedError, match="the caller is user 4711"):
                await Authorizer(connection).check(caller.name, interactive=False)
        connection.close()

    run(scene())


def test_a_caller_that_has_left_is_refused(bus: PrivateBus) -> None:
    async def scene() -> None:
        connection = await Connection.open(bus.address)
        with pytest.raises(NotAuthorizedError, match="the user of the caller is not known"):
            await Authorizer(connection).check(":1.99999", interactive=False)
        connection.close()

    run(scene())
