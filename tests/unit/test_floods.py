# SPDX-License-Identifier: GPL-2.0-only
"""What somebody on the network can make the daemon do is bounded: lines in the log, and looks."""

import asyncio
from types import SimpleNamespace
from typing import Any

from mimicd.audience import Audience
from mimicd.core import line_budget
from mimicd.core.abi import Event, EventType, Reason
from mimicd.core.connection import Role, State
from mimicd.core.line_budget import LINES_PER_S, LineBudget
from mimicd.core.model import InterfaceConfig
from mimicd.core.rules import RuleBook
from mimicd.core.shortages import Shortages
from mimicd.instance import Instance
from mimicd.logs import INFO, WARNING
from tests.unit.entries import KEY


def test_a_second_has_so_many_lines_and_the_rest_is_counted() -> None:
    budget = LineBudget()
    assert sum(budget.take() for _ in range(LINES_PER_S + 7)) == LINES_PER_S
    assert budget.renew() == 7
    assert budget.take()
    assert budget.renew() == 0


def instance(said: list[tuple[int, str]], looks: list[None]) -> Instance:
    """An interface without connections; to be made inside a running loop."""

    def items() -> list[tuple[bytes, bytes]]:
        looks.append(None)
        return []

    def log(interface: str, level: int, text: str) -> None:
        del interface
        said.append((level, text))

    listener: Any = SimpleNamespace(log=log)
    tell = Audience(lambda _: None)
    tell.subscribe(listener)
    link: Any = SimpleNamespace(name="eth0", ifindex=3, mtu_bytes=1500)
    conns = SimpleNamespace(lookup=lambda _key: None, items=items)
    plane: Any = SimpleNamespace(conns=conns, counter=lambda _index: 0)
    none: Any = None
    made = Instance(link, plane, InterfaceConfig(), RuleBook({}), none, tell)
    made._shortages = Shortages(plane.counter)
    return made


def test_connections_that_come_and_go_without_end_do_not_fill_the_log() -> None:
    said: list[tuple[int, str]] = []
    reset = Event(
        *(EventType.STATE, 0, KEY, 1, State.IDLE, Role.RESPONDER),
        *(Reason.RESET_BY_PEER, False, 0, b""),
    )

    async def flood() -> None:
        one = instance(said, [])
        for _ in range(2 * line_budget.LINES_PER_S):
            one._on_events([reset])
        one._keep_house()
        one._on_events([reset])
        one._close()

    asyncio.run(flood())
    told = [level for level, _ in said]
    assert told == [INFO] * LINES_PER_S + [WARNING, INFO]
    assert str(LINES_PER_S) in said[LINES_PER_S][1]


def test_looks_at_all_connections_do_not_pile_up() -> None:
    """A ring buffer that stays full asks for one each second, and one may take longer."""
    looks: list[None] = []

    async def ask() -> None:
        one = instance([], looks)
        for _ in range(10):
            one._rescan_soon(after_loss=True)
        assert one._rescans is not None
        await one._rescans
        assert len(looks) == 1
        # who asks while one goes on gets another one
        going_on = one._rescan

        async def asked_again(after_loss: bool = False) -> None:
            if len(looks) == 1:
                one._rescan_soon()
                one._rescan_soon(after_loss=True)
            await going_on(after_loss)

        one._rescan = asked_again  # type: ignore[method-assign]
        one._rescan_soon()
        await one._rescans
        one._close()

    asyncio.run(ask())
    assert len(looks) == 3
