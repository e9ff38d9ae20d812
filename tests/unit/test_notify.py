# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.notify: what the service manager is told, and when."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from mimicd.notify import Watchdog, notify, watchdog_period_s


def manager(address: str) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(address)
    receiver.settimeout(10)
    return receiver


def test_it_tells_a_socket_in_the_file_system(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with manager(path) as receiver:
        assert notify("READY=1", "STATUS=fine", environ={"NOTIFY_SOCKET": path})
        assert receiver.recv(100) == b"READY=1\nSTATUS=fine"


def test_it_tells_an_abstract_socket() -> None:
    name = f"mimicd-test-{os.getpid()}"
    with manager(f"\0{name}") as receiver:
        assert notify("READY=1", environ={"NOTIFY_SOCKET": f"@{name}"})
        assert receiver.recv(100) == b"READY=1"


@pytest.mark.parametrize("where", [None, "", "relative", "/nowhere/at/all"])
def test_without_a_manager_nobody_is_told(where: str | None) -> None:
    assert not notify("READY=1", environ={} if where is None else {"NOTIFY_SOCKET": where})


@pytest.mark.parametrize(
    ("environ", "period_s"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        # meant for a parent, who did not take it out of the environment
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({"WATCHDOG_USEC": "-5"}, 0),
    ],
)
def test_how_often_a_sign_of_life_is_wanted(environ: dict[str, str], period_s: float) -> None:
    assert watchdog_period_s(environ) == period_s


def test_the_event_loop_gives_signs_of_life_until_it_hangs(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    environ = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000"}

    async def live(receiver: socket.socket) -> list[bytes]:
        watchdog = Watchdog(environ)
        watchdog.start()
        # 30 ms are over only after three signs
        heard = [await asyncio.to_thread(receiver.recv, 100) for _ in range(4)]
        watchdog.close()
        return heard

    with manager(path) as receiver:
        assert asyncio.run(live(receiver)) == [b"WATCHDOG=1"] * 4


def test_nobody_wants_a_sign_of_life(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")

    async def live() -> None:
        watchdog = Watchdog({"NOTIFY_SOCKET": path})
        watchdog.start()
        watchdog.close()

    with manager(path) as receiver:
        asyncio.run(live())
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(100)
