# SPDX-License-Identifier: GPL-2.0-only
"""Readiness of the sockets that carry payload: one epoll set of their own, inside the event loop.

The loop sees the set as one descriptor and this module hands out what is ready in it. That costs
less for each event than the loop's own watchers, and it is the same on every loop: libuv stops
watching a socket at its first error event, so that a reset behind unread bytes would be missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
# A socket in error or hung up is both: the call that meets the error says which it is.
_ANY_READ = select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP
_ANY_WRITE = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP
EVENTS_A_TURN = 256


class Watch:
    """What one descriptor is watched for. An unset side is not watched."""

    __slots__ = ("_poller", "fd", "mask", "on_readable", "on_writable")

    def __init__(self, poller: Poller, fd: int) -> None:
        self._poller = poller
        self.fd = fd
        self.mask = 0
        self.on_readable: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None

    def read(self, call: Callable[[], None] | None) -> None:
        self.on_readable = call
        self._poller.update(self)

    def write(self, call: Callable[[], None] | None) -> None:
        self.on_writable = call
        self._poller.update(self)

    def stop(self) -> None:
        self.on_readable = self.on_writable = None
        self._poller.update(self)


class Poller:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}
        loop.add_reader(self._epoll.fileno(), self._turn)

    def close(self) -> None:
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._watches.clear()

    def update(self, watch: Watch) -> None:
        """Bring the kernel's set in line with a watch."""
        mask = (READ if watch.on_readable else 0) | (WRITE if watch.on_writable else 0)
        if mask == watch.mask:
            return
        if not watch.mask:
            self._epoll.register(watch.fd, mask)
            self._watches[watch.fd] = watch
        elif mask:
            self._epoll.modify(watch.fd, mask)
        else:
            # Not an empty mask: the kernel would go on reporting a hang-up.
            del self._watches[watch.fd]
            with contextlib.suppress(OSError):
                self._epoll.unregister(watch.fd)
        watch.mask = mask

    def _turn(self) -> None:
        watches = self._watches
        for fd, events in self._epoll.poll(0, EVENTS_A_TURN):
            # A call may have stopped any watch, so each is looked up when its turn comes.
            watch = watches.get(fd)
            if watch is None:
                continue
            if events & _ANY_WRITE and watch.on_writable is not None:
                watch.on_writable()
            if events & _ANY_READ and watch.on_readable is not None:
                watch.on_readable()
