# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaminari.address import Address, parse_address
from kaminari.errors import UsageError
from kaminari.options import (
    TABLE,
    MaskMode,
    Options,
    Role,
    TlsOptions,
    WebSocketOptions,
    escape_value,
    parse_options,
)

VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)


def parse(text: str, role: Role = Role.CLIENT) -> Options:
    options, warnings = parse_options(text, role)
    assert warnings == []
    return options


def test_an_empty_string_means_plain_tcp() -> None:
    options = parse("")
    assert options == Options(Role.CLIENT)
    assert options.layers == "tcp"


def test_layers_nest_in_one_order_however_they_are_written() -> None:
    options = parse("tls;sni=a.example;uot;host=b.example;path=/c;ws")
    assert options.layers == "uot in ws in tls in tcp"
    assert options.ws == WebSocketOptions("b.example", "/c")
    assert options.tls == TlsOptions(sni="a.example")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/a?x=1", "/a?x=1"),
        ("/a?x\\=1", "/a?x=1"),
        ("/a\\;b", "/a;b"),
        ("/a\\\\b", "/a\\b"),
        ("/a\\b", "/ab"),
        ("/==", "/=="),
    ],
)
def test_a_value_keeps_what_is_escaped_and_every_further_equals_sign(text: str, path: str) -> None:
    options = parse(f"ws;host=h;path={text}")
    assert options.ws is not None
    assert options.ws.path == path


@given(VISIBLE, VISIBLE)
def test_whatever_is_escaped_comes_back_unchanged(host: str, path: str) -> None:
    options = parse(f"ws;host={escape_value(host)};path=/{escape_value(path)};tls;sni=x")
    assert options.ws == WebSocketOptions(host, "/" + path)


@given(st.text())
def test_any_text_is_read_or_refused_with_one_sentence(text: str) -> None:
    for role in Role:
        message = refusal(text, role)
        assert message is None or message.strip()


def refusal(text: str, role: Role) -> str | None:
    try:
        parse_options(text, role)
    except UsageError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("mask", "mode"),
    [
        ("skip", MaskMode.SKIP),
        ("skipped", MaskMode.SKIP),
        ("fixed", MaskMode.FIXED),
        ("standard", MaskMode.STANDARD),
        ("anything", MaskMode.SKIP),
        ("", MaskMode.SKIP),
    ],
)
def test_an_unknown_mask_means_skip(mask: str, mode: MaskMode) -> None:
    options, _ = parse_options(f"ws;host=h;path=/;mask={mask}", Role.CLIENT)
    assert options.ws is not None
    assert options.ws.mask is mode


@pytest.mark.parametrize(
    ("role", "text", "words"),
    [
        (Role.CLIENT, "ws;path=/", "option 'ws' needs 'host'"),
        (Role.CLIENT, "ws;host=h", "option 'ws' needs 'path'"),
        (Role.CLIENT, "ws;host=h;path=", "option 'ws' needs 'path'"),
        (Role.CLIENT, "ws;host=h;path=x", "a path starts with /"),
        (Role.CLIENT, "ws;host=h;path=/a b", "percent-encode"),
        (Role.CLIENT, "ws;host=a\r\nb:c;path=/", "percent-encode"),
        (Role.CLIENT, "tls", "option 'tls' needs 'sni'"),
        (Role.SERVER, "tls", "needs a certificate"),
        (Role.SERVER, "tls;cert=a", "'cert' is given without 'key'"),
        (Role.SERVER, "tls;key=a", "'key' is given without 'cert'"),
        (Role.CLIENT, "host", "option 'host' has no value"),
        (Role.CLIENT, "ws=1", "option 'ws' takes no value"),
        (Role.CLIENT, "uot;uot", "option 'uot' is given twice"),
        (Role.CLIENT, "a=b\\", "lone backslash"),
        (Role.CLIENT, "idle-timeout=x", "a number of seconds"),
        (Role.CLIENT, "idle-timeout=nan", "a number of seconds"),
        (Role.CLIENT, "connect-timeout=0", "a number of seconds"),
        (Role.CLIENT, "max-connections=0", "a number from 1"),
        (Role.CLIENT, "log=loud", "error, warning, info, debug"),
        (Role.SERVER, "ws;host=h;path=/;fallback=web", "has no port"),
    ],
)
def test_what_cannot_work_is_refused_in_words(role: Role, text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_options(text, role)
    assert words in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("role", "text", "words"),
    [
        (Role.CLIENT, "wsx", "option 'wsx' is unknown"),
        (Role.CLIENT, "ho=a", "option 'ho' is unknown"),
        (Role.CLIENT, "cert=a", "no effect on the client"),
        (Role.SERVER, "insecure", "no effect on the server"),
        (Role.CLIENT, "host=a", "no effect without 'ws'"),
        (Role.CLIENT, "0rtt", "no effect without 'tls'"),
        (Role.CLIENT, "ws;host=h;path=/;mask=x", "which means skip"),
        (Role.SERVER, "tls;cert=a;key=b;servername=c", "no effect beside cert and key"),
    ],
)
def test_what_has_no_effect_is_named_in_a_warning(role: Role, text: str, words: str) -> None:
    _, warnings = parse_options(text, role)
    assert any(words in warning for warning in warnings)


def test_a_certificate_and_key_win_over_a_server_name() -> None:
    options, _ = parse_options("tls;cert=a;key=b;servername=c", Role.SERVER)
    assert options.tls == TlsOptions(cert="a", key="b")


def test_datagrams_have_an_idle_timeout_of_a_minute_and_streams_none() -> None:
    assert parse("uot").limits.idle_timeout_s == 60
    assert parse("uot;idle-timeout=5").limits.idle_timeout_s == 5
    assert parse("").limits.idle_timeout_s == 0


def test_the_table_names_each_option_once() -> None:
    keys = [row.key for row in TABLE]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("text", "address", "written"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80), "127.0.0.1:80"),
        ("a.example:443", Address("a.example", 443), "a.example:443"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("2001:db8::1:80", Address("2001:db8::1", 80), "[2001:db8::1]:80"),
    ],
)
def test_addresses_are_read_bracketed_or_bare(text: str, address: Address, written: str) -> None:
    assert parse_address(text, "it") == address
    assert str(address) == written


@pytest.mark.parametrize(
    "text",
    ["", "80", "a", "a:", "a:0", "a:65536", "a:x", ":80", "[a]:80", "[::1]", "a b:1", "::g:1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="it"):
        parse_address(text, "it")
