# SPDX-License-Identifier: GPL-2.0-only
"""Tells that links, addresses or TC filters changed. What changed is then listed anew.

A netlink socket that overflows (ENOBUFS) has lost events, and what helps is to list again; so
every message is treated as that, and none has to be understood.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

# RTMGRP_LINK, RTMGRP_TC, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_RTMGRP = 0x1 | 0x8 | 0x10 | 0x100
_READ_BYTES = 65536
_READS_AT_ONCE = 64

SETTLE_S = 0.05
"""An interface that comes up sends a burst of messages: one listing serves them all."""


class Changes:
    """Calls `on_change`, in the loop's thread, after a burst of messages."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        """Raises OSError."""
        self._on_change = on_change
        self._lost = ""
        self._pending: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, _RTMGRP))
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._read)

    def _read(self) -> None:
        try:
            # whatever is left after so many makes the loop call again
            for _ in range(_READS_AT_ONCE):
                self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            pass
        except OSError as error:
            # ENOBUFS: messages were lost, which is one more reason to list
            self._lost = error.strerror or str(error)
        if self._pending is None:
            self._pending = self._loop.call_later(SETTLE_S, self._tell)

    def _tell(self) -> None:
        self._pending = None
        if self._lost:
            log.warning(
                "messages about links and addresses were lost, all are listed: %s", self._lost
            )
            self._lost = ""
        self._on_change()

    def close(self) -> None:
        """Stop telling."""
        if self._pending is not None:
            self._pending.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
