# SPDX-License-Identifier: GPL-2.0-only
"""Filters: which texts are accepted, what they mean, which are refused and in which words."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimicd.core.errors import InvalidConfigError, Problem
from mimicd.core.filter_text import check_address, split_filter
from mimicd.core.model import (
    PADDING_RANDOM,
    Filter,
    FlowSettings,
    Handshake,
    Keepalive,
    Origin,
)
from mimicd.core.settings import format_filter, parse_filter

GLOBAL = FlowSettings(Handshake(7, 8), Keepalive(20, 21, 22, 23), 5, True)

ENDS = [
    ("remote=192.0.2.1:6000", "remote=192.0.2.1:6000"),
    ("local=[2001:db8::cafe]:7000", "local=[2001:db8::cafe]:7000"),
    ("local=[2001:DB8:0:0::CAFE]:7000", "local=[2001:db8::cafe]:7000"),
    ("local=0.0.0.0:1", "local=0.0.0.0:1"),
    ("local=[::]:65535", "local=[::]:65535"),
    ("remote=[::ffff:203.0.113.5]:51820", "remote=203.0.113.5:51820"),
    ("local=[::ffff:0.0.0.0]:51820", "local=0.0.0.0:51820"),
    ("remote=[192.0.2.1]:6000", "remote=192.0.2.1:6000"),
    ("  remote =  192.0.2.1 : 6000  ", "remote=192.0.2.1:6000"),
    ("remote=192.0.2.1:0443", "remote=192.0.2.1:443"),
    ("local=192.0.2.1:6000-6100", "local=192.0.2.1:6000-6100"),
    ("local=192.0.2.1: 6000 - 6100 ", "local=192.0.2.1:6000-6100"),
    ("local=192.0.2.1:6000-6000", "local=192.0.2.1:6000"),
    ("local=192.0.2.1:any", "local=192.0.2.1:any"),
    ("local=192.0.2.1:1-65535", "local=192.0.2.1:any"),
    ("local=[2001:db8::1]:any", "local=[2001:db8::1]:any"),
    ("remote=peer.example:6000-6100", "remote=peer.example:6000-6100"),
    ("remote=198.51.100.0/24:51820", "remote=198.51.100.0/24:51820"),
    ("remote=198.51.100.7/32:51820", "remote=198.51.100.7:51820"),
    ("remote=0.0.0.0/0:51820", "remote=0.0.0.0/0:51820"),
    ("remote=[2001:db8::/32]:51820", "remote=[2001:db8::/32]:51820"),
    ("remote=[2001:db8::]/32:1-9", "remote=[2001:db8::/32]:1-9"),
    ("remote=[::/0]:any", "remote=[::/0]:any"),
    ("remote=[::ffff:198.51.100.0/120]:1", "remote=198.51.100.0/24:1"),
    ("remote=[::ffff:0:0/96]:1", "remote=0.0.0.0/0:1"),
    ("remote=peer.example:51820", "remote=peer.example:51820"),
    ("remote=Peer.EXAMPLE.:51820", "remote=peer.example.:51820"),
    ("remote=[peer.example]:51820", "remote=peer.example:51820"),
    ("local=localhost:1", "local=localhost:1"),
    ("remote=1st-peer.x_y:1", "remote=1st-peer.x_y:1"),
    ("remote=xn--bcher-kva.example:1", "remote=xn--bcher-kva.example:1"),
    (f"remote={'a' * 63}.example:1", f"remote={'a' * 63}.example:1"),
]

OWN_SETTINGS = [
    ("", GLOBAL),
    (",handshake=5:0", FlowSettings(Handshake(5, 0), GLOBAL.keepalive, 5, True)),
    (",handshake=:0", FlowSettings(Handshake(7, 0), GLOBAL.keepalive, 5, True)),
    (",handshake=0:", FlowSettings(Handshake(0, 8), GLOBAL.keepalive, 5, True)),
    (",handshake=:", GLOBAL),
    (",handshake=32767:0032767", FlowSettings(Handshake(32767, 32767), GLOBAL.keepalive, 5, True)),
    (
        ",keepalive=60:1:3:1000",
        FlowSettings(GLOBAL.handshake, Keepalive(60, 1, 3, 1000), 5, True),
    ),
    (",keepalive=60:::", FlowSettings(GLOBAL.handshake, Keepalive(60, 21, 22, 23), 5, True)),
    (",keepalive=:1::", FlowSettings(GLOBAL.handshake, Keepalive(20, 1, 22, 23), 5, True)),
    (",keepalive=:::0", FlowSettings(GLOBAL.handshake, Keepalive(20, 21, 22, 0), 5, True)),
    (",padding=0", FlowSettings(GLOBAL.handshake, GLOBAL.keepalive, 0, True)),
    (",padding=16", FlowSettings(GLOBAL.handshake, GLOBAL.keepalive, 16, True)),
    (
        ",padding=random",
        FlowSettings(GLOBAL.handshake, GLOBAL.keepalive, PADDING_RANDOM, True),
    ),
    (",max_window=false", FlowSettings(GLOBAL.handshake, GLOBAL.keepalive, 5, False)),
    (",max_window=0", FlowSettings(GLOBAL.handshake, GLOBAL.keepalive, 5, False)),
    (",max_window=1", GLOBAL),
    (
        " , max_window = no , handshake = 1 : 2 ,padding=3,keepalive=4:5:6:7",
        FlowSettings(Handshake(1, 2), Keepalive(4, 5, 6, 7), 3, False),
    ),
]

# text, where its first fault begins, words of the message, words of the hint
REFUSED = [
    ("", 0, "expected local= or remote=", "remote=203.0.113.5:51820"),
    ("192.0.2.1:6000", 0, 'found "192.0.2.1:6000"', "remote=203.0.113.5:51820"),
    ("lcoal=192.0.2.1:6000", 0, 'found "lcoal"', "did you mean local?"),
    ("Remote=192.0.2.1:6000", 0, 'found "Remote"', "did you mean remote?"),
    ("=192.0.2.1:6000", 0, 'found ""', ""),
    ("remote=", 7, '"" has no port', ""),
    ("remote=192.0.2.1", 7, '"192.0.2.1" has no port', "write remote=192.0.2.1:PORT"),
    ("local=[2001:db8::1]", 6, "has no port", "write local=[2001:db8::1]:PORT"),
    ("remote=peer.example", 7, "has no port", "write remote=peer.example:PORT"),
    ("remote=192.0.2.1:", 17, 'port "" is not a number from 1 to 65535', ""),
    ("remote=192.0.2.1:0", 17, 'port "0" is not a number from 1 to 65535', ""),
    ("remote=192.0.2.1:65536", 17, 'port "65536"', ""),
    ("remote=192.0.2.1:-1", 17, 'port "-1"', ""),
    ("remote=192.0.2.1:1-2-3", 19, 'port "2-3"', ""),
    ("remote=192.0.2.1:6000-65536", 22, 'port "65536"', ""),
    ("remote=192.0.2.1:6000-0", 22, 'port "0"', ""),
    ("remote=192.0.2.1:6100-6000", 17, "ends before it begins", "write 6000-6100"),
    ("remote=192.0.2.1:Any", 17, 'port "Any"', "every port is any"),
    ("remote=192.0.2.1:*", 17, 'port "*"', "every port is any"),
    ("remote=192.0.2.0/:1", 17, 'prefix length "" is not a number from 0 to 32', ""),
    ("remote=192.0.2.0/33:1", 17, 'prefix length "33"', "198.51.100.0/24"),
    ("remote=192.0.2.0/255.255.255.0:1", 17, "prefix length", ""),
    ("remote=[2001:db8::/129]:1", 19, 'prefix length "129" is not a number from 0 to 128', ""),
    ("remote=[2001:db8::]/129:1", 20, 'prefix length "129" is not a number from 0 to 128', ""),
    ("remote=[2001:db8::]x/32:1", 7, 'has "x/32" behind ]', ""),
    ("remote=192.0.2.1/24:1", 7, "192.0.2.1 lies inside of 192.0.2.0/24", "write 192.0.2.0/24"),
    ("remote=[2001:db8::1/32]:1", 8, "inside of 2001:db8::/32", "leave out /32"),
    ("remote=peer.example/24:1", 20, "has a prefix length", "all its addresses"),
    ("remote=192.0.2.1:+1", 17, 'port "+1"', ""),
    ("remote=192.0.2.1:6000-", 22, 'port "6000-" is not a number', "a range is 6000-6100"),
    ("remote=192.0.2.1:\u0661", 17, "is not a number", ""),
    ("remote=192.0.2.1:" + "9" * 10000, 17, "is not a number from 1 to 65535", ""),
    (
        "remote=2001:db8::1:51820",
        7,
        "an IPv6 address needs brackets",
        "write remote=[2001:db8::1]:51820",
    ),
    ("remote=2001:db8::1", 7, "needs brackets", "write remote=[2001:db8::1]:PORT"),
    ("remote=1:2:3", 7, "needs brackets", "write remote=[ADDRESS]:PORT"),
    ("remote=[2001:db8::1:51820", 7, "has [ without ]", "remote=[2001:db8::1]:51820"),
    ("remote=192.0.2.1]:51820", 7, "has ] without [", ""),
    ("remote=[2001:db8::g]:1", 8, '"2001:db8::g" is not an IPv6 address', ""),
    ("remote=[fe80::1%eth0]:1", 15, "has a zone", "leave out the %"),
    ("remote=192.0.2:1", 7, '"192.0.2" is not an IPv4 address', "in full"),
    ("remote=192.0.2.256:1", 7, '"192.0.2.256" is not an IPv4 address', ""),
    ("remote=192.0.02.1:1", 7, "is not an IPv4 address", "without leading zeros"),
    ("remote=0x7f.1:1", 7, "is not an IPv4 address", ""),
    ("remote=127.1.:1", 7, "is not an IPv4 address", ""),
    ("remote=3232235777:1", 7, "is not an IPv4 address", ""),
    ("remote=:51820", 7, "no address in front of the port", "local=0.0.0.0:PORT"),
    ("remote=[]:51820", 8, "no address in front of the port", ""),
    ("remote=a..b:1", 7, "neither an IP address nor a host name", ""),
    ("remote=-a.example:1", 7, "neither an IP address nor a host name", ""),
    ("remote=a b:1", 7, "neither an IP address nor a host name", ""),
    ("remote=b\u00fccher.example:1", 7, "nor a host name", "xn--"),
    (f"remote={'a' * 64}.example:1", 7, "neither an IP address nor a host name", ""),
    (f"remote={'a.' * 127}a:1", 7, "neither an IP address nor a host name", ""),
    ("remote=0.0.0.0:51820", 7, "0.0.0.0 is no peer's address", "write local=0.0.0.0:51820"),
    ("remote=[::]:51820", 8, ":: is no peer's address", "write local=[::]:51820"),
    ("remote=[::ffff:0:0]:5", 8, "0.0.0.0 is no peer's address", "local=0.0.0.0:5"),
    ("local=192.0.2.1:1,", 18, 'expected key=value after the comma, found ""', "padding=4"),
    ("local=192.0.2.1:1,padding", 18, 'found "padding"', ""),
    ("local=192.0.2.1:1,=4", 18, 'found "=4"', ""),
    ("local=192.0.2.1:1,paddin=4", 18, 'no setting "paddin"', "did you mean padding?"),
    (
        "local=192.0.2.1:1,xdp_mode=skb",
        18,
        "expected handshake, keepalive, padding, max_window or strict",
        "give xdp_mode outside the filter",
    ),
    ("local=192.0.2.1:1,local=192.0.2.2:2", 18, 'no setting "local"', ""),
    ("local=192.0.2.1:1,padding=", 26, "padding has no value", "expected BYTES"),
    ("local=192.0.2.1:1,padding=17", 26, '"17" is neither a number of bytes from 0 to 16', ""),
    ("local=192.0.2.1:1,padding=-1", 26, '"-1" is neither', ""),
    ("local=192.0.2.1:1,padding=Random", 26, "nor random", ""),
    ("local=192.0.2.1:1, padding = 17", 29, "padding:", ""),
    ("local=192.0.2.1:1,padding=1,padding=1", 28, "padding is given twice", "keep one"),
    ("local=192.0.2.1:1,strict=now", 25, '"now" is neither true, false nor always', ""),
    ("local=192.0.2.1:1,max_window=2", 29, '"2" is neither true nor false', ""),
    ("local=192.0.2.1:1,handshake=2", 28, "1 of the 2 parts of interval:retry", '"2:"'),
    ("local=192.0.2.1:1,handshake=1:2:3", 28, "more than the 2 parts", ""),
    ("local=192.0.2.1:1,handshake=2:x", 30, 'retry "x" is not a number from 0 to 32767', ""),
    ("local=192.0.2.1:1,handshake=32768:1", 28, 'interval "32768"', "durations in seconds"),
    ("local=192.0.2.1:1,handshake=-1:1", 28, 'interval "-1"', ""),
    ("local=192.0.2.1:1,handshake=1.5:1", 28, 'interval "1.5"', "whole numbers"),
    ("local=192.0.2.1:1,keepalive=1:2:3", 28, "3 of the 4 parts of time:interval:", '"180:::"'),
    ("local=192.0.2.1:1,keepalive=1:2: z:4", 33, 'retry "z" is not a number', ""),
    ("local=192.0.2.1:1,keepalive=1:2:3:4s", 34, 'stale "4s" is not a number', ""),
]


@pytest.mark.parametrize(("text", "canonical"), ENDS)
def test_an_end_is_accepted(text: str, canonical: str) -> None:
    found = parse_filter(text)
    assert found.text() == canonical
    assert found.settings == FlowSettings()
    assert parse_filter(canonical) == found


@pytest.mark.parametrize(("tail", "settings"), OWN_SETTINGS)
def test_own_settings_win_and_left_out_ones_fall_back(tail: str, settings: FlowSettings) -> None:
    found = parse_filter(f"remote=192.0.2.1:6000{tail}", GLOBAL)
    assert found == Filter(Origin.REMOTE, IPv4Address("192.0.2.1"), 6000, settings)


@pytest.mark.parametrize(("text", "offset", "words", "hint"), REFUSED)
def test_a_bad_filter_is_refused_with_place_words_and_hint(
    text: str, offset: int, words: str, hint: str
) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_filter(text)
    problem, *more = caught.value.problems
    assert more == []
    assert words in problem.message
    assert hint in problem.hint
    assert problem.offset == offset
    assert "\n" not in problem.message


def test_every_fault_of_a_filter_is_told_in_its_order() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_filter("remote=192.0.2.1:0,handshake=x:y,paddin=3,,max_window=7")
    assert [problem.offset for problem in caught.value.problems] == [17, 29, 31, 33, 42, 54]


def test_a_mapped_address_is_the_ipv4_address() -> None:
    mapped = Filter(Origin.LOCAL, IPv6Address("::ffff:192.0.2.1"), 1)
    assert mapped == Filter(Origin.LOCAL, IPv4Address("192.0.2.1"), 1)


def test_a_host_name_is_kept_in_lower_case_until_it_is_resolved() -> None:
    found = parse_filter("remote=Peer.Example:51820,padding=3")
    assert (found.address, found.host) == (None, "peer.example")
    assert not found.is_wildcard
    resolved = Filter(
        found.origin, ip_address("2001:db8::1"), found.port, found.settings, found.host
    )
    assert resolved.text() == "remote=[2001:db8::1]:51820"
    assert format_filter(resolved) == "remote=peer.example:51820,padding=3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local=0.0.0.0:1", True),
        ("local=[::]:1", True),
        ("local=[::ffff:0.0.0.0]:1", True),
        ("local=192.0.2.1:1", False),
        ("local=0.0.0.0/0:1", False),
        ("local=0.0.0.0:any", True),
        ("remote=[::1]:1", False),
    ],
)
def test_only_zero_addresses_are_wildcards(text: str, expected: bool) -> None:
    assert parse_filter(text).is_wildcard is expected


def test_only_a_handshake_interval_of_zero_is_passive() -> None:
    assert parse_filter("local=192.0.2.1:1,handshake=0:").settings.handshake.is_passive
    assert not parse_filter("local=192.0.2.1:1,handshake=1:0").settings.handshake.is_passive


def test_an_address_that_a_remote_name_led_to_is_checked_too() -> None:
    with pytest.raises(InvalidConfigError, match=r"0\.0\.0\.0 is no peer's address"):
        check_address(Filter(Origin.REMOTE, IPv4Address("0.0.0.0"), 1, host="void.example"))
    check_address(Filter(Origin.LOCAL, IPv4Address("0.0.0.0"), 1))


def test_only_settings_that_differ_from_the_global_ones_are_written() -> None:
    found = parse_filter("local=[2001:db8::1]:1,keepalive=60:::,max_window=1", GLOBAL)
    assert format_filter(found, GLOBAL) == "local=[2001:db8::1]:1,keepalive=60:21:22:23"
    assert format_filter(found) == (
        "local=[2001:db8::1]:1,handshake=7:8,keepalive=60:21:22:23,padding=5,max_window=true"
    )


@given(st.text())
@example("remote=[[::1]]:1")
@example("local=]:[:1")
@example("remote=\x00:1")
@example("local=0:1,\u2028=")
def test_any_text_is_either_a_filter_or_refused_within_its_length(text: str) -> None:
    _parse_or_refuse(text)


ALPHABET = "local=remt[]:,.%0123456789abfx hndskepivgw_-/"


@given(
    st.sampled_from(["", "local=", "remote=", "local=192.0.2.1:1,", "remote=["]),
    st.text(ALPHABET, max_size=40),
)
def test_any_text_of_a_filters_letters_is_either_a_filter_or_refused(head: str, tail: str) -> None:
    _parse_or_refuse(head + tail)


def _parse_or_refuse(text: str) -> None:
    problems = _problems_of(text)
    assert all(problem.message for problem in problems)
    assert all(0 <= problem.offset <= len(text) for problem in problems)
    if not problems:
        found = parse_filter(text)
        assert parse_filter(format_filter(found)) == found


def _problems_of(text: str) -> tuple[Problem, ...]:
    try:
        parse_filter(text)
    except InvalidConfigError as exc:
        return exc.problems
    return ()


def test_splitting_keeps_what_can_be_read_beside_the_faults() -> None:
    parts = split_filter("local=192.0.2.1:1,padding=x,?")
    assert parts.filter == Filter(Origin.LOCAL, IPv4Address("192.0.2.1"), 1)
    assert [(key.text, value.text) for key, value in parts.settings] == [("padding", "x")]
    assert [problem.offset for problem in parts.problems] == [28]
