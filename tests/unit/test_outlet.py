# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.outlet: what becomes of a held datagram that does not leave."""

import errno
import os

import pytest

from mimicd.core.abi import Operation, encode_command
from mimicd.core.connection import State
from mimicd.core.flows import Command, Resend
from mimicd.core.frames import command_frame
from mimicd.outlet import Outlet
from tests.unit.entries import KEY, entry

LINK_HEADER = bytes(14)


class Socket:
    """Takes frames, or refuses them all."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        if self.code:
            raise OSError(self.code, os.strerror(self.code))
        self.sent.append(frame)


def outlet_with(monkeypatch: pytest.MonkeyPatch, held: Socket, commands: Socket) -> Outlet:
    outlet = Outlet(conns=None)  # type: ignore[arg-type]
    monkeypatch.setattr(outlet, "_held", held)
    monkeypatch.setattr(outlet, "_commands", commands)
    standing = entry(State.ESTABLISHED, link_header=LINK_HEADER)
    monkeypatch.setattr(outlet, "_entry", lambda key: standing)
    return outlet


@pytest.mark.parametrize("code", [errno.ENETDOWN, errno.EAGAIN, errno.ENXIO])
def test_what_did_not_reach_the_program_is_given_up(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    commands = Socket()
    outlet = outlet_with(monkeypatch, Socket(code), commands)
    outlet.act(Resend(KEY, b"frame", 7))
    payload = encode_command(Operation.RELEASE, 7, 1)
    assert commands.sent == [command_frame(LINK_HEADER, KEY, payload)]
    assert (outlet.take_failures(), outlet.take_failures()) == (1, 0)


def test_what_a_full_queue_refused_was_counted_by_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = Socket()
    outlet = outlet_with(monkeypatch, Socket(errno.ENOBUFS), commands)
    outlet.act(Resend(KEY, b"frame", 7))
    assert commands.sent == []
    assert outlet.take_failures() == 1


def test_a_command_that_does_not_leave_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Socket()
    outlet = outlet_with(monkeypatch, held, Socket(errno.ENETDOWN))
    outlet.act(Command(KEY, Operation.KEEPALIVE, 7))
    assert held.sent == []
    assert outlet.take_failures() == 1
