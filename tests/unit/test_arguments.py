# SPDX-License-Identifier: GPL-2.0-only
"""The command line of mimicctl, accepted and refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicctl.arguments import (
    COMMANDS,
    WHOLE,
    Answer,
    Request,
    help_text,
    parse_arguments,
)
from mimicd import __version__
from mimicd.core.options import Command, UsageError
from mimicd.core.settings import SETTINGS, merge_texts

F4 = "remote=203.0.113.5:51820"
PADDED = F4 + ",padding=3"
F6 = "local=[2001:db8::1]:51820"


def accepted(*argv: str) -> Request:
    request = parse_arguments(argv)
    assert isinstance(request, Request)
    return request


def answered(*argv: str) -> str:
    answer = parse_arguments(argv)
    assert isinstance(answer, Answer)
    return answer.text


@pytest.mark.parametrize(
    ("argv", "texts"),
    [
        (["-f", F4], {"filter": [F4]}),
        (["-f" + F4, "--filter", F6, f"--filter={PADDED}"], {"filter": [F4, F6, PADDED]}),
        (["-h", "1:2"], {"handshake": ["1:2"]}),
        (["-h:0"], {"handshake": [":0"]}),
        (["--handshake=1:2"], {"handshake": ["1:2"]}),
        (["-k", "60:::"], {"keepalive": ["60:::"]}),
        (["-p", "random"], {"padding": ["random"]}),
        (["-p7"], {"padding": ["7"]}),
        (["-L", "none", "-x", "skb"], {"link_type": ["none"], "xdp_mode": ["skb"]}),
        (["--link-type=eth", "--xdp", "skb"], {"link_type": ["eth"], "xdp_mode": ["skb"]}),
        (["-W"], {"max_window": ["true"]}),
        (["--max-window"], {"max_window": ["true"]}),
        (["-vv", "-q"], {"log.verbosity": ["more", "more", "less"]}),
        (["--verbose", "--quiet"], {"log.verbosity": ["more", "less"]}),
        (["-vWp", "3"], {"log.verbosity": ["more"], "max_window": ["true"], "padding": ["3"]}),
        (["--handsh", "1:2", "--pad=4"], {"handshake": ["1:2"], "padding": ["4"]}),
        (["-p", "1", "-p", "2"], {"padding": ["1", "2"]}),
        ([], {}),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "reload"])
def test_settings_are_accepted_before_and_after_the_interface(
    argv: list[str], texts: dict[str, list[str]], command: str
) -> None:
    for request in (accepted(command, *argv, "eth0"), accepted(command, "eth0", *argv)):
        assert request == Request(command, "eth0", texts=texts)


@pytest.mark.parametrize(
    ("argv", "request_"),
    [
        (["run", "eth0", "-F", "a.conf"], Request("run", "eth0", file="a.conf")),
        (["run", "eth0", "--detach"], Request("run", "eth0", switches=frozenset(["detach"]))),
        (["run", "--check", "eth0"], Request("run", "eth0", switches=frozenset(["check"]))),
        (["run", "--", "-odd-"], Request("run", "-odd-")),
        (["show"], Request("show")),
        (["show", "eth0"], Request("show", "eth0")),
        (["show", "-c", "eth0"], Request("show", "eth0", switches=frozenset(["connections"]))),
        (["show", "-pc"], Request("show", switches=frozenset(["connections", "process"]))),
        (["show", "eth0", "--json"], Request("show", "eth0", switches=frozenset(["json"]))),
        (["list"], Request("list")),
        (["list", "--json"], Request("list", switches=frozenset(["json"]))),
        (["stop", "eth0"], Request("stop", "eth0")),
        (["reload"], Request("reload")),
        (["check"], Request("check")),
        (["check", "eth0"], Request("check", "eth0")),
        (["check", "-F", "a.conf"], Request("check", file="a.conf")),
        (["check", "-p", "3", "-F", "a.conf"],
         Request("check", texts={"padding": ["3"]}, file="a.conf")),
        (["log", "debug"], Request("log", level="debug")),
        (["log", "3", "eth0"], Request("log", "eth0", level="3")),
        (["monitor"], Request("monitor")),
        (["monitor", "eth0"], Request("monitor", "eth0")),
        (["--address", "unix:path=/b", "list"], Request("list", address="unix:path=/b")),
        (["list", "--address=unix:path=/b"], Request("list", address="unix:path=/b")),
        (["--address=a", "list", "--address=b"], Request("list", address="b")),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)  # fmt: skip
def test_commands_are_read(argv: list[str], request_: Request) -> None:
    assert parse_arguments(argv) == request_


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        ([], "no command given", "commands: run, show, stop, list, "),
        (["fly"], "there is no command 'fly'", "commands: run, "),
        (["--fly"], "option --fly not recognized", "mimicctl --help lists"),
        (["-h"], "option -h not recognized", "mimicctl --help lists"),
        (["run"], "run needs an interface", "Usage: mimicctl run [OPTION...] <interface>"),
        (["run", ""], "the interface has an empty name", "Usage: "),
        (["run", "eth0", "eth1"], "run does not know what to do with 'eth1'", "Usage: "),
        (["run", "-h"], "option -h requires argument", "mimicctl run --help lists"),
        (["run", "-Z", "eth0"], "option -Z not recognized", "mimicctl run --help lists"),
        (["run", "--h=1", "eth0"], "option --h not a unique prefix", ""),
        (["run", "--detach=yes", "eth0"], "option --detach must not have an argument", ""),
        (["run", "--json", "eth0"], "option --json not recognized", ""),
        (["show", "-f", F4], "option -f not recognized", "mimicctl show --help lists"),
        (["list", "eth0"], "list does not know what to do with 'eth0'", "Usage: mimicctl list"),
        (["stop"], "stop needs an interface", "Usage: mimicctl stop"),
        (["log"], "log needs a level", "Usage: mimicctl log [OPTION...] <level> [<interface>]"),
        (["log", "info", ""], "the interface has an empty name", "Usage: "),
        (["log", "info", "eth0", "eth1"], "log does not know what to do with 'eth1'", "Usage: "),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_what_makes_no_sense_is_refused_with_a_hint(
    argv: list[str], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_arguments(argv)
    assert str(caught.value) == message
    assert caught.value.hint.startswith(hint)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("command", [WHOLE, *COMMANDS], ids=lambda one: one.name or "top")
def test_help_usage_and_version_are_there_at_every_level(command: Command) -> None:
    before = [command.name] if command.name else []
    for flag in ("-?", "--help"):
        assert answered(*before, flag) == help_text(command)
    for flag in ("-V", "--version"):
        assert answered(*before, flag) == f"mimicctl {__version__}\n"
    usage = answered(*before, "--usage")
    assert usage.startswith("Usage: mimicctl")
    assert usage.count("\n") == 1


def test_help_wins_over_a_missing_interface() -> None:
    assert answered("run", "-v", "-?").startswith("Usage: mimicctl run")


def test_the_help_of_run_tells_every_flag_of_every_setting_in_80_columns() -> None:
    (run,) = (command for command in COMMANDS if command.name == "run")
    text = help_text(run)
    for row in SETTINGS:
        for flag in row.flags:
            assert (f"  {flag.short}, " if flag.short else " " * 6) + flag.long in text
    for command in (WHOLE, *COMMANDS):
        assert max(map(len, help_text(command).splitlines())) < 80


def test_no_two_options_of_a_command_share_a_name() -> None:
    for command in COMMANDS:
        names = [one.long for one in command.options]
        names += [one.short for one in command.options if one.short]
        assert len(names) == len(set(names))


def test_the_texts_of_the_command_line_are_what_the_settings_merge() -> None:
    request = accepted("run", "-vv", "-f", F4, "-W", "-h", "5:", "eth0")
    assert merge_texts({"handshake": "1:9", "log.verbosity": "warn"}, request.texts) == {
        "filter": [F4],
        "log.verbosity": "debug",
        "max_window": "true",
        "handshake": "5:9",
    }


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_command_line_is_read_or_refused(argv: list[str]) -> None:
    with contextlib.suppress(UsageError):
        assert isinstance(parse_arguments(argv), Request | Answer)
