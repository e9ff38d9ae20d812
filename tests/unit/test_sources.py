# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.sources: the filters out of addresses, names and WireGuard interfaces."""

from ipaddress import ip_address

from mimicd.core.model import FlowSettings
from mimicd.core.rules import RuleBook
from mimicd.core.settings import build_config
from mimicd.core.sources import gather_filters, hosts_of, known_of
from mimicd.core.wireguard import Tunnel

A, B = ip_address("192.0.2.1"), ip_address("2001:db8::1")
CONFIG = build_config(
    {
        "filter": [
            "remote=peer.example:7,padding=3",
            "remote=192.0.2.1:9",
            "remote=other.example:6-8",
            "local=peer.example:1",
        ],
        "wireguard": ["wg0", "wg1", "wg0"],
        "padding": "2",
    }
)
ADDRESSES = {"peer.example": [A, B], "other.example": [A]}
TUNNELS = {"wg0": Tunnel(51820, ((A, 9), (A, 51820), (B, 51820)))}


def texts(*gathered: object) -> list[str]:
    return [RuleBook({1: one}).text(1) for one in gathered]  # type: ignore[dict-item]


def test_each_name_is_asked_for_once() -> None:
    assert hosts_of(CONFIG) == ["peer.example", "other.example"]


def test_names_and_tunnels_become_filters_in_order() -> None:
    found = gather_filters(CONFIG, ADDRESSES, TUNNELS)
    assert texts(*found) == [
        "remote=192.0.2.1:7 (peer.example)",
        "remote=[2001:db8::1]:7 (peer.example)",
        "remote=192.0.2.1:9",
        "remote=192.0.2.1:6-8 (other.example)",
        "local=192.0.2.1:1 (peer.example)",
        "local=[2001:db8::1]:1 (peer.example)",
        "local=0.0.0.0:51820 (wireguard wg0)",
        "local=[::]:51820 (wireguard wg0)",
        "remote=192.0.2.1:51820 (wireguard wg0)",
        "remote=[2001:db8::1]:51820 (wireguard wg0)",
    ]
    assert found[0].settings.padding == 3
    assert {one.settings.padding for one in found[2:]} == {2}


def test_what_has_an_address_counts_before_a_name_and_that_before_wireguard() -> None:
    config = build_config(
        {
            "filter": ["remote=peer.example:7,padding=1", "remote=192.0.2.1:7,padding=5"],
            "wireguard": "wg0",
        }
    )
    (only,) = gather_filters(config, {"peer.example": [A]}, {"wg0": Tunnel(0, ((A, 7),))})
    assert (only.host, only.settings.padding) == ("", 5)
    named = build_config({"filter": "remote=peer.example:7,padding=1", "wireguard": "wg0"})
    (only,) = gather_filters(named, {"peer.example": [A]}, {"wg0": Tunnel(0, ((A, 7),))})
    assert (only.host, only.settings.padding) == ("peer.example", 1)


def test_two_names_of_one_address_are_one_filter_of_the_first() -> None:
    config = build_config({"filter": ["remote=a.example:7", "remote=b.example:7"]})
    (only,) = gather_filters(config, {"a.example": [A], "b.example": [A]}, {})
    assert only.host == "a.example"


def test_what_is_not_known_makes_no_filter() -> None:
    assert texts(*gather_filters(CONFIG, {}, {})) == ["remote=192.0.2.1:9"]


def test_a_later_process_knows_what_this_one_knew() -> None:
    book = RuleBook({}).renumbered(gather_filters(CONFIG, ADDRESSES, TUNNELS))
    rules, hosts = book.saved(CONFIG.flow)
    assert rules["1"] == "remote=192.0.2.1:7,padding=3"
    assert hosts["1"] == "peer.example"
    assert "3" not in hosts
    again = RuleBook.from_saved(rules, hosts, CONFIG.flow)
    assert again == book
    known = known_of(again.filters.values())
    assert known.addresses == ADDRESSES
    assert known.tunnels["wg0"].listen_port == 51820
    assert gather_filters(CONFIG, known.addresses, known.tunnels) == list(book.filters.values())


def test_a_book_with_other_global_settings_is_saved_whole() -> None:
    book = RuleBook({}).renumbered(gather_filters(CONFIG, ADDRESSES, TUNNELS))
    for flow in (FlowSettings(), FlowSettings(padding=9)):
        assert RuleBook.from_saved(*book.saved(flow), flow) == book
