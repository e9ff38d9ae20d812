# SPDX-License-Identifier: GPL-2.0-only
"""Tells every segment of an interface, while somebody wants to know.

The programs write each segment into a ring of its own, if a flag in their configuration says so.
It is read at fixed times, a bounded number of lines each: what comes faster fills the ring and is
counted there, so that neither packets nor handshakes wait for a line.
"""

import asyncio
import struct
from collections.abc import Callable

from mimicd.core import abi
from mimicd.core.abi import COUNTERS, ConfigFlag, TracedSegment
from mimicd.kernel.dataplane import TRACE_RING_BYTES, DataPlane
from mimicd.kernel.ring import Ring

INTERVAL_S = 0.05
LINES_AT_ONCE = 200
"""So at most 4,000 lines a second."""

_LOST = COUNTERS.index("trace-lost")


class Trace:
    """The trace of one data path; off until `switch`."""

    def __init__(
        self,
        plane: DataPlane,
        on_segment: Callable[[TracedSegment], None],
        on_lost: Callable[[int], None],
    ) -> None:
        """`on_lost` is told how many segments since the last time were not told."""
        self._plane = plane
        self._on_segment = on_segment
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._ring: Ring | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost = 0

    def switch(self, on: bool) -> None:
        """Begin, or end with what was told up to now."""
        if on and self._ring is None:
            self._ring = Ring(self._plane.trace_fd, TRACE_RING_BYTES)
            # of an earlier trace, perhaps of an earlier process
            self._ring.skip()
            self._lost = self._plane.counter(_LOST)
            self._timer = self._loop.call_later(INTERVAL_S, self._tick)
        # Also where a process before this one left it on.
        self._plane.set_flag(ConfigFlag.TRACE, on)
        if not on and self._ring is not None:
            self._tell()
            self.close()

    def close(self) -> None:
        """Stop reading."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def tell_lost(self) -> None:
        """Say how many were left out since the last time, if any were."""
        if self._ring is None:
            return
        lost = self._plane.counter(_LOST)
        if lost != self._lost:
            self._on_lost(lost - self._lost)
            self._lost = lost

    def _tick(self) -> None:
        self._timer = self._loop.call_later(INTERVAL_S, self._tick)
        self._tell()

    def _tell(self) -> None:
        assert self._ring is not None
        for raw in self._ring.read(LINES_AT_ONCE):
            try:
                segment = abi.decode_trace(raw)
            except (ValueError, struct.error):
                continue  # of a program that is not ours; there is nothing to say of it
            self._on_segment(segment)
