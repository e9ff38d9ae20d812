# SPDX-License-Identifier: GPL-2.0-only
"""The benchmarks' command line, and other programs described by theirs."""

import pytest

from bench.arms import Arm, ArmError, other, ours, plain, values_for
from bench.options import Options, parse


def test_without_arguments_everything_is_measured_as_promised() -> None:
    options = parse([])
    assert options == Options()
    assert options.passes >= 5
    assert options.sizes == (64, 512, 1400)
    assert options.offload


def test_what_is_chosen_goes_before_what_quick_means() -> None:
    options = parse(["--quick", "--passes", "3", "--sizes", "100,200", "--family", "6,4"])
    assert (options.passes, options.sizes, options.families) == (3, (100, 200), (6, 4))
    assert options.seconds < Options().seconds
    assert set(options.figures) < set(Options().figures)


@pytest.mark.parametrize(
    "words",
    [
        ["--figures", "flod"],
        ["--figures", ""],
        ["--sizes", "31"],
        ["--sizes", "1461"],
        ["--sizes", "x"],
        ["--passes", "0"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--family", "5"],
        ["--topology", "ring"],
        ["--offload", "maybe"],
        ["--arm", "plain", "a", "b"],
        ["--arm", "x", "a {nothing}", "b"],
        ["--arm", "x", "a {}", "b"],
        ["--arm", "x", "a 'b", "b"],
        ["--mimicd", "-f {nothing}"],
        ["--arm", "x", "a", "b", "--relay", "x", "c", "d"],
    ],
)
def test_bad_arguments_end_with_exit_code_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_other_programs_come_from_their_command_lines() -> None:
    options = parse(["--arm", "x", "x -s {port}", "x -c {peer}", "--relay", "y", "", "y {lport}"])
    assert options.others == (
        Arm("x", "x -s {port}", "x -c {peer}"),
        Arm("y", "", "y {lport}", is_relay=True),
    )


def test_placeholders_are_filled_in_from_the_side_s_point_of_view() -> None:
    values = values_for("eth0", "2001:db8::1", "2001:db8::2", 6, "/tmp/x")
    arm = other("x", "run {dev} '{uaddress}:{port} {peer}'", "", is_relay=False)
    assert arm.command("server", values) == ["run", "eth0", "[2001:db8::1]:5300 2001:db8::2"]
    assert arm.command("client", values) == []


def test_values_are_never_split_into_words() -> None:
    values = values_for("eth0", "a", "b", 4, "/a folder/x")
    assert other("x", "run {folder}", "", False).command("server", values) == ["run", "/a folder/x"]


def test_programs_talk_to_a_relay_and_to_the_other_host_otherwise() -> None:
    relay = other("x", "", "", is_relay=True)
    assert relay.target("b", "lo") == ("lo", 5301)
    assert relay.listener("b", "lo") == ("lo", 5302)
    assert plain().target("b", "lo") == plain().listener("b", "lo") == ("b", 5300)


def test_the_project_runs_with_mirrored_filters() -> None:
    values = values_for("eth0", "192.0.2.1", "192.0.2.2", 4, "/x")
    client = ours("mimicd", "-x skb").command("client", values)
    assert " ".join(client) == "mimicd run -x skb -f remote=192.0.2.2:5300 eth0"
    assert "local=192.0.2.1:5300" in ours("mimicd").command("server", values)


@pytest.mark.parametrize("name", ["", "mimicd", "a b", "../x"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ArmError):
        other(name, "a", "b", is_relay=False)
