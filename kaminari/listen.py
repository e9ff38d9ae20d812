# SPDX-License-Identifier: GPL-2.0-only
"""Listening sockets for an address, and accepting from them without ever falling behind."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack

from kaminari.address import Address
from kaminari.errors import RunError

BACKLOG = 4096
ACCEPTS_A_TURN = 64
SHORTAGE_PAUSE_S = 0.1
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def bind(address: Address, kind: socket.SocketKind, share: bool = False) -> list[socket.socket]:
    """Bind every address of the host ("a|b" names two hosts). Raises RunError.

    `share` sets SO_REUSEPORT, for workers that each bind the port.
    """
    infos = []
    hosts = address.host.split("|")
    for host in hosts:
        try:
            infos += socket.getaddrinfo(host, address.port, type=kind, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a host name"
            raise RunError(f"cannot listen on {address}: {reason}") from None
    unique = list({(info[0], info[4]): info for info in infos}.values())
    with ExitStack() as undo:
        sockets = []
        for family, _, protocol, _, sockaddr in unique:
            sock = undo.enter_context(socket.socket(family, kind, protocol))
            try:
                if kind is socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if share:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6 and len(unique) > 1:
                    # "::" would otherwise take 0.0.0.0's port with it
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(sockaddr)
                if kind is socket.SOCK_STREAM:
                    sock.listen(BACKLOG)
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                hint = "choose another port" if error.errno == errno.EADDRINUSE else ""
                raise RunError(f"cannot listen on {address}: {reason}", hint) from None
            sock.setblocking(False)
            sockets.append(sock)
        undo.pop_all()
    return sockets


class Acceptor:
    """Hands each new connection to `handle`; pause leaves newcomers in the kernel's backlog."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: list[socket.socket],
        handle: Callable[[socket.socket], None],
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._handle = handle
        self._accepting = False
        self._closed = False

    def resume(self) -> None:
        if not self._accepting and not self._closed:
            self._accepting = True
            for sock in self._sockets:
                self._loop.add_reader(sock.fileno(), self._accept, sock)

    def pause(self) -> None:
        if self._accepting:
            self._accepting = False
            for sock in self._sockets:
                self._loop.remove_reader(sock.fileno())

    def close(self) -> None:
        self.pause()
        self._closed = True
        for sock in self._sockets:
            sock.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            if not self._accepting:
                return
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SHORTAGES:
                    return  # the connection died in the backlog (accept(2), "error handling")
                self.pause()
                self._loop.call_later(SHORTAGE_PAUSE_S, self.resume)
                return
            self._handle(sock)
