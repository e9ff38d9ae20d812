# SPDX-License-Identifier: GPL-2.0-only
"""What these tests are made of: a fake manager at a socket, and callers of two kinds.

async with serving() as served:
    info = await ask(served, lambda client: client.GetInfo(), "org.varlink.service")
    async with Wire.to(served) as wire:
        reply = await wire.call("org.mimicd1.ListInterfaces")
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import varlink

import mimicd.bus  # noqa: F401 - before dbus_next, which would load GLib
from mimicd.varlink import names
from mimicd.varlink.service import VarlinkService
from tests.bus.fake_manager import FakeManager
from tests.rig.namespace import scratch_folder

FILTER = "remote=203.0.113.5:51820"
OPTIONS = {"filter": [FILTER]}


@dataclass
class Served:
    manager: FakeManager
    service: VarlinkService
    path: Path

    @property
    def address(self) -> str:
        return names.address_of(self.path)


@contextlib.asynccontextmanager
async def serving(mode: int = 0o600, **options: Any) -> AsyncIterator[Served]:
    manager = options.pop("manager", None) or FakeManager()
    service = VarlinkService(manager, **options)
    with scratch_folder() as folder:
        folder.chmod(0o755)
        path = folder / names.INTERFACE
        assert service.open(path, mode)
        try:
            yield Served(manager, service, path)
        finally:
            await service.close()


async def ask(served: Served, work: Callable[[Any], Any], interface: str = names.INTERFACE) -> Any:
    """Ask with the client of PyPI, which reads the interface's description first."""

    def do() -> Any:
        with (
            varlink.Client(address=served.address) as client,
            client.open(interface) as connection,
        ):
            return work(connection)

    return await asyncio.to_thread(do)


class Wire:
    """A caller that can send anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, served: Served) -> AsyncIterator[Wire]:
        wire = cls(*await asyncio.open_unix_connection(served.path, limit=1 << 26))
        try:
            yield wire
        finally:
            wire.writer.close()

    def send(self, method: str, more: bool = False, **parameters: Any) -> None:
        message = {"method": method, "parameters": parameters, "more": more}
        self.writer.write(json.dumps(message).encode() + b"\0")

    async def receive(self) -> Any:
        raw = await self.reader.readuntil(b"\0")
        return json.loads(raw[:-1])

    async def call(self, method: str, more: bool = False, **parameters: Any) -> Any:
        self.send(f"{names.INTERFACE}.{method}", more, **parameters)
        return await self.receive()

    async def hung_up(self) -> bool:
        """Wait until the daemon has hung up."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True
