# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.rules: numbers of filters, and what the maps hold for them."""

from ipaddress import ip_address

import pytest

from mimicd.core.abi import MAX_RULES, encode_rule
from mimicd.core.errors import InvalidConfigError
from mimicd.core.model import Filter, FlowSettings, Origin
from mimicd.core.rules import FILTERS_MAX, RuleBook

PADDED = FlowSettings(padding=5)


def filter_of(text: str, settings: FlowSettings | None = None, host: str = "") -> Filter:
    """ "local 192.0.2.1 51820"."""
    origin, address, port = text.split()
    return Filter(Origin(origin), ip_address(address), int(port), settings or FlowSettings(), host)


def book_of(*texts: str) -> RuleBook:
    return RuleBook({}).renumbered(map(filter_of, texts))


A, B, C = "local 192.0.2.1 1", "remote 203.0.113.5 2", "local 2001:db8::1 3"


def test_numbers_begin_with_1() -> None:
    assert dict(book_of(A, B).filters) == {1: filter_of(A), 2: filter_of(B)}
    assert dict(book_of().filters) == {}


def test_filters_that_stay_keep_their_numbers() -> None:
    book = book_of(A, B, C)
    changed = book.renumbered(map(filter_of, [C, "remote 203.0.113.9 9", A]))
    assert {number: one.text() for number, one in changed.filters.items()} == {
        1: filter_of(A).text(),
        3: filter_of(C).text(),
        4: "remote=203.0.113.9:9",
    }


def test_a_filter_with_other_settings_is_the_same_filter() -> None:
    changed = book_of(A, B).renumbered([filter_of(B, PADDED)])
    assert dict(changed.filters) == {2: filter_of(B, PADDED)}
    assert changed.settings == {2: PADDED}
    assert changed.rule_values() == {2: encode_rule(PADDED)}


@pytest.mark.parametrize("other", ["remote 192.0.2.1 1", "local 192.0.2.1 2", "local 192.0.2.2 1"])
def test_another_end_is_another_filter(other: str) -> None:
    changed = book_of(A).renumbered([filter_of(other)])
    assert dict(changed.filters) == {2: filter_of(other)}


def test_the_number_of_a_filter_that_went_is_given_again_later() -> None:
    """Not at once: its connections end by its number first."""
    gone = book_of(A, B).renumbered([filter_of(B)])
    assert set(gone.renumbered([filter_of(B), filter_of(C)]).filters) == {1, 2}


def test_more_filters_than_the_maps_hold_are_refused() -> None:
    many = [
        Filter(Origin.REMOTE, ip_address(0x0A000000 + n), 1) for n in range(2 * FILTERS_MAX + 1)
    ]
    with pytest.raises(InvalidConfigError, match="16384 filters are more than the 16383"):
        RuleBook({}).renumbered(many[: FILTERS_MAX + 1])
    book = RuleBook({}).renumbered(many[:FILTERS_MAX])
    assert set(book.filters) == set(range(1, FILTERS_MAX + 1))
    # all of them may be replaced at once
    others = book.renumbered(many[FILTERS_MAX:-1])
    assert set(others.filters) == set(range(FILTERS_MAX + 1, 2 * FILTERS_MAX + 1))
    assert max(others.filters) < MAX_RULES


@pytest.mark.parametrize(
    "other",
    [
        Filter(Origin.LOCAL, ip_address("192.0.2.1"), 1, last_port=2),
        Filter(Origin.LOCAL, ip_address("192.0.2.0"), 1, prefix_bits=31),
    ],
)
def test_other_ports_or_another_prefix_are_another_filter(other: Filter) -> None:
    assert set(book_of(A).renumbered([other]).filters) == {2}


def test_a_mapped_address_is_the_ipv4_filter() -> None:
    mapped = book_of("local ::ffff:192.0.2.1 1")
    assert set(mapped.renumbered([filter_of(A)]).filters) == {1}


def test_a_filter_is_shown_with_the_name_it_came_from() -> None:
    named = filter_of(B, host="vpn.example")
    book = RuleBook({4: named, 5: filter_of(A)})
    assert book.text(4) == "remote=203.0.113.5:2 (vpn.example)"
    assert book.text(5) == "local=192.0.2.1:1"
    assert book.text(6) == ""
