# SPDX-License-Identifier: GPL-2.0-only
"""Connecting to names with several addresses, some of which refuse or say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from kaminari.address import Address
from kaminari.connect import ATTEMPT_DELAY_S, AddressInfo, connect, interleave, race, resolve
from kaminari.errors import ConnectError
from kaminari.service import loop_factory
from tests.kaminari.rig import Rig, free_port


def info(port: int, host: str = "127.0.0.1") -> AddressInfo:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


def run_race(infos: list[AddressInfo]) -> int:
    """The port that the winner is connected to."""

    async def main() -> int:
        with await race(asyncio.get_running_loop(), infos) as sock:
            return int(sock.getpeername()[1])

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main())


def fill_backlog(rig: Rig, stack: contextlib.ExitStack) -> int:
    """A port that leaves connection attempts without an answer."""
    listener = rig.listen()
    listener.listen(0)
    for _ in range(8):
        sock = stack.enter_context(socket.socket())
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
    return int(listener.getsockname()[1])


def test_an_address_that_refuses_is_followed_by_the_next_at_once(rig: Rig) -> None:
    good = rig.listen("::1").getsockname()[1]
    began_s = time.monotonic()
    assert run_race([info(free_port()), info(free_port()), info(good, "::1")]) == good
    assert time.monotonic() - began_s < ATTEMPT_DELAY_S


def test_an_address_that_does_not_answer_is_overtaken_by_the_next(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        silent = fill_backlog(rig, stack)
        good = rig.listen().getsockname()[1]
        began_s = time.monotonic()
        assert run_race([info(silent), info(good)]) == good
        assert ATTEMPT_DELAY_S <= time.monotonic() - began_s < 10 * ATTEMPT_DELAY_S


def test_when_every_address_fails_the_first_failure_is_told() -> None:
    with pytest.raises(ConnectionRefusedError):
        run_race([info(free_port()), info(free_port(), "::1")])


def test_an_attempt_without_an_answer_ends_in_time(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        silent = fill_backlog(rig, stack)

        async def main() -> None:
            await connect(asyncio.get_running_loop(), Address("127.0.0.1", silent), 0.2)

        with pytest.raises(ConnectError, match=r"no answer within 0\.2 s"):
            asyncio.run(main())


def test_families_alternate_and_keep_their_order() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    mixed = [info(number, "::1") for number in (1, 2, 3)] + [info(4), info(5)]
    assert [(each[0], each[4][1]) for each in interleave(mixed)] == [
        (six, 1),
        (four, 4),
        (six, 2),
        (four, 5),
        (six, 3),
    ]


def test_names_and_numbers_resolve() -> None:
    async def main() -> list[AddressInfo]:
        loop = asyncio.get_running_loop()
        return [
            *await resolve(loop, Address("localhost", 80)),
            *await resolve(loop, Address("::1", 80)),
        ]

    found = asyncio.run(main())
    assert found[-1][4][:2] == ("::1", 80)
    assert all(each[4][0] in ("127.0.0.1", "::1") for each in found)
