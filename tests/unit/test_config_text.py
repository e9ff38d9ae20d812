# SPDX-License-Identifier: GPL-2.0-only
"""Configuration files: what a line may look like, and every fault with its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicd.core.config_text import format_config_text, parse_config_text
from mimicd.core.errors import InvalidConfigError, Problem
from mimicd.core.settings import BY_KEY

ACCEPTED = [
    ("", {}),
    ("\n\n  \n\t\r\n", {}),
    ("# a comment\n   # another\n#", {}),
    ("padding=3", {"padding": ["3"]}),
    ("padding = 3\n", {"padding": ["3"]}),
    ("\t padding \t=\t 3 \t\n", {"padding": ["3"]}),
    ("padding = 3\r\nmax_window = true\r\n", {"padding": ["3"], "max_window": ["true"]}),
    ("\ufeffpadding = 3", {"padding": ["3"]}),
    ("handshake=:0     # give up at once", {"handshake": [":0"]}),
    ("handshake=:0\t#", {"handshake": [":0"]}),
    ("handshake = 5:\nhandshake = :1", {"handshake": ["5:", ":1"]}),
    ("log.verbosity = trace", {"log.verbosity": ["trace"]}),
    ("log.verbosity = 0", {"log.verbosity": ["0"]}),
    ("log.verbosity = 99", {"log.verbosity": ["99"]}),
    ("link_type = eth\nxdp_mode = skb", {"link_type": ["eth"], "xdp_mode": ["skb"]}),
    ("link_type = none\nxdp_mode = native", {"link_type": ["none"], "xdp_mode": ["native"]}),
    ("link_type = auto\nxdp_mode = auto", {"link_type": ["auto"], "xdp_mode": ["auto"]}),
    ("use_libxdp = false", {"use_libxdp": ["false"]}),
    ("keepalive = 15:::", {"keepalive": ["15:::"]}),
    (
        "filter = local=192.0.2.1:6789,handshake=5:0\nfilter=remote=[2001:db8::cafe]:5678",
        {"filter": ["local=192.0.2.1:6789,handshake=5:0", "remote=[2001:db8::cafe]:5678"]},
    ),
]

# line, column of its first fault, words of the message, words of the hint
REFUSED = [
    ("just words", 1, 'expected key = value, found "just words"', "key = value"),
    ("  filter", 3, 'found "filter"', ""),
    (" = 5", 2, "no key in front of =", ""),
    ("fitler = local=192.0.2.1:1", 1, 'unknown key "fitler"', "did you mean filter?"),
    ("  verbosity = 3", 3, 'unknown key "verbosity"', "did you mean log.verbosity?"),
    ("link-type = eth", 1, 'unknown key "link-type"', "did you mean link_type?"),
    ("Padding = 1", 1, 'unknown key "Padding"', "did you mean padding?"),
    ("xdp = skb", 1, 'unknown key "xdp"', "did you mean xdp_mode?"),
    ("wombat = 1", 1, 'unknown key "wombat"', "known keys: filter, log.verbosity,"),
    ("file = other.conf", 1, 'unknown key "file"', ""),
    ("k" * 5000 + " = 1", 1, "unknown key", "known keys"),
    ("padding =", 10, "padding has no value", "expected BYTES"),
    ("padding = # 3", 10, "padding has no value", ""),
    ("padding = 3#", 11, '"3#" is neither', ""),
    ("padding = 3 4", 11, '"3 4" is neither', ""),
    ("log.verbosity = trcae", 17, '"trcae" is not a log level', "did you mean trace?"),
    ("log.verbosity = -1", 17, "expected a number from 0 to 4 or error, warn, info,", ""),
    ("link_type = ppp", 13, '"ppp" is unknown, expected auto, eth or none', ""),
    ("xdp_mode = nativ", 12, "expected auto, skb, native or none", "did you mean native?"),
    ("xdp_mode = drv", 12, '"drv" is unknown', ""),
    ("max_window = maybe", 14, '"maybe" is neither true nor false', ""),
    ("use_libxdp = 2", 14, '"2" is neither true nor false', ""),
    ("handshake = 2", 13, "1 of the 2 parts", ""),
    ("handshake =  2: x", 17, 'retry "x"', ""),
    ("keepalive = 1:2:3:99999", 19, 'stale "99999" is not a number from 0 to 32767', ""),
    ("filter = remote=0.0.0.0:1", 17, "no peer's address", "local=0.0.0.0:1"),
    ("filter = local=192.0.2.1:1, padding = 17", 39, '"17" is neither', ""),
    ("filter = local=192.0.2.1:0", 26, 'filter "local=192.0.2.1:0": port "0"', ""),
]


@pytest.mark.parametrize(("text", "found"), ACCEPTED)
def test_a_file_is_read(text: str, found: dict[str, list[str]]) -> None:
    assert parse_config_text(text, "eth0.conf") == found


@pytest.mark.parametrize(("line", "column", "words", "hint"), REFUSED)
def test_a_bad_line_is_refused_with_file_line_and_column(
    line: str, column: int, words: str, hint: str
) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config_text(f"# first\n\n{line}\r\n", "/etc/mimic/eth0.conf")
    problem, *more = caught.value.problems
    assert more == []
    assert problem.where == f"/etc/mimic/eth0.conf:3:{column}"
    assert words in problem.message
    assert hint in problem.hint
    assert str(caught.value) == f"/etc/mimic/eth0.conf:3:{column}: {problem.message}"
    assert caught.value.hint == problem.hint


def test_every_fault_of_a_file_is_told_in_the_order_of_its_lines() -> None:
    lines = [line for line, _, _, _ in REFUSED]
    with pytest.raises(InvalidConfigError) as caught:
        parse_config_text("\n".join(lines), "a.conf")
    told = [(problem.line, problem.column) for problem in caught.value.problems]
    assert told == [(n, column) for n, (_, column, _, _) in enumerate(REFUSED, 1)]
    assert len(str(caught.value).split("\n")) == len(REFUSED)


def test_a_text_knows_its_line_and_column() -> None:
    found = parse_config_text("# x\n\n  filter \t=  local=192.0.2.1:1  # y\n", "a.conf")
    (text,) = found["filter"]
    assert (text, text.name, text.line, text.column) == ("local=192.0.2.1:1", "a.conf", 3, 14)


@pytest.mark.parametrize(
    "second",
    [
        "remote=203.0.113.5:51820",
        "remote=203.0.113.5:51820,padding=3",
        "remote=[::ffff:203.0.113.5]:51820",
    ],
)
def test_a_second_filter_on_the_same_end_is_refused_and_the_first_one_named(second: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config_text(f"\nfilter=remote=203.0.113.5:51820\nfilter={second}\n", "a.conf")
    assert str(caught.value) == (
        f'a.conf:3:8: filter "{second}" has the same address and port as'
        ' "remote=203.0.113.5:51820" in line 2'
    )
    assert caught.value.hint == "keep one of them"


def test_the_same_name_in_another_case_is_the_same_end() -> None:
    with pytest.raises(InvalidConfigError, match="same address and port"):
        parse_config_text("filter=remote=a.example:1\nfilter=remote=A.Example:1", "a.conf")


def test_filters_that_differ_in_origin_address_or_port_stand_together() -> None:
    ends = ["local=192.0.2.1:1", "remote=192.0.2.1:1", "local=192.0.2.2:1", "local=192.0.2.1:2"]
    text = "".join(f"filter={end}\n" for end in ends)
    assert parse_config_text(text, "a.conf")["filter"] == ends


def test_only_a_newline_ends_a_line() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config_text("padding = 3\x0c\u2028max_window = 1\nnonsense", "a.conf")
    assert [problem.line for problem in caught.value.problems] == [1, 2]


def test_a_hostile_line_cannot_write_to_a_terminal() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config_text("\x1b]0;owned\x07 = 1\nfilter = remote=\x1b[2J:1", "a.conf")
    assert str(caught.value).replace("\n", "").isprintable()


@given(st.text())
def test_any_text_is_either_read_or_refused_with_places_inside_it(text: str) -> None:
    _read_or_refuse(text)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*BY_KEY, "filtre", "#", ""]),
            st.sampled_from(["=", " = ", " ", " # "]),
            st.text("local=remt[]:,.0123456789random #", max_size=30),
        ).map("".join)
    ).map("\n".join)
)
def test_any_text_of_a_files_words_is_either_read_or_refused(text: str) -> None:
    _read_or_refuse(text)


def _read_or_refuse(text: str) -> None:
    lines = text.split("\n")
    problems = _problems_of(text)
    for problem in problems:
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
    if not problems:
        found = parse_config_text(text, "a.conf")
        assert parse_config_text(format_config_text(found), "b.conf") == found


def _problems_of(text: str) -> tuple[Problem, ...]:
    try:
        parse_config_text(text, "a.conf")
    except InvalidConfigError as exc:
        return exc.problems
    return ()
