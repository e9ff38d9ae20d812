# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.filter_tables: whatever the filters, the tables lead to the one that a reading of
all of them finds.
"""

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicd.core import abi
from mimicd.core.errors import InvalidConfigError
from mimicd.core.filter_tables import (
    ENTRIES_MAX,
    NO_TABLES,
    Address,
    FilterTables,
    build_tables,
    decode_tables,
    rank_of,
)
from mimicd.core.model import Filter, Origin
from mimicd.core.settings import parse_filter

OWN = [ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "2001:db8::1")]


def tables_of(*texts: str, before: FilterTables = NO_TABLES) -> FilterTables:
    filters = {number: parse_filter(text) for number, text in enumerate(texts, 1)}
    return build_tables(filters, OWN, before)


def look_up(tables: FilterTables, origin: Origin, address: Address, port: int) -> tuple[int, int]:
    """Rule and rank as the kernel finds them; zeros where there is none."""
    raw = tables.encode_ports()
    number = struct.unpack_from("=H", raw, (0 if origin is Origin.LOCAL else 131072) + 2 * port)[0]
    if not number:
        return 0, 0
    for bits in range(address.max_prefixlen, -1, -1):
        network = ip_network((address, bits), strict=False).network_address
        value = tables.entries.get(abi.encode_filter_key(origin, number, network, bits))
        if value is not None:
            rule, rank = struct.unpack("=II", value)
            return rule, rank
    return 0, 0


def winner(tables: FilterTables, local: str, port: int, remote: str, remote_port: int) -> int:
    at_local = look_up(tables, Origin.LOCAL, ip_address(local), port)
    at_remote = look_up(tables, Origin.REMOTE, ip_address(remote), remote_port)
    return at_remote[0] if at_remote[1] > at_local[1] else at_local[0]


def matches(filter_: Filter, origin: Origin, address: Address, port: int) -> bool:
    """Read straight from the meaning of a filter."""
    here = filter_.address
    assert here is not None
    if filter_.origin is not origin or here.version != address.version:
        return False
    if not filter_.port <= port <= filter_.last_port:
        return False
    if filter_.is_wildcard and origin is Origin.LOCAL:
        return address in OWN
    return address in ip_network((here, filter_.prefix_bits))


# Few addresses and ports, so that filters meet.
v4 = st.integers(0, 7).map(lambda n: IPv4Address(0x0A000000 + n))
v6 = st.integers(0, 7).map(lambda n: IPv6Address((0x20010DB8 << 96) + n))
few_ports = st.integers(1, 6) | st.integers(65533, 65535)


@st.composite
def some_filters(draw: st.DrawFn) -> Filter:
    origin = draw(st.sampled_from(Origin))
    address = draw(v4 | v6)
    ends = sorted([draw(few_ports), draw(few_ports)])
    kind = draw(st.sampled_from(["address", "network", "wildcard"]))
    bits: int = address.max_prefixlen
    if kind == "network":
        bits -= draw(st.integers(0, 3) | st.just(bits))
    if kind == "wildcard" and origin is Origin.LOCAL:
        address = ip_address("0.0.0.0" if address.version == 4 else "::")
    first = ip_network((address, bits), strict=False).network_address
    if draw(st.booleans()):
        ends[1] = ends[0]
    return Filter(origin, first, ends[0], last_port=ends[1], prefix_bits=bits)


flows = st.tuples(v4, few_ports, v4, few_ports) | st.tuples(v6, few_ports, v6, few_ports)


@given(st.lists(some_filters(), max_size=8), st.lists(some_filters(), max_size=8), flows)
def test_the_tables_find_what_a_reading_of_all_filters_finds(
    earlier: list[Filter], filters: list[Filter], flow: tuple[Address, int, Address, int]
) -> None:
    before = build_tables(dict(enumerate(earlier, 1)), OWN, NO_TABLES)
    book = dict(enumerate(filters, 1))
    tables = build_tables(book, OWN, before)
    local, port, remote, remote_port = flow
    candidates = [
        (rank_of(one), -number)
        for number, one in book.items()
        if matches(one, Origin.LOCAL, local, port)
        or matches(one, Origin.REMOTE, remote, remote_port)
    ]
    expected = -max(candidates)[1] if candidates else 0
    assert winner(tables, str(local), port, str(remote), remote_port) == expected


@given(st.lists(some_filters(), max_size=8), st.lists(some_filters(), max_size=8))
def test_a_class_means_the_same_ports_as_before(
    earlier: list[Filter], filters: list[Filter]
) -> None:
    """So that no packet meets entries of other ports while the maps are changed."""
    before = build_tables(dict(enumerate(earlier, 1)), OWN, NO_TABLES)
    tables = build_tables(dict(enumerate(filters, 1)), OWN, before)
    for origin in Origin:
        old = {number: ports for ports, number in before.classes[origin].items()}
        for ports, number in tables.classes[origin].items():
            assert old.get(number, ports) == ports


@given(st.lists(some_filters(), max_size=8))
def test_what_is_in_the_maps_is_understood_again(filters: list[Filter]) -> None:
    tables = build_tables(dict(enumerate(filters, 1)), OWN, NO_TABLES)
    again = decode_tables(tables.encode_ports(), tables.entries)
    assert again == tables
    assert build_tables(dict(enumerate(filters, 1)), OWN, again) == tables


ORDER = [
    "local=10.0.0.1:5",
    "remote=10.0.0.9:5",
    "local=10.0.0.1:4-6",
    "remote=10.0.0.9:4-6",
    "local=10.0.0.1:any",
    "remote=10.0.0.9:any",
    "local=10.0.0.0/30:5",
    "remote=10.0.0.8/30:5",
    "local=10.0.0.0/24:5",
    "remote=10.0.0.0/24:5",
    "local=10.0.0.0/24:any",
    "local=0.0.0.0:5",
    "local=0.0.0.0:any",
    "local=0.0.0.0/0:5",
    "remote=0.0.0.0/0:5",
    "remote=0.0.0.0/0:any",
]
"""From the most specific one on, for a packet between 10.0.0.1:5 and 10.0.0.9:5."""


@pytest.mark.parametrize("step", [1, -1])
def test_address_before_ports_before_end(step: int) -> None:
    for first in range(len(ORDER)):
        texts = ORDER[first:][::step]
        rule = winner(tables_of(*texts), "10.0.0.1", 5, "10.0.0.9", 5)
        assert texts[rule - 1] == ORDER[first]
    assert all(rank_of(parse_filter(text)) > 0 for text in ORDER)


def test_a_wildcard_stands_for_the_interfaces_addresses_of_its_family() -> None:
    tables = tables_of("local=0.0.0.0:7")
    assert winner(tables, "10.0.0.1", 7, "10.0.0.9", 1) == 1
    assert winner(tables, "10.0.0.3", 7, "10.0.0.9", 1) == 0
    assert winner(tables, "2001:db8::1", 7, "2001:db8::9", 1) == 0
    assert winner(tables_of("local=[::]:7"), "2001:db8::1", 7, "2001:db8::9", 1) == 1
    assert build_tables({1: parse_filter("local=0.0.0.0:7")}, [], NO_TABLES).entries == {}


def test_a_network_is_not_bound_to_the_interfaces_addresses() -> None:
    tables = tables_of("local=10.0.0.0/24:7")
    assert winner(tables, "10.0.0.77", 7, "10.0.1.1", 1) == 1
    assert winner(tables, "10.0.1.77", 7, "10.0.1.1", 1) == 0


def test_a_port_of_no_filter_has_no_class() -> None:
    tables = tables_of("local=10.0.0.1:7", "remote=10.0.0.9:6000-6100")
    local, remote = abi.decode_port_classes(tables.encode_ports())
    assert [port for port, number in enumerate(local) if number] == [7]
    assert [port for port, number in enumerate(remote) if number] == list(range(6000, 6101))
    everything, _ = abi.decode_port_classes(tables_of("local=10.0.0.1:any").encode_ports())
    assert [port for port, number in enumerate(everything) if not number] == [0]


def test_ten_thousand_filters_take_ten_thousand_entries() -> None:
    many = {n: Filter(Origin.REMOTE, IPv4Address(0x0A000000 + n), 1 + n) for n in range(1, 10001)}
    assert len(build_tables(many, OWN, NO_TABLES).entries) == 10000
    many[10001] = parse_filter("remote=0.0.0.0/0:any")
    assert len(build_tables(many, OWN, NO_TABLES).entries) == 20001
    same_port = {n: Filter(Origin.REMOTE, IPv4Address(0x0A000000 + n), 9) for n in range(1, 10001)}
    assert len(build_tables(same_port, OWN, NO_TABLES).entries) == 10000


def test_filters_that_need_too_many_entries_are_refused() -> None:
    ranges = {
        n: Filter(Origin.REMOTE, IPv4Address(0x0A000000 + n), n, last_port=60000 + n)
        for n in range(1, 2001)
    }
    with pytest.raises(InvalidConfigError, match=f"more than the {ENTRIES_MAX} entries"):
        build_tables(ranges, OWN, NO_TABLES)


def test_all_class_numbers_can_be_in_use_and_all_be_replaced() -> None:
    one = parse_filter("local=10.0.0.1:1")
    ports = {1: one, **{n: Filter(Origin.LOCAL, one.address, n) for n in range(2, 16001)}}
    before = build_tables(ports, OWN, NO_TABLES)
    pairs = {
        n: Filter(Origin.LOCAL, one.address, 4 * n - 3, last_port=4 * n - 2)
        for n in range(1, 16001)
    }
    tables = build_tables(pairs, OWN, before)
    numbers = list(tables.classes[Origin.LOCAL].values())
    assert len(set(numbers)) == len(numbers) == 16000
    assert max(numbers) <= 65535
