# SPDX-License-Identifier: GPL-2.0-only
"""Which filter wins for which packet, as the maps `ports` and `filters` tell it to the kernel.

Of all filters that match a packet the most specific one counts, the same in both directions:

  1. the longer address prefix: one address before a network, a small network before a large one.
     A wildcard comes behind every network but that of all addresses;
  2. then fewer ports: one port before a range, a small range before a large one, `any` last;
  3. then the local end before the remote one.

(RFC 8955 section 5.1 orders traffic filters in the same way: addresses first, then ports.)

The kernel asks one longest-prefix trie by address, once for each end whose port any filter names.
For that, ports that the same filters name are one class, and the trie has the class in front of
the address; what stands at a prefix is the winner of all filters that match there, those of
shorter prefixes included. Classes keep their numbers while they mean the same ports, so that
the maps can be changed entry by entry under traffic.
"""

import itertools
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mimicd.core.abi import (
    MAX_FILTERS,
    decode_port_classes,
    encode_filter_key,
    encode_filter_value,
    encode_port_classes,
)
from mimicd.core.errors import InvalidConfigError
from mimicd.core.model import PORT_MAX, Filter, Origin

Address = IPv4Address | IPv6Address
Ports = tuple[int, int]
"""First and last."""
PortSet = tuple[Ports, ...]
"""Disjoint, ascending."""
Classes = Mapping[PortSet, int]
"""Which ports have which class number, from 1."""

ENTRIES_MAX = MAX_FILTERS // 2
"""Old and new ones stand in the map together while one replaces the other."""

_RULE, _RANK = 0, 1
_Winner = tuple[int, int]


@dataclass(frozen=True, slots=True)
class FilterTables:
    """What the two maps hold."""

    classes: Mapping[Origin, Classes]
    entries: Mapping[bytes, bytes]
    """The map filters."""

    def encode_ports(self) -> bytes:
        """The value of the map ports."""
        return encode_port_classes(*(_by_port(self.classes[origin]) for origin in Origin))


NO_TABLES = FilterTables({origin: {} for origin in Origin}, {})


def rank_of(filter_: Filter) -> int:
    """The higher, the more specific; never 0."""
    address = 1 if filter_.is_wildcard else 2 * filter_.prefix_bits
    fewer_ports = PORT_MAX + 1 - (filter_.last_port - filter_.port + 1)
    return address << 17 | fewer_ports << 1 | (filter_.origin is Origin.LOCAL)


def build_tables(
    filters: Mapping[int, Filter], own_addresses: Iterable[Address], before: FilterTables
) -> FilterTables:
    """The tables for filters with known addresses, by rule number.

    A local wildcard stands for `own_addresses` of its family. Classes of `before` keep their
    numbers. Raises InvalidConfigError where the map is too small.
    """
    own = list(own_addresses)
    entries: dict[bytes, bytes] = {}
    all_classes: dict[Origin, Classes] = {}
    for origin in Origin:
        mine = {number: one for number, one in filters.items() if one.origin is origin}
        by_ports: dict[Ports, list[int]] = {}
        for number, one in mine.items():
            by_ports.setdefault(one.ports, []).append(number)
        sets = _partition({ports: len(numbers) for ports, numbers in by_ports.items()})
        classes = _number(sets, before.classes[origin])
        all_classes[origin] = classes
        for port_set, number in classes.items():
            members = [rule for ports in sets[port_set] for rule in by_ports[ports]]
            for (address, bits), winner in _winners(mine, members, own).items():
                key = encode_filter_key(origin, number, address, bits)
                entries[key] = encode_filter_value(*winner)
            if len(entries) > ENTRIES_MAX:
                raise _too_many(len(filters))
    return FilterTables(all_classes, entries)


def decode_tables(ports: bytes, entries: Mapping[bytes, bytes]) -> FilterTables:
    """What an earlier process left in the maps."""
    halves = decode_port_classes(ports)
    classes = {origin: _classes_of(numbers) for origin, numbers in zip(Origin, halves, strict=True)}
    return FilterTables(classes, entries)


def _partition(weights: Mapping[Ports, int]) -> dict[PortSet, frozenset[Ports]]:
    """The ports, by which of the ranges they lie in. `weights`: how many filters have a range."""
    starts: dict[int, list[Ports]] = {}
    ends: dict[int, list[Ports]] = {}
    for ports in weights:
        starts.setdefault(ports[0], []).append(ports)
        ends.setdefault(ports[1] + 1, []).append(ports)
    found: dict[frozenset[Ports], list[Ports]] = {}
    active: frozenset[Ports] = frozenset()
    cuts = sorted(starts.keys() | ends.keys())
    work = 0
    for cut, following in itertools.pairwise([*cuts, PORT_MAX + 1]):
        active = active.difference(ends.get(cut, ())).union(starts.get(cut, ()))
        if active:
            # Every one of them may come to have an entry for this class: refuse before it
            # takes a minute to find out.
            if active not in found:
                work += sum(weights[ports] for ports in active)
            if work > 2 * ENTRIES_MAX:
                raise _too_many(sum(weights.values()))
            found.setdefault(active, []).append((cut, following - 1))
    return {tuple(spans): ranges for ranges, spans in found.items()}


def _number(sets: Collection[PortSet], before: Classes) -> dict[PortSet, int]:
    """Class numbers: those of before for the same ports, else numbers that meant nothing before.

    Only where all of them meant something is one that is no longer needed given again at once.
    """
    taken = set(before.values())
    kept = {before[ports] for ports in sets if ports in before}
    unused = (number for number in range(1, PORT_MAX + 1) if number not in taken)
    free = itertools.chain(unused, sorted(taken - kept))
    return {ports: before.get(ports) or next(free) for ports in sets}


def _winners(
    filters: Mapping[int, Filter], members: Sequence[int], own: Sequence[Address]
) -> dict[tuple[Address, int], _Winner]:
    """For each prefix that occurs, the best filter that matches all of its addresses."""
    stated: dict[tuple[int, int], dict[int, _Winner]] = {}
    for number in members:
        filter_ = filters[number]
        assert filter_.address is not None
        addresses = [filter_.address]
        if filter_.is_wildcard and filter_.origin is Origin.LOCAL:
            addresses = [one for one in own if one.version == filter_.address.version]
        for address in addresses:
            level = stated.setdefault((address.version, filter_.prefix_bits), {})
            rival = (number, rank_of(filter_))
            level[int(address)] = _better(level.get(int(address)), rival)
    found: dict[tuple[Address, int], _Winner] = {}
    for (version, bits), level in stated.items():
        width = 32 if version == 4 else 128
        make = IPv4Address if version == 4 else IPv6Address
        wider = [(width - less, stated[version, less]) for less in _shorter(stated, version, bits)]
        for value, winner in level.items():
            for shift, above in wider:
                winner = _better(above.get(value >> shift << shift), winner)
            found[make(value), bits] = winner
    return found


def _shorter(levels: Iterable[tuple[int, int]], version: int, bits: int) -> list[int]:
    return [less for of, less in levels if of == version and less < bits]


def _better(one: _Winner | None, other: _Winner) -> _Winner:
    """The higher rank; where nothing tells them apart, the filter that came first."""
    if one is None or (other[_RANK], -other[_RULE]) > (one[_RANK], -one[_RULE]):
        return other
    return one


def _by_port(classes: Classes) -> Sequence[int]:
    numbers = array("H", [0]) * (PORT_MAX + 1)
    for ports, number in classes.items():
        for first, last in ports:
            numbers[first : last + 1] = array("H", [number]) * (last - first + 1)
    return numbers


def _classes_of(numbers: Sequence[int]) -> Classes:
    """The inverse of _by_port()."""
    found: dict[int, list[Ports]] = {}
    first = 0
    for port in range(1, len(numbers) + 1):
        if port == len(numbers) or numbers[port] != numbers[first]:
            if numbers[first]:
                found.setdefault(numbers[first], []).append((first, port - 1))
            first = port
    return {tuple(spans): number for number, spans in found.items()}


def _too_many(filters: int) -> InvalidConfigError:
    return InvalidConfigError(
        f"{filters} filters with overlapping port ranges need more than the {ENTRIES_MAX} entries"
        " that an interface can have",
        "leave some out, or write fewer ranges that overlap those of other addresses",
    )
