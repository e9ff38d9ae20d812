# SPDX-License-Identifier: GPL-2.0-only
"""Coming to the bus: what is said when there is none, or when it refuses the name."""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from mimicd.bus.keeper import BusKeeper
from mimicd.core.errors import BusError
from tests.bus.caller import run, serving
from tests.bus.dbus_daemon import SYSTEM_POLICY, PrivateBus, private_bus
from tests.bus.fake_manager import FakeManager


async def refusal(address: str) -> BusError:
    """The error that starting at this address must end in, with nothing left behind."""
    manager = FakeManager()
    keeper = BusKeeper(manager, address)
    with pytest.raises(BusError) as caught:
        await keeper.start()
    await keeper.close()
    assert manager.listeners == []
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_name_that_is_taken_is_said_to_be_taken(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (first, _):
            error = await refusal(bus.address)
            assert "is taken, another mimicd is running there" in str(error)
            assert "--address" in error.hint
            assert len(first.listeners) == 1

    run(scene())


def test_a_bus_without_a_policy_file_for_the_name_gets_a_hint_to_install_it() -> None:
    with private_bus(SYSTEM_POLICY) as bus:
        error = run(refusal(bus.address))
    assert "was refused by the policy of the bus" in str(error)
    assert "without a policy file nobody, root included" in error.hint


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("unix:path=/nonexistent/bus", "No such file or directory"),
        ("nonsense", "is not a bus address"),
        ("unix:tmpdir=/tmp", "is not a bus address"),
        ("unixexec:path=/bin/true", "is not a bus address"),
        ("unix:path=/etc/passwd", "Connection refused"),
        ("tcp:host=127.0.0.1,port=1", "Connection refused"),
    ],
)
def test_an_address_without_a_bus_is_named_with_the_reason(address: str, words: str) -> None:
    error = run(refusal(address))
    assert address in str(error)
    assert words in str(error)
    assert error.hint


def test_the_second_of_several_addresses_is_used_when_the_first_is_dead(bus: PrivateBus) -> None:
    async def scene() -> None:
        keeper = BusKeeper(FakeManager(), f"unix:path=/nonexistent/bus;{bus.address}")
        await keeper.start()
        assert keeper.connected
        await keeper.close()

    run(scene())


def test_a_bus_that_hangs_up_during_authentication_is_an_error_not_a_loop(tmp_path: Path) -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    async def scene() -> BusError:
        path = str(tmp_path / "bus")
        async with await asyncio.start_unix_server(hang_up, path):
            return await refusal(f"unix:path={path}")

    assert "cannot be reached" in str(run(scene()))


def test_a_bus_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimicd.bus.connection._CONNECT_TIMEOUT_S", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "bus"))
        silent.listen()
        assert "no answer within" in str(run(refusal(f"unix:path={tmp_path / 'bus'}")))


def test_a_bus_whose_queue_is_full_does_not_block_the_event_loop(tmp_path: Path) -> None:
    path = str(tmp_path / "bus")
    with socket.socket(socket.AF_UNIX) as hanging, socket.socket(socket.AF_UNIX) as waiting:
        hanging.bind(path)
        hanging.listen(0)
        waiting.connect(path)
        begun = time.monotonic()
        error = run(refusal(f"unix:path={path}"))
        assert time.monotonic() - begun < 2
    assert "it does not answer" in str(error)
