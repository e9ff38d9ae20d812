# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.command_line: what the daemon is started for."""

from pathlib import Path

import pytest

from mimicd import __version__
from mimicd.command_line import RUN, SERVE, Invocation, parse_command_line
from mimicd.core.errors import EXIT_USAGE, InvalidConfigError, MimicError
from mimicd.core.options import Command, UsageError
from mimicd.core.settings import SETTINGS, build_config


def options_of(*argv: str) -> dict[str, object]:
    return dict(parse_command_line(["run", *argv]).options)


def test_without_arguments_it_serves_the_bus() -> None:
    assert parse_command_line([]) == Invocation()


def test_the_bus_and_how_much_is_logged_can_be_chosen() -> None:
    given = parse_command_line(["--address", "unix:path=/tmp/bus", "-vv", "--verbose", "-q"])
    assert given == Invocation(address="unix:path=/tmp/bus", verbosity=2)
    assert parse_command_line(["--address=x", "--quiet", "-qq"]).verbosity == -3


@pytest.mark.parametrize("flag", ["-?", "--help"])
def test_help_names_every_option_of_its_level(flag: str) -> None:
    commands: list[tuple[list[str], Command]] = [([flag], SERVE), (["run", "-p", "x", flag], RUN)]
    for argv, command in commands:
        text = parse_command_line(argv).text
        for option in command.options:
            assert f"{option.short}, {option.long}" in text or f"    {option.long}" in text
        assert max(map(len, text.splitlines())) < 80
    run_help = parse_command_line(["run", "eth0", flag]).text
    for row in SETTINGS:
        for setting_flag in row.flags:
            assert setting_flag.long in run_help


def test_usage_and_version() -> None:
    assert parse_command_line(["--usage"]).text == "Usage: mimicd [OPTION...]\n"
    assert parse_command_line(["run", "--usage"]).text == (
        "Usage: mimicd run [OPTION...] <interface>\n"
    )
    for argv in (["-V", "whatever"], ["--version"], ["run", "-V"], ["run", "eth0", "--version"]):
        assert parse_command_line(argv).text == f"mimicd {__version__}\n"


def test_check_only_checks(tmp_path: Path) -> None:
    file = tmp_path / "eth0.conf"
    file.write_text("filter = remote=203.0.113.5:1\n")
    given = parse_command_line(["run", "eth0", "--check", "-F", str(file)])
    assert (given.text, given.interface) == ("eth0: the settings are good\n", "")
    with pytest.raises(InvalidConfigError, match="no filter given"):
        parse_command_line(["run", "eth0", "--check"])


def test_what_has_no_effect_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "eth0.conf"
    file.write_text("filter = remote=203.0.113.5:1\nuse_libxdp = true\n")
    (note,) = parse_command_line(["run", "-F", str(file), "eth0"]).notes
    assert note.startswith(f"{file}:2:14: use_libxdp has no effect")


def test_run_takes_an_interface_and_every_option_short_or_long() -> None:
    short = (
        "-f remote=203.0.113.5:1 -f local=192.0.2.1:2 -L eth -x skb"
        " -h 1:2 -k 3:4:5:600 -p 6 -W eth0"
    )
    long = (
        "--filter remote=203.0.113.5:1 --filter=local=192.0.2.1:2 --link-type eth --xdp-mode=skb"
        " --handshake 1:2 --keepalive=3:4:5:600 --padding 6 --max-window eth0"
    )
    for words in (short.split(), long.split()):
        invocation = parse_command_line(["run", *words])
        assert invocation.interface == "eth0"
        options = dict(invocation.options)
        assert options["filter"] == ["remote=203.0.113.5:1", "local=192.0.2.1:2"]
        config = build_config(options)
        assert (config.link_type, config.xdp_mode) == ("eth", "skb")
        flow = config.flow
        assert (flow.handshake.interval_s, flow.handshake.retry) == (1, 2)
        assert (flow.keepalive.time_s, flow.keepalive.stale_s) == (3, 600)
        assert (flow.padding, flow.max_window) == (6, True)


def test_options_may_stand_behind_the_interface() -> None:
    invocation = parse_command_line(["run", "eth0", "-p", "3"])
    assert (invocation.interface, invocation.options) == ("eth0", {"padding": "3"})


@pytest.mark.parametrize(
    ("flags", "level"), [("-v", "debug"), ("-vv", "trace"), ("-q", "warn"), ("-qv", "info")]
)
def test_verbosity_counts_from_the_default(flags: str, level: str) -> None:
    assert options_of(flags, "eth0") == {"log.verbosity": level}


def test_flags_before_run_are_the_daemons() -> None:
    invocation = parse_command_line(["-v", "run", "-q", "eth0"])
    assert (invocation.verbosity, invocation.options) == (1, {"log.verbosity": "warn"})


def test_a_later_option_wins_and_filters_add_up() -> None:
    given = options_of("-p", "1", "-f", "remote=203.0.113.5:1", "-p", "2", "eth0")
    assert given == {"padding": "2", "filter": ["remote=203.0.113.5:1"]}


def test_a_file_comes_first_whatever_the_order(tmp_path: Path) -> None:
    file = tmp_path / "eth0.conf"
    file.write_text("filter = remote=203.0.113.5:1\npadding = 5\nhandshake = 7:8\n")
    for argv in (
        ["-F", str(file), "-p", "1", "-f", "local=192.0.2.1:2", "eth0"],
        ["-p", "1", "-f", "local=192.0.2.1:2", "eth0", "--file", str(file)],
    ):
        assert options_of(*argv) == {
            "filter": ["remote=203.0.113.5:1", "local=192.0.2.1:2"],
            "padding": "1",
            "handshake": "7:8",
        }


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["start"], "no command 'start'"),
        (["--addres"], "address"),
        (["-z"], "-z"),
        (["--nonsense"], "--nonsense"),
        (["--help=x"], "--help"),
        (["run"], "one interface"),
        (["run", "-p", "1"], "one interface"),
        (["run", "eth0", "eth1"], "one interface"),
        (["run", ""], "one interface"),
        (["run", "-z", "eth0"], "-z"),
        (["run", "-f"], "-f"),
        (["run", "--padding"], "--padding"),
        (["run", "--max-window=1", "eth0"], "--max-window"),
        (["run", "--address", "x", "eth0"], "--address"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_hint(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_command_line(argv)
    assert caught.value.hint
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    "argv",
    [["-p", "17"], ["-h", "x"], ["-f", "remote=nonsense"], ["-L", "ring"], ["-k", "1:2:3:4:5"]],
)
def test_a_wrong_value_is_refused(argv: list[str]) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        options_of(*argv, "eth0")
    assert caught.value.exit_code == EXIT_USAGE


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"padding = \xff\n")
    for path, words in (
        (tmp_path / "missing", "No such file"),
        (tmp_path, "Is a directory"),
        (binary, "not UTF-8"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            options_of("-F", str(path), "eth0")
        assert str(path) in str(caught.value)


def test_a_fault_in_a_file_names_its_place(tmp_path: Path) -> None:
    file = tmp_path / "eth0.conf"
    file.write_text("padding = 3\nno such thing\n")
    with pytest.raises(MimicError, match=rf"{file}:2"):
        options_of("-F", str(file), "eth0")
