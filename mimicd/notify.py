# SPDX-License-Identifier: GPL-2.0-only
"""Tells the service manager how this process is: sd_notify(3), without a library.

A datagram of lines NAME=value to the socket that NOTIFY_SOCKET names; whoever started us without
one is told nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping

_US = 1_000_000
_SHARE = 3
"""How many signs of life in one period of the watchdog."""


def notify(*assignments: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send "READY=1", "STATUS=...", "WATCHDOG=1" and the like; whether anybody could be told."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
    ):
        # A manager that does not read must not hold up the event loop.
        sender.setblocking(False)
        sender.sendto("\n".join(assignments).encode(), address)
        return True
    return False


def watchdog_period_s(environ: Mapping[str, str] = os.environ) -> float:
    """Within what time the service manager wants a sign of life; 0: it wants none."""
    try:
        pid = int(environ.get("WATCHDOG_PID", os.getpid()))
        period_us = int(environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return 0.0
    return period_us / _US if pid == os.getpid() and period_us > 0 else 0.0


class Watchdog:
    """Signs of life from the event loop, so that a loop that hangs gives none.

    The service manager then ends the process, and the next one takes over what is attached.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._interval_s = watchdog_period_s(environ) / _SHARE
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on, in the running loop, until `close`."""
        if self._interval_s:
            self._beat()

    def _beat(self) -> None:
        notify("WATCHDOG=1", environ=self._environ)
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._beat)

    def close(self) -> None:
        """No more of them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
