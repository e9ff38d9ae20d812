# SPDX-License-Identifier: GPL-2.0-only
"""Strict filters: a guard for each interface that has some, from the first `run` to the `stop`.

What the guard drops is what nothing disguises: while it is being attached or cannot be, once
somebody has detached it, and addresses of a name that are not known yet. What comes in is dropped
by the programs that receive.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from mimicd.core.abi import COUNTERS
from mimicd.core.model import Filter, InterfaceConfig
from mimicd.core.sources import strict_filters
from mimicd.kernel.bpf import Map
from mimicd.kernel.compiler import GUARD
from mimicd.kernel.guard import attach_guard
from mimicd.kernel.netlink import EGRESS_PARENT, STRICT_PRIORITY, Link, Netlink

_DROPPED = COUNTERS.index("drop-plain")


@dataclass(frozen=True, slots=True)
class _Guard:
    filters: tuple[Filter, ...]
    link_type: str
    counters: Map


class StrictGuards:
    """By ifindex, where there are filters. Guards stay on their interfaces when this is closed."""

    def __init__(self, net: Netlink) -> None:
        self._net = net
        self._guards: dict[int, _Guard] = {}

    async def cover(self, link: Link, config: InterfaceConfig, guarded: Iterable[Filter]) -> None:
        """From here on no plain UDP leaves of those that are strict, and of no others.

        `guarded`: all that its guard is to know of. Raises MissingDependencyError or AttachError.
        """
        filters = strict_filters(guarded)
        if filters and not link.link_type and config.link_type == "auto":
            return  # it cannot run either
        await self._put_on(link, filters, config.link_type)

    async def uncover(self, link: Link, config: InterfaceConfig, guarded: Iterable[Filter]) -> None:
        """It is to be stopped: only what is always strict stays. Raises like `cover`."""
        await self._put_on(link, strict_filters(guarded, stopped=True), config.link_type)

    async def _put_on(self, link: Link, filters: Iterable[Filter], link_type: str) -> None:
        wanted, before = tuple(filters), self._guards.get(link.ifindex)
        if before is not None and (before.filters, before.link_type) == (wanted, link_type):
            return
        if not wanted:
            await self._net.remove_filter(link.ifindex, EGRESS_PARENT, STRICT_PRIORITY)
            self.forget(link.ifindex)
            return
        counters = await attach_guard(self._net, link, wanted, link_type, STRICT_PRIORITY)
        self.forget(link.ifindex)
        self._guards[link.ifindex] = _Guard(wanted, link_type, counters)

    async def is_on(self, link: Link) -> bool:
        """Whether such a guard is there, whoever put it on: the qdisc is ours then as well."""
        return await self._net.has_filter(link.ifindex, EGRESS_PARENT, GUARD, STRICT_PRIORITY)

    def dropped(self, ifindex: int) -> int:
        """How many datagrams the guard has dropped since this process put it on."""
        guard = self._guards.get(ifindex)
        return guard.counters.summed(_DROPPED) if guard else 0

    async def repair(self, link: Link) -> bool:
        """Whether it had to be put back. Raises MissingDependencyError or AttachError."""
        guard = self._guards.get(link.ifindex)
        if guard is None:
            return False
        if await self.is_on(link):
            return False
        self.forget(link.ifindex)
        await self._put_on(link, guard.filters, guard.link_type)
        return True

    def forget(self, ifindex: int) -> None:
        """The interface is gone, or what is on it is to be looked at anew."""
        guard = self._guards.pop(ifindex, None)
        if guard is not None:
            os.close(guard.counters.fd)

    def close(self) -> None:
        """Leave all of them where they are."""
        for ifindex in list(self._guards):
            self.forget(ifindex)
