# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.rules: numbers of filters, and what the maps hold for them."""

import struct
from ipaddress import ip_address

import pytest

from mimicd.core.abi import MAX_RULES, encode_filter_key, encode_rule
from mimicd.core.errors import InvalidConfigError
from mimicd.core.model import Filter, FlowSettings, Origin
from mimicd.core.rules import RuleBook

PADDED = FlowSettings(padding=5)
OWN = [ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1")]


def filter_of(text: str, settings: FlowSettings | None = None, host: str = "") -> Filter:
    """ "local 192.0.2.1 51820"."""
    origin, address, port = text.split()
    return Filter(Origin(origin), ip_address(address), int(port), settings or FlowSettings(), host)


def book_of(*texts: str) -> RuleBook:
    return RuleBook({}).renumbered(map(filter_of, texts))


def rules_by_key(book: RuleBook) -> dict[bytes, int]:
    return {
        key: struct.unpack_from("=I", value)[0] for key, value in book.filter_entries(OWN).items()
    }


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
    many = [Filter(Origin.REMOTE, ip_address(0x0A000000 + n), 1) for n in range(MAX_RULES)]
    book = RuleBook({}).renumbered(many[1:])
    assert set(book.filters) == set(range(1, MAX_RULES))
    with pytest.raises(InvalidConfigError, match="16384 filters are more than the 16383"):
        RuleBook({}).renumbered(many)
    with pytest.raises(InvalidConfigError, match="16384 filters are more"):
        book.renumbered(many)


def test_a_filter_has_one_entry() -> None:
    assert rules_by_key(book_of(A, B, C)) == {
        encode_filter_key(filter_of(A)): 1,
        encode_filter_key(filter_of(B)): 2,
        encode_filter_key(filter_of(C)): 3,
    }


def test_a_wildcard_stands_for_each_address_of_its_family() -> None:
    assert rules_by_key(book_of("local 0.0.0.0 7")) == {
        encode_filter_key(filter_of("local 192.0.2.1 7")): 1,
        encode_filter_key(filter_of("local 192.0.2.2 7")): 1,
    }
    assert rules_by_key(book_of("local :: 7")) == {
        encode_filter_key(filter_of("local 2001:db8::1 7")): 1
    }
    assert book_of("local 0.0.0.0 7").filter_entries([]) == {}


@pytest.mark.parametrize("order", [1, -1])
def test_an_exact_filter_beats_a_wildcard_in_any_order(order: int) -> None:
    texts = ["local 0.0.0.0 7", "local 192.0.2.2 7"][::order]
    book = book_of(*texts)
    numbers = {one.text(): number for number, one in book.filters.items()}
    assert rules_by_key(book) == {
        encode_filter_key(filter_of("local 192.0.2.1 7")): numbers["local=0.0.0.0:7"],
        encode_filter_key(filter_of("local 192.0.2.2 7")): numbers["local=192.0.2.2:7"],
    }


def test_an_exact_filter_outranks_a_wildcard_of_the_other_end() -> None:
    entries = book_of("local 0.0.0.0 7", "remote 203.0.113.5 9", "local 192.0.2.2 8")
    ranks = {struct.unpack("=II", value) for value in entries.filter_entries(OWN).values()}
    by_rule = dict(ranks)
    assert 0 < by_rule[1] < by_rule[2] < by_rule[3]


def test_a_mapped_address_is_the_ipv4_filter() -> None:
    mapped = book_of("local ::ffff:192.0.2.1 1")
    assert rules_by_key(mapped) == rules_by_key(book_of(A))
    assert set(mapped.renumbered([filter_of(A)]).filters) == {1}


def test_a_filter_is_shown_with_the_name_it_came_from() -> None:
    named = filter_of(B, host="vpn.example")
    book = RuleBook({4: named, 5: filter_of(A)})
    assert book.text(4) == "remote=203.0.113.5:2 (vpn.example)"
    assert book.text(5) == "local=192.0.2.1:1"
    assert book.text(6) == ""
