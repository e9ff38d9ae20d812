# SPDX-License-Identifier: GPL-2.0-only
"""Connecting to a name: every address is tried, in parallel where one is slow (RFC 8305)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterable
from typing import Any

from kaminari.address import Address, is_numeric
from kaminari.errors import ConnectError

ATTEMPT_DELAY_S = 0.25
KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 15
KEEPALIVE_COUNT = 4

AddressInfo = tuple[int, int, int, str, Any]


async def resolve(
    loop: asyncio.AbstractEventLoop, address: Address, kind: int = socket.SOCK_STREAM
) -> list[AddressInfo]:
    """The addresses of a host, families alternating. Raises ConnectError."""
    numeric = is_numeric(address.host)
    try:
        if numeric:  # no lookup, so no thread
            found: Iterable[Any] = socket.getaddrinfo(
                address.host, address.port, type=kind, flags=socket.AI_NUMERICHOST
            )
        else:
            found = await loop.getaddrinfo(address.host, address.port, type=kind)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ConnectError(f"{address.host} has no address: {reason}") from None
    return interleave(found)


def interleave(infos: Iterable[AddressInfo]) -> list[AddressInfo]:
    """Alternate the address families, first come first (RFC 8305 section 4)."""
    families: dict[int, list[AddressInfo]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    queues = list(families.values())
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


async def connect(
    loop: asyncio.AbstractEventLoop, address: Address, timeout_s: float
) -> socket.socket:
    """A connected, non-blocking socket with its options set. Raises ConnectError."""
    try:
        async with asyncio.timeout(timeout_s):
            infos = await resolve(loop, address)
            if len(infos) == 1:
                return await _attempt(loop, infos[0])
            return await race(loop, infos)
    except TimeoutError:
        raise ConnectError(
            f"{address} cannot be reached: no answer within {timeout_s:g} s"
        ) from None
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise ConnectError(f"{address} cannot be reached: {reason}") from None


def tune(sock: socket.socket) -> None:
    """Options of every stream: no delay for small writes, and a dead peer is noticed."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)


async def race(loop: asyncio.AbstractEventLoop, infos: list[AddressInfo]) -> socket.socket:
    """The first of several attempts to succeed, begun ATTEMPT_DELAY_S apart or on a failure.

    Raises OSError, the first failure, when all have failed.
    """
    waiting = iter(infos)
    attempts: set[asyncio.Task[socket.socket]] = set()
    failure: OSError | None = None
    exhausted = False
    try:
        while True:
            if not exhausted:
                info = next(waiting, None)
                if info is None:
                    exhausted = True
                else:
                    attempts.add(loop.create_task(_attempt(loop, info)))
            if not attempts:
                raise failure or OSError("no address to try")
            done, _ = await asyncio.wait(
                attempts,
                timeout=None if exhausted else ATTEMPT_DELAY_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                attempts.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                failure = failure or error
    finally:
        for task in attempts:
            task.cancel()
        for outcome in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(outcome, socket.socket):
                outcome.close()


async def _attempt(loop: asyncio.AbstractEventLoop, info: AddressInfo) -> socket.socket:
    sock = socket.socket(info[0], info[1], info[2])
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        tune(sock)
        await loop.sock_connect(sock, info[4])
        undo.pop_all()
    return sock
