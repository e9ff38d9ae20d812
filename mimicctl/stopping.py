# SPDX-License-Identifier: GPL-2.0-only
"""SIGINT and SIGTERM: the work is told to end, and the process ends in time whatever hangs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

GRACE_S = 2.5
"""What is left of 3 s for a clean end, after which the process just ends."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A stop signal came."""


class StopSignals:
    """Catches the stop signals of this process; made once, in the main thread."""

    def __init__(self) -> None:
        self._requested = False
        self._exit_code = 1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None
        for number in _SIGNALS:
            # Not the loop's own handlers: these also run while something blocks the loop.
            signal.signal(number, self._handle)

    async def race(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work`; when a stop signal comes first, cancel it and raise Stopped."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Stopped
        finally:
            for one in (task, stop):
                one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((task, stop))
            if task.done() and not task.cancelled():
                task.exception()  # the signal came first, nobody waits for the outcome

    async def _wait(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        if self._requested:
            return
        await self._event.wait()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if not self._requested:
            self._requested = True
            timer = threading.Timer(GRACE_S, os._exit, (self._exit_code,))
            timer.daemon = True
            timer.start()
        if self._loop is not None and self._event is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)
