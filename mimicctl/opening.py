# SPDX-License-Identifier: GPL-2.0-only
"""How mimicd is reached: over the bus, or over varlink where it is not on a bus."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from mimicctl.arguments import Request
from mimicctl.client import Client
from mimicctl.varlink import VarlinkClient
from mimicd.bus.names import bus_address, bus_name
from mimicd.core.errors import BusError, MimicError
from mimicd.varlink import names

AnyClient = Client | VarlinkClient


async def open_client(request: Request, environ: Mapping[str, str], interactive: bool) -> AnyClient:
    """The daemon of the namespace that was asked for; for an interface that it does not have the
    `mimicd run` that has it.

    An address leads to what it names and nowhere else. Raises MimicError.
    """
    path = names.path_of_address(request.address or "")
    if path is not None:
        return await VarlinkClient.open(path)
    name = bus_name(request.netns)
    if request.address is not None:
        return await Client.open(request.address, interactive, name)
    folder = Path(names.runtime_folder(environ))
    usual = folder / names.daemon_name(request.netns)
    client = await _open_usual(bus_address(None, environ), interactive, name, usual)
    if request.interface and request.command != "run":
        client = await _one_with(request.interface, client, _foreground_sockets(usual))
    return client


async def _open_usual(address: str, interactive: bool, name: str, socket: Path) -> AnyClient:
    try:
        client = await Client.open(address, interactive, name)
    except BusError:
        if not _is_there(socket):
            raise
        return await VarlinkClient.open(str(socket))
    try:
        # Who is not there may still be started by the bus, but rather not beside a live one.
        if _is_there(socket) and not await client.daemon_is_there():
            other = await VarlinkClient.open(str(socket))
            client.close()
            return other
    except MimicError:
        pass  # nobody listens there, or not to this user: the bus may still start it
    except BaseException:
        client.close()
        raise
    return client


def _is_there(socket: Path) -> bool:
    return socket.is_socket()


def _foreground_sockets(usual: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [
            usual.parent / file
            for file in sorted(os.listdir(usual.parent))
            if names.is_foreground_name(file, usual.name)
        ]
    return []


async def _one_with(interface: str, client: AnyClient, sockets: list[Path]) -> AnyClient:
    if not sockets or await _has(client, interface):
        return client
    for socket in sockets:
        try:
            other = await VarlinkClient.open(str(socket))
        except MimicError:
            continue  # it has just ended
        if await _has(other, interface):
            client.close()
            return other
        other.close()
    return client


async def _has(client: AnyClient, interface: str) -> bool:
    try:
        return any(view["name"] == interface for view in await client.interfaces())
    except MimicError:
        return False
