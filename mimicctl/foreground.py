# SPDX-License-Identifier: GPL-2.0-only
"""`mimicctl run` in the foreground: the interface lives as long as this process.

It is bound to this caller of the bus, so it also ends when the process is killed. When mimicd or
the bus is restarted, this waits for it to come back and binds the interface again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mimicctl.client import Event
from mimicctl.opening import AnyClient
from mimicctl.output import Output
from mimicctl.stopping import Stopped, StopSignals
from mimicd.core.errors import AlreadyRunningError, BusError, FailedError, NotRunningError
from mimicd.core.terminal import log_line

_STOP_TIMEOUT_S = 2.0
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0
_LEAVING_S = 2.0
"""How long after an interface has gone mimicd itself may take to leave the bus."""

Open = Callable[[], Awaitable[AnyClient]]


class ForegroundRun:
    """One interface kept running."""

    def __init__(
        self, open_client: Open, interface: str, texts: Mapping[str, Any], output: Output
    ) -> None:
        self._open_client = open_client
        self._interface = interface
        self._texts = texts
        self._output = output
        self._client: AnyClient | None = None
        self._asked = False
        """Whether mimicd was ever asked to run it."""

    async def until_stopped(self, stops: StopSignals) -> None:
        """Run until a stop signal comes, then stop the interface. Raises MimicError."""
        try:
            await stops.race(self._keep_running())
        except Stopped:
            await self._stop()
        finally:
            if self._client is not None:
                self._client.close()

    async def _keep_running(self) -> None:
        client = await self._connect()
        self._asked = True
        await client.run(self._interface, self._texts, bind=True)
        self._output.talk(f"{self._interface} is running, Ctrl-C stops it")
        while True:
            event = await client.next_event()
            match event.kind:
                case "log":
                    self._log(event)
                case "daemon-left":
                    self._output.talk("mimicd has left the bus, waiting for it to come back")
                    client = await self._come_back(client)
                case "bus-left":
                    self._output.talk("the bus is gone, waiting for it to come back")
                    client = await self._come_back(None)
                case "interface-renamed" if event.interface == self._interface:
                    self._output.talk(f"{self._interface} is called {event.text} now")
                    self._interface = event.text
                    await client.follow(self._interface)
                case "interface-removed" if event.interface == self._interface:
                    client = await self._removed(client)

    async def _connect(self) -> AnyClient:
        client = self._client = await self._open_client()
        # Before Run, so that its log is seen.
        await client.follow(self._interface)
        return client

    async def _removed(self, client: AnyClient) -> AnyClient:
        """The interface was stopped: by somebody, or since mimicd is going."""
        try:
            async with asyncio.timeout(_LEAVING_S):
                while True:
                    event = await client.next_event()
                    match event.kind:
                        case "log":
                            self._log(event)
                        case "daemon-left" | "bus-left":
                            break
        except TimeoutError:
            raise FailedError(f"{self._interface} was stopped, not by this mimicctl") from None
        self._output.talk("mimicd has left the bus, waiting for it to come back")
        return await self._come_back(client if event.kind == "daemon-left" else None)

    async def _come_back(self, client: AnyClient | None) -> AnyClient:
        """Wait until mimicd is there and the interface is bound to this process again.

        `client` is None when the bus is gone too.
        """
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                if client is None:
                    client = await self._reconnect()
                if await client.daemon_is_there():
                    await self._bind_again(client)
                    self._output.talk(f"{self._interface} is running again")
                    return client
                event = await client.next_event()
                if event.kind == "bus-left":
                    client = None
            except BusError:
                # It went away again: what was left is told by the next event or attempt.
                client = None
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LONGEST_DELAY_S)

    async def _reconnect(self) -> AnyClient:
        if self._client is not None:
            self._client.close()
            self._client = None
        return await self._connect()

    async def _bind_again(self, client: AnyClient) -> None:
        try:
            await client.run(self._interface, self._texts, bind=True)
        except AlreadyRunningError:
            # It outlived the restart; only the binding is new.
            await client.reload(self._interface, self._texts, bind=True)

    async def _stop(self) -> None:
        if not self._asked:
            return
        if self._client is None:
            raise BusError(f"mimicd is not there to stop {self._interface}", "see mimicctl list")
        try:
            await self._client.stop(self._interface, _STOP_TIMEOUT_S)
        except NotRunningError:
            return
        except BusError as exc:
            raise BusError(
                f"{self._interface} may still be running: {exc}",
                "mimicd stops it when it notices that its caller is gone",
            ) from exc
        self._output.talk(f"{self._interface} is stopped")

    def _log(self, event: Event) -> None:
        self._output.log(
            log_line(event.interface, event.level, event.text, self._output.talk_colour)
        )
