# SPDX-License-Identifier: GPL-2.0-only
"""What a program at one end says and hears: datagrams of a connected UDP socket, with deadlines."""

import contextlib
import select
import time
from collections.abc import Callable

from tests.rig.namespace import wait_until
from tests.rig.traffic import MAX_DATAGRAM_BYTES, Endpoint

BETWEEN_TRIES_S = 0.1


def heard(end: Endpoint, count: int = 1, within_s: float = 10.0) -> list[bytes]:
    """The next datagrams that arrive, fewer when the time is over."""
    poller = select.poll()
    poller.register(end.socket, select.POLLIN)
    deadline_s = time.monotonic() + within_s
    came: list[bytes] = []
    while len(came) < count and (left_s := deadline_s - time.monotonic()) > 0:
        if poller.poll(left_s * 1000):
            with contextlib.suppress(OSError):  # what an ICMP error told about an earlier one
                came.append(end.socket.recv(MAX_DATAGRAM_BYTES))
    return came


def say(end: Endpoint, *datagrams: bytes) -> None:
    """Send; what the kernel refuses is lost, as on a cable that is out."""
    for datagram in datagrams:
        with contextlib.suppress(OSError):
            end.socket.send(datagram)


def say_until(
    end: Endpoint, datagram: bytes, arrived: Callable[[], bool], within_s: float, what: str
) -> None:
    """Send the same datagram ten times a second until it has arrived; RigError at the deadline."""

    def say_and_look() -> bool:
        say(end, datagram)
        return arrived()

    wait_until(say_and_look, within_s, what, every_s=BETWEEN_TRIES_S)
