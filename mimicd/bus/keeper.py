# SPDX-License-Identifier: GPL-2.0-only
"""Keeps the daemon on its bus: when the bus goes away, it comes back as soon as the bus does.

What is attached goes on meanwhile; only nobody can ask about it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import MappingProxyType

from mimicd.bus import names
from mimicd.bus.bindings import REBIND_GRACE_S, Bindings
from mimicd.bus.service import BusService
from mimicd.core.errors import BusError
from mimicd.core.manager import Manager

log = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0
_NOBODY: Mapping[str, str] = MappingProxyType({})


class BusKeeper:
    """Serves `manager` on the bus at `address` from `start` until `close`.

    `bound`: interfaces that a predecessor of this process left behind and that were bound to
    their callers, with what the manager remembers of these. They are found again where the bus
    is still the same, else they have some time to bind them again.
    """

    def __init__(
        self,
        manager: Manager,
        address: str,
        bound: Mapping[str, str] = _NOBODY,
        grace_s: float = REBIND_GRACE_S,
        bus_name: str = names.BUS_NAME,
    ) -> None:
        self._manager = manager
        self._address = address
        self._bus_name = bus_name
        self._bindings = Bindings(
            manager.stop, bound, grace_s, manager.set_holder, manager.holder_of
        )
        self._service: BusService | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def bound_interfaces(self) -> tuple[str, ...]:
        """Those that end with their callers."""
        return self._bindings.interfaces

    @property
    def connected(self) -> bool:
        return self._service is not None

    async def start(self) -> None:
        """Take the name. Raises BusError when that is not possible now."""
        self._service = await self._open()
        self._task = asyncio.get_running_loop().create_task(self._keep(self._service))

    async def _open(self) -> BusService:
        return await BusService.open(self._manager, self._address, self._bindings, self._bus_name)

    async def close(self) -> None:
        """Leave the bus; takes at most half a second also when the bus hangs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        if self._service is not None:
            await self._service.close()
            self._service = None
        self._bindings.close()

    async def _keep(self, service: BusService) -> None:
        while True:
            reason = await service.wait_closed()
            self._service = None
            await service.close()
            log.warning(
                "the bus at %s is gone (%s); what runs goes on, trying to come back",
                self._address,
                reason,
            )
            service = self._service = await self._come_back()
            log.info("back on the bus at %s", self._address)

    async def _come_back(self) -> BusService:
        delay_s, told = _FIRST_DELAY_S, ""
        while True:
            await asyncio.sleep(delay_s)
            try:
                return await self._open()
            except BusError as exc:
                # Once for each reason, not at each attempt.
                log.log(logging.DEBUG if str(exc) == told else logging.WARNING, "%s", exc)
                told = str(exc)
            delay_s = min(delay_s * 2, _LONGEST_DELAY_S)
