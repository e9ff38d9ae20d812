# SPDX-License-Identifier: GPL-2.0-only
"""A core.manager.Manager without a kernel: it believes what it is told."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from typing import cast

from mimicd.core.connection import Connection, InterfaceView, Role, State
from mimicd.core.errors import AlreadyRunningError, NoSuchInterfaceError, NotRunningError
from mimicd.core.manager import Listener, Manager, Options
from mimicd.core.part import WHOLE, Part
from mimicd.core.preflight import FAIL, OK, Line
from mimicd.core.settings import build_config, config_texts
from mimicd.core.values import parse_verbosity

MISSING_INTERFACE = "nosuch0"


def connection(number: int, interface: str = "eth0", note: str = "") -> Connection:
    """A connection that differs from others by its number."""
    return Connection(
        local="192.0.2.1:51820",
        remote=f"203.0.113.5:{number}",
        state=State.ESTABLISHED if not note else State.SYN_SENT,
        role=Role.INITIATOR,
        seq=2**32 - 1 - number,
        ack=number,
        window=0x3400000,
        peer_window=65535,
        peer_mss=1460,
        filter="remote=203.0.113.5:51820",
        age_s=75.5,
        idle_s=0.25,
        cooldown_s=0.0,
        tx_packets=number,
        tx_bytes=number * 1000,
        rx_packets=2**40,
        rx_bytes=2**63,
        held=number % 3,
        drops={"cooldown": 2, "too-big": number} if number % 2 else {},
        note=note,
        interface=interface,
    )


class FakeManager:
    version = "1.2.3"

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.fault: Exception | None = None
        """What the next change raises."""
        self.gate = asyncio.Event()
        """Changes wait until it is set."""
        self.gate.set()
        self.connections_of: dict[str, list[Connection]] = {}
        self.listeners: list[Listener] = []
        self.holders: dict[str, str] = {}
        self._views: dict[str, InterfaceView] = {}

    async def run(self, interface: str, options: Options) -> None:
        await self._begin("run", interface, options)
        if interface in self._views:
            raise AlreadyRunningError(f"{interface} is running already", "stop it first")
        if interface == MISSING_INTERFACE:
            raise NoSuchInterfaceError(f"there is no interface {interface}", "see ip link")
        self.add(interface, options)

    async def stop(self, interface: str) -> None:
        await self._begin("stop", interface)
        self._running(interface)
        self.remove(interface)

    async def reload(self, interface: str, options: Options) -> None:
        await self._begin("reload", interface, options)
        self._running(interface)
        self.add(interface, options)

    async def set_log_level(self, interface: str, level: str) -> None:
        await self._begin("set_log_level", interface, level)
        parse_verbosity(level, 2)
        if interface:
            self._running(interface)

    async def check(self, interface: str, options: Options) -> list[Line]:
        await self._begin("check", interface, options)
        missing = interface == MISSING_INTERFACE
        return [Line("interface", FAIL if missing else OK, f"{interface} was looked at")]

    def count_connections(self) -> int:
        return sum(map(len, self.connections_of.values()))

    async def connections(
        self, interface: str, part: Part = WHOLE
    ) -> AsyncIterator[list[Connection]]:
        if interface:
            self._running(interface)
        for name, own in self.connections_of.items():
            if interface in ("", name) and own:
                yield [one for one in own if part.has(f"{name} {one.remote}".encode())]

    def interfaces(self) -> list[InterfaceView]:
        return list(self._views.values())

    def holder_of(self, interface: str) -> str:
        return self.holders.get(interface, "")

    def set_holder(self, interface: str, holder: str) -> None:
        if interface in self._views:
            self.holders[interface] = holder

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def add(self, interface: str, options: Options) -> None:
        """Let an interface run as if somebody had asked for it."""
        config = build_config(options)
        texts = config_texts(config)
        view = InterfaceView(
            name=interface,
            ifindex=7,
            link_type="eth",
            xdp_mode="native",
            state="running",
            filters=tuple(one.text() for one in config.filters),
            settings={key: cast(str, text) for key, text in texts.items() if key != "filter"},
            counters={"tx-packets": 5, "drop-cooldown": 0},
            max_payload=1460,
            started_at=time.time() - 65,
        )
        known = self._views.get(interface)
        if known is not None:
            view = dataclasses.replace(view, started_at=known.started_at)
        self._views[interface] = view
        for listener in self.listeners:
            listener.interface_added(view)

    def remove(self, interface: str) -> None:
        del self._views[interface]
        self.holders.pop(interface, None)
        for listener in self.listeners:
            listener.interface_removed(interface)

    def rename(self, before: str, name: str) -> None:
        view = self._views[name] = dataclasses.replace(self._views.pop(before), name=name)
        self.holders[name] = self.holders.pop(before, "")
        for listener in self.listeners:
            listener.interface_renamed(before, view)

    def say(self, interface: str, level: int, text: str) -> None:
        for listener in self.listeners:
            listener.log(interface, level, text)

    def change(self, changed: Connection) -> None:
        for listener in self.listeners:
            listener.connection_changed(changed)

    def called(self, name: str) -> list[tuple[object, ...]]:
        return [call for call in self.calls if call[0] == name]

    async def _begin(self, *call: object) -> None:
        self.calls.append(call)
        await self.gate.wait()
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault

    def _running(self, interface: str) -> None:
        if interface not in self._views:
            raise NotRunningError(f"{interface} is not running", "see mimicctl list")


def as_manager(fake: FakeManager) -> Manager:
    """The type checker's proof that the fake is what the service asks for."""
    return fake
