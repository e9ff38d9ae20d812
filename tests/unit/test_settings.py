# SPDX-License-Identifier: GPL-2.0-only
"""The settings table, and configurations made from texts and written back."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicd.core.config_text import format_config_text, parse_config_text
from mimicd.core.errors import InvalidConfigError, Located
from mimicd.core.filter_conflicts import conflicts
from mimicd.core.model import (
    PADDING_MAX,
    PADDING_RANDOM,
    TIMER_MAX,
    Filter,
    FlowSettings,
    Handshake,
    InterfaceConfig,
    Keepalive,
    Origin,
    Strict,
)
from mimicd.core.settings import (
    BY_KEY,
    SETTINGS,
    build_config,
    check_texts,
    config_texts,
    merge_texts,
    notes_on,
    show_filter,
)

END = "remote=203.0.113.5:51820"

timers = st.integers(0, TIMER_MAX)
flows = st.builds(
    FlowSettings,
    handshake=st.builds(Handshake, timers, timers),
    keepalive=st.builds(Keepalive, timers, timers, timers, timers),
    padding=st.integers(0, PADDING_MAX) | st.just(PADDING_RANDOM),
    max_window=st.booleans(),
    strict=st.sampled_from(Strict),
)
ports = st.integers(1, 65535)
addresses = st.ip_addresses()
names = st.from_regex(r"[a-z]([a-z0-9-]{0,9}[a-z0-9])?(\.[a-z]{2,5}){1,3}\.?", fullmatch=True)
ranges = st.tuples(ports, st.integers(1, 65534)).map(lambda ends: (min(ends), max(ends)))
networks = st.ip_addresses().flatmap(
    lambda one: st.integers(0, one.max_prefixlen).map(
        lambda bits: ip_network((one, bits), strict=False)
    )
)
filters = st.one_of(
    st.builds(
        lambda origin, network, ends, flow: Filter(
            origin, network.network_address, ends[0], flow, "", ends[1], network.prefixlen
        ),
        st.sampled_from(Origin),
        networks,
        ranges,
        flows,
    ).filter(lambda found: found.origin is Origin.LOCAL or not found.is_wildcard),
    st.builds(Filter, st.just(Origin.LOCAL), addresses, ports, flows),
    st.builds(Filter, st.just(Origin.REMOTE), addresses, ports, flows).filter(
        lambda found: not found.is_wildcard
    ),
    st.builds(Filter, st.sampled_from(Origin), st.none(), ports, flows, names),
)
tunnels = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=15)
configs = st.builds(
    InterfaceConfig,
    filters=st.lists(filters, min_size=1, max_size=4)
    .filter(lambda found: not list(conflicts(found)))
    .map(tuple),
    link_type=st.sampled_from(["auto", "eth", "none"]),
    xdp_mode=st.sampled_from(["auto", "skb", "native"]),
    verbosity=st.integers(0, 4),
    flow=flows,
    wireguard=st.lists(tunnels, max_size=2, unique=True).map(tuple),
    set_mtu=st.booleans(),
)


@given(configs)
def test_a_configuration_comes_back_from_its_texts(config: InterfaceConfig) -> None:
    assert build_config(config_texts(config)) == config


@given(configs)
def test_a_configuration_comes_back_from_a_file_with_its_texts(config: InterfaceConfig) -> None:
    in_file = parse_config_text(format_config_text(config_texts(config)), "eth0.conf")
    assert build_config(merge_texts(in_file, {})) == config
    assert len(notes_on(in_file)) == sum(found.is_any_port for found in config.filters)


@given(configs)
def test_texts_from_a_command_line_mean_the_same_as_from_a_file(config: InterfaceConfig) -> None:
    assert build_config(merge_texts({}, config_texts(config))) == config


@given(configs, configs)
def test_the_command_line_wins_over_the_file_and_filters_add_up(
    in_file: InterfaceConfig, in_command: InterfaceConfig
) -> None:
    added = tuple(
        found for found in in_command.filters if not list(conflicts([*in_file.filters, found]))
    )
    command = config_texts(dataclasses.replace(in_command, filters=added))
    merged = build_config(merge_texts(config_texts(in_file), command))
    assert [found.text() for found in merged.filters] == [
        found.text() for found in in_file.filters + added
    ]
    both = tuple(dict.fromkeys([*in_file.wireguard, *in_command.wireguard]))
    expected = dataclasses.replace(in_command, filters=merged.filters, wireguard=both)
    assert merged == expected


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.key)
def test_a_row_is_complete(row: Any) -> None:
    assert row.signature in {"s", "as", ""}
    assert row.help.endswith(".")
    assert row.metavar.isupper()
    assert row.flags
    if row.field:
        owner = FlowSettings if row.per_filter else InterfaceConfig
        assert row.field in {field.name for field in dataclasses.fields(owner)}
    if row.default is not None and row.signature:
        assert row.read(row.format(row.default), row.default) == row.default
    for flag in row.flags:
        if flag.text:
            row.read(flag.text, row.default)


def test_every_field_of_the_configuration_has_a_row_with_its_default() -> None:
    fields = {row.field: row.default for row in SETTINGS if row.field and not row.repeatable}
    default = InterfaceConfig()
    for owner in (default, default.flow):
        for field in dataclasses.fields(owner):
            if field.name not in {"flow", "filters", "wireguard"}:
                assert fields.pop(field.name) == getattr(owner, field.name)
    assert fields == {}


def test_the_flags_are_those_of_the_manual_page() -> None:
    assert {(flag.short, flag.long, bool(flag.text)) for row in SETTINGS for flag in row.flags} == {
        ("-q", "--quiet", True),
        ("-v", "--verbose", True),
        ("-f", "--filter", False),
        ("-L", "--link-type", False),
        ("-x", "--xdp-mode", False),
        ("-X", "--use-libxdp", True),
        ("-h", "--handshake", False),
        ("-k", "--keepalive", False),
        ("-p", "--padding", False),
        ("-W", "--max-window", True),
        ("", "--strict", False),
        ("", "--wireguard", False),
        ("", "--set-mtu", True),
        ("-F", "--file", False),
    }


def test_the_keys_are_those_of_the_manual_page() -> None:
    assert set(BY_KEY) == {
        "filter",
        "log.verbosity",
        "link_type",
        "xdp_mode",
        "use_libxdp",
        "handshake",
        "keepalive",
        "padding",
        "max_window",
        "strict",
        "wireguard",
        "set_mtu",
    }


def test_defaults_are_those_of_the_manual_page() -> None:
    config = build_config({"filter": [END]})
    flow = FlowSettings(Handshake(2, 3), Keepalive(180, 10, 3, 600), 0, False)
    end = Filter(Origin.REMOTE, IPv4Address("203.0.113.5"), 51820, flow)
    assert config == InterfaceConfig((end,), "auto", "auto", 2, flow)


def test_a_filter_falls_back_to_the_global_setting_number_by_number() -> None:
    config = build_config(
        {
            "handshake": "7:",
            "keepalive": ":5::",
            "padding": "random",
            "filter": [f"{END},keepalive=60:::,padding=2", "local=192.0.2.1:1,handshake=:0"],
        }
    )
    assert config.flow == FlowSettings(Handshake(7, 3), Keepalive(180, 5, 3, 600), PADDING_RANDOM)
    first, second = (found.settings for found in config.filters)
    assert first == FlowSettings(Handshake(7, 3), Keepalive(60, 5, 3, 600), 2)
    assert second == FlowSettings(Handshake(7, 0), Keepalive(180, 5, 3, 600), PADDING_RANDOM)


def test_a_filters_own_setting_wins_over_the_command_line() -> None:
    merged = merge_texts({"filter": [f"{END},padding=4"], "padding": ["1"]}, {"padding": ["2"]})
    config = build_config(merged)
    assert (config.flow.padding, config.filters[0].settings.padding) == (2, 4)


def test_the_command_line_overrides_single_numbers_of_the_file() -> None:
    merged = merge_texts({"keepalive": ["60:5::"]}, {"keepalive": [":::0", "30:::"]})
    assert merged == {"keepalive": "30:5:3:0"}


@pytest.mark.parametrize(
    ("in_file", "flags", "expected"),
    [
        ([], ["more"], "debug"),
        ([], ["less", "less", "less", "less"], "error"),
        ([], ["more"] * 9, "trace"),
        (["warn"], ["more"], "info"),
        (["4"], ["less", "less"], "info"),
        ([], ["more", "less"], "info"),
        (["1"], [], "warn"),
        (["99"], [], "trace"),
    ],
)
def test_verbose_and_quiet_count_from_the_files_level(
    in_file: list[str], flags: list[str], expected: str
) -> None:
    merged = merge_texts({"log.verbosity": in_file}, {"log.verbosity": flags})
    assert merged == {"log.verbosity": expected}


def test_merging_leaves_out_what_nobody_gave() -> None:
    assert merge_texts({"filter": [END], "padding": []}, {"handshake": []}) == {"filter": [END]}


def test_merging_tells_the_faults_of_both_sides() -> None:
    in_file = {"filter": [Located(END, "a.conf", 3, 10)]}
    with pytest.raises(InvalidConfigError) as caught:
        merge_texts(in_file, {"filter": [f"{END},padding=3"], "padding": ["x"], "nope": ["1"]})
    assert sorted(problem.message for problem in caught.value.problems) == [
        f'filter "{END},padding=3" has the same address and port as "{END}" in line 3',
        'padding: "x" is neither a number of bytes from 0 to 16 nor random',
        'unknown key "nope"',
    ]


@pytest.mark.parametrize("texts", [{}, {"filter": []}, {"padding": "3"}])
def test_running_without_a_filter_is_refused(texts: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        build_config(texts)
    assert str(caught.value) == "no filter given"
    assert END in caught.value.hint
    assert check_texts(texts) == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"filter": [END], "bind_to": "1"}, 'unknown key "bind_to"'),
        ({"filter": [END], "file": "/etc/passwd"}, 'unknown key "file"'),
        ({"filter": [END], "padding": 3}, 'padding needs a text, not "3"'),
        ({"filter": [END], "max_window": True}, 'max_window needs a text, not "True"'),
        ({"filter": [END], "padding": None}, 'padding needs a text, not "None"'),
        ({"filter": [END], "padding": b"3"}, "padding needs a text, not \"b'3'\""),
        ({"filter": [END], "padding": {"3": "4"}}, "padding needs a text, not \"{'3': '4'}\""),
        ({"filter": [END, 5]}, 'filter needs a text, not "5"'),
        ({"filter": 5}, 'filter needs a text, not "5"'),
        ({"filter": [END], "handshake": ""}, "handshake has no value"),
        ({"filter": [END], "handshake": "9" * 5000 + ":"}, "is not a number from 0 to 32767"),
        ({"filter": [END, END]}, "has the same address and port as"),
    ],
)
def test_a_bad_option_from_the_bus_is_refused(texts: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        build_config(texts)
    assert len(caught.value.problems) == 1
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_every_bad_option_is_told_at_once() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        build_config({"filter": ["x", "y"], "padding": "99", "xdp_mode": "z", "a": ""})
    assert len(caught.value.problems) == 5


def test_the_place_of_a_fault_counts_the_spaces_in_front_of_the_text() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        BY_KEY["handshake"].read("  2:x ", Handshake())
    assert [problem.offset for problem in caught.value.problems] == [4]


def test_a_single_filter_needs_no_list() -> None:
    assert build_config({"filter": END}) == build_config({"filter": (END,)})


@pytest.mark.parametrize("word", ["true", "1", "yes", "on"])
def test_a_libxdp_setting_is_accepted_with_a_note(word: str) -> None:
    texts = {"use_libxdp": [word], "filter": [END]}
    assert build_config(texts) == build_config({"filter": [END]})
    (note,) = notes_on(texts)
    assert note.startswith("use_libxdp has no effect")


def test_notes_tell_the_place_of_keys_that_are_repeated_in_a_file() -> None:
    in_file = parse_config_text(
        f"padding = 1\nuse_libxdp = 0\nfilter = {END}\npadding = 2\n", "a.conf"
    )
    assert notes_on(in_file) == ["a.conf:4:11: padding is given again, this one wins"]
    assert notes_on({"padding": ["1", "2"], "nope": ["1"]}) == []


def test_a_filter_is_shown_with_its_own_settings_and_its_name() -> None:
    texts = {
        "padding": "4",
        "filter": [f"{END},padding=4", "local=192.0.2.1:1,handshake=:0,padding=random"],
    }
    config = build_config(texts)
    assert [show_filter(found, config.flow) for found in config.filters] == [
        END,
        "local=192.0.2.1:1,handshake=2:0,padding=random",
    ]
    found = Filter(Origin.REMOTE, IPv4Address("192.0.2.9"), 5, host="peer.example")
    assert show_filter(found) == "remote=192.0.2.9:5 (peer.example)"


def test_a_resolved_name_stands_once_in_the_texts_for_all_its_addresses() -> None:
    resolved = tuple(
        Filter(Origin.REMOTE, IPv4Address(address), 1, host="peer.example")
        for address in ("192.0.2.1", "192.0.2.2")
    )
    assert config_texts(InterfaceConfig(resolved))["filter"] == ["remote=peer.example:1"]


CLASHES = [
    ("remote=192.0.2.1:7", "remote=192.0.2.1:7,padding=1", "the same address and port"),
    ("remote=192.0.2.1:6000-6100", "remote=192.0.2.1:6050-6150", "share some ports"),
    ("remote=192.0.2.1:6000-6100", "remote=192.0.2.1:6000-6100", "share some ports"),
    ("local=192.0.2.0/24:any", "local=192.0.2.0/24:1-65535", "share some ports"),
    ("local=[2001:db8::/32]:1", "local=[2001:db8::]/32:1", "the same address and port"),
    ("remote=peer.example:5-9", "remote=peer.example:7-10", "share some ports"),
    ("local=0.0.0.0:5-9", "local=0.0.0.0:7-10", "share some ports"),
]


@pytest.mark.parametrize(("first", "second", "words"), CLASHES)
def test_filters_of_which_none_is_more_specific_are_refused(
    first: str, second: str, words: str
) -> None:
    problem, *more = check_texts({"filter": [first, "local=198.51.100.1:1", second]})
    assert more == []
    assert words in problem.message
    assert first.split(",", maxsplit=1)[0] in problem.message
    assert second in problem.message


@pytest.mark.parametrize(
    "second",
    [
        "remote=192.0.2.1:6050",
        "remote=192.0.2.1:6000-6099",
        "remote=192.0.2.1:any",
        "remote=192.0.2.1:6101-6200",
        "remote=192.0.2.0/24:6050-6150",
        "local=192.0.2.1:6050-6150",
        "remote=peer.example:6050-6150",
    ],
)
def test_filters_of_which_one_is_more_specific_stand_beside_each_other(second: str) -> None:
    assert check_texts({"filter": ["remote=192.0.2.1:6000-6100", second]}) == []


def test_a_clash_in_a_file_is_told_with_its_place() -> None:
    text = "filter = local=192.0.2.1:1-9\nfilter = local=192.0.2.1:5-19\n"
    with pytest.raises(InvalidConfigError) as caught:
        parse_config_text(text, "eth0.conf")
    (problem,) = caught.value.problems
    assert problem.where == "eth0.conf:2:10"
    assert "in line 1" in problem.message


@pytest.mark.parametrize("name", ["wg0", "wg-home", "a" * 15, "\u00fcber"])
def test_a_wireguard_interface_needs_no_filter_beside_it(name: str) -> None:
    config = build_config({"wireguard": name, "set_mtu": "yes"})
    assert (config.filters, config.wireguard, config.set_mtu) == ((), (name,), True)


@pytest.mark.parametrize("name", ["a" * 16, "a/b", "a b", "a:b", ".", "..", "a%d", "\u00fc" * 8])
def test_what_cannot_be_an_interface_is_refused(name: str) -> None:
    (problem,) = check_texts({"wireguard": [name]})
    assert "is not the name of an interface" in problem.message


def test_several_tunnels_of_file_and_command_line_add_up() -> None:
    in_file = parse_config_text("wireguard = wg0\nwireguard=wg1\n", "eth0.conf")
    merged = merge_texts(in_file, {"wireguard": ["wg2", "wg0"]})
    assert build_config(merged).wireguard == ("wg0", "wg1", "wg2")
    assert notes_on(in_file) == []


def test_a_filter_of_every_port_is_told_to_take_everything() -> None:
    in_file = parse_config_text("filter = local=192.0.2.1:any,padding=1\n", "eth0.conf")
    assert notes_on(in_file) == [
        'eth0.conf:1:10: filter "local=192.0.2.1:any,padding=1" takes all UDP and all TCP there,'
        " also DNS and SSH"
    ]
    assert notes_on({"filter": ["local=192.0.2.1:1-65534", "local=any"]}) == []
