# SPDX-License-Identifier: GPL-2.0-only
"""The filters that an interface has now, out of all that its configuration names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from mimicd.core.model import Filter, InterfaceConfig, Origin, Strict
from mimicd.core.wireguard import Tunnel, filters_of

Address = IPv4Address | IPv6Address


def hosts_of(config: InterfaceConfig) -> list[str]:
    """Names that have to be resolved, each once."""
    return list(dict.fromkeys(one.host for one in config.filters if one.address is None))


def guarded_filters(config: InterfaceConfig, tunnels: Mapping[str, Tunnel]) -> list[Filter]:
    """What a guard is to know of: names that need no addresses, and tunnels as they are."""
    found = list(config.filters)
    for name in config.wireguard:
        found += filters_of(name, tunnels.get(name, Tunnel()), config.flow)
    return found


def strict_filters(filters: Iterable[Filter], stopped: bool = False) -> list[Filter]:
    """Those of which no plain UDP leaves while the interface runs, or after it was stopped."""
    wanted = {Strict.ALWAYS} if stopped else {Strict.RUNNING, Strict.ALWAYS}
    return [one for one in filters if one.settings.strict in wanted]


def gather_filters(
    config: InterfaceConfig,
    addresses: Mapping[str, Sequence[Address]],
    tunnels: Mapping[str, Tunnel],
) -> list[Filter]:
    """All with known addresses, in the order of the configuration, then those of WireGuard.

    Where several match the same, one with an address counts, then the first name, then WireGuard.
    """
    found = {one.identity: one for one in config.filters if one.address is not None}
    ordered: dict[tuple[object, ...], Filter] = {}
    for one in config.filters:
        if one.address is not None:
            ordered[one.identity] = one
            continue
        for address in addresses.get(one.host, ()):
            resolved = replace(one, address=address)
            if resolved.identity not in found:
                ordered.setdefault(resolved.identity, resolved)
    for name in config.wireguard:
        for one in filters_of(name, tunnels.get(name, Tunnel()), config.flow):
            ordered.setdefault(one.identity, one)
    return list(ordered.values())


@dataclass(frozen=True, slots=True)
class Known:
    """What names and tunnels stood for when they were last looked at."""

    addresses: Mapping[str, Sequence[Address]] = field(default_factory=dict)
    tunnels: Mapping[str, Tunnel] = field(default_factory=dict)


def known_of(filters: Iterable[Filter]) -> Known:
    """By the filters that an earlier process made of them."""
    addresses: dict[str, list[Address]] = {}
    tunnels: dict[str, Tunnel] = {}
    for one in filters:
        if one.address is None or not one.host:
            continue
        _, _, name = one.host.partition(" ")
        if not name:
            addresses.setdefault(one.host, []).append(one.address)
            continue
        before = tunnels.get(name, Tunnel())
        if one.origin is Origin.LOCAL:
            tunnels[name] = replace(before, listen_port=one.port)
        else:
            tunnels[name] = replace(before, endpoints=(*before.endpoints, (one.address, one.port)))
    return Known(
        {host: list(dict.fromkeys(of)) for host, of in addresses.items()},
        tunnels,
    )
