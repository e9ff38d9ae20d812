# SPDX-License-Identifier: GPL-2.0-only
"""The two command lines and the file say the same with the same words, and nothing confuses them.

What is accepted and refused word by word stands in test_arguments, test_command_line,
test_config_text and test_filter_text; here the forms are compared, and mangled.
"""

import ast
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicctl.arguments import COMMANDS, Request, parse_arguments
from mimicd.command_line import Invocation, parse_command_line
from mimicd.core.config_text import format_config_text, parse_config_text
from mimicd.core.errors import EXIT_USAGE, MimicError
from mimicd.core.options import SETTING_OPTIONS, Option
from mimicd.core.settings import BY_KEY, build_config, merge_texts, parse_filter

ROOT = Path(__file__).resolve().parents[2]

FAST_RUNS, LONG_RUNS = 1_500, 100_000
SLOWEST_S = 5.0
"""Of processor time. A text takes milliseconds; what is exponential takes for ever."""

VALUES = {
    "filter": ["local=192.0.2.1:1", "remote=[2001:db8::1]:51820,padding=3", "remote=a.example:7"],
    "log.verbosity": ["trace", "0"],
    "link_type": ["eth", "none"],
    "xdp_mode": ["skb", "native"],
    "use_libxdp": ["true"],
    "handshake": ["5:0", ":1", "0:"],
    "keepalive": ["60:::", "1:2:3:4", ":::0"],
    "padding": ["random", "16"],
    "max_window": ["true"],
}
"""Good texts of the settings that mimic(1) has."""

settings = st.lists(
    st.sampled_from([option for option in SETTING_OPTIONS if option.key in VALUES]).flatmap(
        lambda option: st.tuples(
            st.just(option), st.sampled_from([option.text] if option.text else VALUES[option.key])
        )
    ),
    max_size=8,
    unique_by=lambda pair: (pair[0].long, pair[1]),
)
spellings = st.sampled_from(["short", "joined", "long", "long joined"])


def spelt(option: Option, text: str, spelling: str) -> list[str]:
    if option.text:
        return [option.short if "short" in spelling else option.long]
    match spelling:
        case "short":
            return [option.short, text]
        case "joined":
            return [option.short + text]
        case "long":
            return [option.long, text]
        case _:
            return [f"{option.long}={text}"]


@given(settings, st.data())
def test_both_programs_read_the_same_options_alike_wherever_they_stand(
    pairs: list[tuple[Option, str]], data: st.DataObject
) -> None:
    words = [spelt(option, text, data.draw(spellings)) for option, text in pairs]
    at = data.draw(st.integers(0, len(words)))
    before, after = itertools.chain(*words[:at]), itertools.chain(*words[at:])
    argv = ["run", *before, "eth0", *after]
    request, invocation = parse_arguments(argv), parse_command_line(argv)
    assert isinstance(request, Request)
    assert (request.interface, invocation.interface) == ("eth0", "eth0")
    assert merge_texts({}, request.texts) == invocation.options


@given(settings)
def test_a_file_with_the_same_texts_means_the_same(pairs: list[tuple[Option, str]]) -> None:
    given_texts: dict[str, list[str]] = {}
    for option, text in pairs:
        # -v and -q are steps, which a file has no use for
        if option.key != "log.verbosity":
            given_texts.setdefault(option.key, []).append(text)
    texts = merge_texts({}, given_texts)
    in_file = parse_config_text(format_config_text(given_texts), "eth0.conf")
    assert merge_texts(in_file, {}) == texts


def test_every_key_of_mimic_has_texts_here_and_all_are_good() -> None:
    assert VALUES.keys() <= BY_KEY.keys()
    for key, given_texts in VALUES.items():
        for text in given_texts:
            build_config({"filter": ["local=192.0.2.9:9"], key: [text]})


def test_no_setting_is_named_outside_the_table() -> None:
    """File keys, flags, bus options, help, completions and manual pages all walk SETTINGS."""
    own_words = {"filter", "wireguard"}  # words of the programs too
    keys = BY_KEY.keys() - own_words
    # What became of these two is shown apart from the settings.
    allowed = {("mimicctl/table.py", "link_type"), ("mimicctl/table.py", "xdp_mode")}
    named = {
        (str(path.relative_to(ROOT)), node.value)
        for package in ("mimicd", "mimicctl", "man", "completions")
        for path in (ROOT / package).rglob("*.py")
        if not path.is_relative_to(ROOT / "mimicd" / "core")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in keys
    }
    assert named == allowed


def test_a_key_of_the_table_is_an_option_of_the_bus_and_nothing_else_is() -> None:
    texts = {key: VALUES[key][0] for key in VALUES if key != "filter"}
    build_config({"filter": VALUES["filter"], **texts})
    for option in ("file", "no-such-option", "log_verbosity"):
        with pytest.raises(MimicError, match="unknown key"):
            build_config({"filter": VALUES["filter"], option: "1"})


# --- mangled ---

SEEDS = [
    "run -f remote=203.0.113.5:51820,padding=random,handshake=:0 -k 60::: -vvq -W eth0",
    "run eth0 --filter=local=[2001:db8::1]:51820 --keepalive 1:2:3:4 -L none -x skb -F /dev/null",
    "show -cp --json eth0",
    "log trace eth0",
    "check -F /dev/null -p 3",
    "# comment\nlog.verbosity = trace\nfilter = local=192.0.2.1:6789,handshake=5:0\npadding=3\r\n",
    "filter=remote=vpn.example.net:51820,keepalive=60:::,max_window=true\nuse_libxdp = 1\n",
]
PIECES = [
    *("=", ":", ",", "[", "]", "#", "\n", "\r", "\0", " ", "\t", "\ufeff", "\u2028", "\ud800"),
    *("%", "-", "--", "/", "0", "65536", "-1", "٣", "1e9", "::", "ffff", "\x1b[2J", "é", "_", "."),
    *("local=", "remote=", "padding", "filter", "handshake=", "random", "any", "*", "\\", "'"),
]


def mangled(rng: random.Random) -> str:
    text = rng.choice(SEEDS)
    for _ in range(rng.randrange(1, 6)):
        at, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        match rng.randrange(4):
            case 0:
                text = text[:at] + rng.choice(PIECES) + text[at:]
            case 1:
                text = text[:at] + text[min(end, at + 5) :]
            case 2:
                text = text[:at] + text[at:end] * rng.choice((2, 3, 40)) + text[end:]
                text = text[:20_000]
            case _:
                text = text[:at] + rng.choice(SEEDS)[at:]
    return text


def read_as_file(text: str) -> None:
    build_config(parse_config_text(text, "a.conf"))


def read_as_filter(text: str) -> None:
    parse_filter(text)


def read_by_client(text: str) -> None:
    parse_arguments(text.split(" "))


def read_by_daemon(text: str) -> None:
    # it opens the file after -F, which may be anything
    words = [word for word in text.split(" ") if "F" not in word and "file" not in word]
    assert isinstance(parse_command_line(words), Invocation)


def refused(read: Callable[[str], None], text: str) -> MimicError | None:
    """Any other exception is a fault, and passes through."""
    try:
        read(text)
    except MimicError as exc:
        return exc
    return None


@pytest.mark.parametrize("read", [read_as_file, read_as_filter, read_by_client, read_by_daemon])
@pytest.mark.parametrize(
    "runs", [FAST_RUNS, pytest.param(LONG_RUNS, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_mangled_text_is_read_or_refused_in_plain_words(
    read: Callable[[str], None], runs: int
) -> None:
    for seed in range(runs):
        text = mangled(random.Random(seed))
        begin_s = time.process_time()
        refusal = refused(read, text)
        if refusal is not None:
            words = f"{refusal} {refusal.hint}".replace("\n", "")
            assert words.isprintable(), (seed, words)
            assert refusal.exit_code == EXIT_USAGE
        took_s = time.process_time() - begin_s
        assert took_s < SLOWEST_S, (seed, took_s)


def test_every_command_refuses_an_option_it_does_not_have() -> None:
    for command in COMMANDS:
        with pytest.raises(MimicError, match="--no-such-option not recognized"):
            parse_arguments([command.name, "--no-such-option"])
