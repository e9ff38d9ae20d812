# SPDX-License-Identifier: GPL-2.0-only
"""The guard: a TC filter behind the disguise that drops what comes to it undisguised.

It belongs to no daemon: it outlives all of them, and stays until it is taken off. While an
interface is disguised nothing of the flow comes to it. There is room for two: one that somebody
put on by hand, and that of strict filters.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from mimicd.core.filter_tables import NO_TABLES, build_tables
from mimicd.core.model import Filter
from mimicd.kernel import compiler
from mimicd.kernel.bpf import Map, possible_cpus
from mimicd.kernel.netlink import (
    EGRESS_PARENT,
    GUARD_PRIORITY,
    STRICT_PRIORITY,
    Link,
    Netlink,
)

_ANY = (IPv4Address("0.0.0.0"), IPv6Address("::"))
_PORTS_KEY_BYTES = 4


def widened(filters: Iterable[Filter]) -> list[Filter]:
    """What is guarded for them: a wildcard, or a name that needs no resolver, is any address."""
    wide: list[Filter] = []
    for one in filters:
        if one.address is None:
            wide += [replace(one, address=any_, prefix_bits=0, host="") for any_ in _ANY]
        elif one.is_wildcard:
            wide.append(replace(one, prefix_bits=0))
        else:
            wide.append(one)
    return wide


async def attach_guard(
    net: Netlink,
    link: Link,
    filters: Iterable[Filter],
    link_type: str = "auto",
    priority: int = GUARD_PRIORITY,
) -> Map:
    """In place of the one that is there; its counters, whose descriptor is the caller's to close.

    `filters`: at least one. Raises MissingDependencyError or AttachError.
    """
    found = link.link_type if link_type == "auto" else link_type
    link_bytes = 0 if found == "none" else 14
    fds = await asyncio.to_thread(compiler.compile_programs, link_bytes, "guard")
    try:
        tables = build_tables(dict(enumerate(widened(filters), start=1)), _ANY, NO_TABLES)
        entries = Map(fds["filters"], *_sizes(tables.entries))
        for key, value in tables.entries.items():
            entries.update(key, value)
        ports = tables.encode_ports()
        Map(fds["ports"], _PORTS_KEY_BYTES, len(ports)).update(bytes(_PORTS_KEY_BYTES), ports)
        await net.add_clsact(link.ifindex)
        program = fds[compiler.GUARD]
        await net.add_filter(link.ifindex, EGRESS_PARENT, program, compiler.GUARD, priority)
        return Map(fds.pop("counters"), 4, 8 * possible_cpus())
    finally:
        # the filter holds the program, and the program its maps
        for fd in fds.values():
            os.close(fd)


async def is_guarded(net: Netlink, link: Link) -> bool:
    """Whether one of the two is on."""
    for priority in (GUARD_PRIORITY, STRICT_PRIORITY):
        if await net.has_filter(link.ifindex, EGRESS_PARENT, compiler.GUARD, priority):
            return True
    return False


async def remove_guard(net: Netlink, link: Link) -> None:
    """Take both of them off; where there is none nothing happens."""
    for priority in (GUARD_PRIORITY, STRICT_PRIORITY):
        await net.remove_filter(link.ifindex, EGRESS_PARENT, priority)
    if await net.has_clsact(link.ifindex):
        await net.remove_clsact(link.ifindex)


def _sizes(entries: Mapping[bytes, bytes]) -> tuple[int, int]:
    key, value = next(iter(entries.items()))
    return len(key), len(value)
