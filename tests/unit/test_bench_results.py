# SPDX-License-Identifier: GPL-2.0-only
"""The benchmarks' arithmetic and text: medians, ratios within passes, targets, table."""

import pytest

from bench.metrics import label, number
from bench.samples import Samples, Summary, summary
from bench.table import aligned, target_table, text_table
from bench.targets import TARGETS, verdicts


def two_arms(*passes: tuple[float, float], metric: str = "flood.1400.pps") -> Samples:
    """Passes of (plain, mimicd)."""
    samples = Samples()
    for plain, ours in passes:
        samples.begin_pass(["plain", "mimicd"])
        samples.add("plain", {metric: plain})
        samples.add("mimicd", {metric: ours})
    return samples


def test_a_summary_is_the_median_with_its_spread() -> None:
    assert summary([3.0, 1.0, 2.0]) == Summary(2.0, 1.0, 3.0, 3)
    assert summary([1.0, 2.0]) == Summary(1.5, 1.0, 2.0, 2)
    assert summary([]) is None


def test_a_ratio_is_formed_within_each_pass() -> None:
    # The machine was twice as fast in the second pass: the ratio is that of both passes.
    samples = two_arms((100.0, 80.0), (200.0, 160.0))
    assert samples.ratio("mimicd", "plain", "flood.1400.pps") == Summary(0.8, 0.8, 0.8, 2)


def test_a_pass_without_the_metric_or_with_a_zero_base_gives_no_ratio() -> None:
    samples = two_arms((0.0, 80.0))
    samples.begin_pass(["plain", "mimicd"])
    samples.add("mimicd", {"flood.1400.pps": 1.0})
    assert samples.ratio("mimicd", "plain", "flood.1400.pps") is None
    assert samples.of("plain", "flood.1400.pps") == Summary(0.0, 0.0, 0.0, 1)
    assert samples.of("nobody", "flood.1400.pps") is None


def test_metrics_and_arms_stay_in_the_order_of_measuring() -> None:
    samples = two_arms((1.0, 1.0))
    samples.add("mimicd", {"bpf.64.packet_ns": 1.0, "flood.1400.pps": 2.0})
    assert samples.arms() == ["plain", "mimicd"]
    assert samples.metrics() == ["flood.1400.pps", "bpf.64.packet_ns"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.metric)
def test_a_target_is_met_at_its_bound_and_missed_beyond(target: object) -> None:
    (which,) = (one for one in TARGETS if one is target)
    base = 10.0 if which.is_ratio else 1.0
    step = -0.01 if which.is_at_least else 0.01
    for beyond, met in ((0.0, True), (step, False), (-step, True)):
        samples = two_arms((base, (which.bound + beyond) * base), metric=which.metric)
        (verdict,) = verdicts(samples, "mimicd", "plain")
        assert verdict.target is which
        assert verdict.value == pytest.approx(which.bound + beyond)
        if beyond:
            assert verdict.is_met is met


def test_no_target_is_judged_that_was_not_measured() -> None:
    assert verdicts(two_arms((1.0, 1.0), metric="flood.512.pps"), "mimicd", "plain") == []


def test_the_table_has_medians_spreads_and_ratios() -> None:
    samples = two_arms((200_000.0, 150_000.0), (100_000.0, 80_000.0))
    samples.add("mimicd", {"memory.mb": 34.2})
    lines = text_table(samples, "plain").splitlines()
    assert lines[0].split() == ["plain", "mimicd", "/", "plain"]
    assert lines[2].split() == [
        *("flood,", "1400", "bytes", "packets/s", "150000", "[100000..200000]"),
        *("115000", "[80000..150000]", "0.775", "[0.750..0.800]"),
    ]
    assert lines[4].split() == ["memory", "MB", "-", "34.20", "-"]


def test_the_targets_say_met_or_missed() -> None:
    samples = two_arms((100.0, 70.0))
    samples.add("plain", {"cold.first_ms": 0.1})
    samples.add("mimicd", {"cold.first_ms": 0.4})
    lines = target_table(verdicts(samples, "mimicd", "plain")).splitlines()
    assert " ".join(lines[0].split()) == "MISSED flood, 1400 bytes 0.700 >= 0.75 of plain UDP"
    assert lines[1].split()[0] == "met"


def test_columns_are_aligned_and_lines_do_not_trail() -> None:
    assert aligned([["a", "bb"], [], ["ccc", "d", "e"]]) == "a    bb\n\nccc  d   e\n"
    assert aligned([]) == ""


@pytest.mark.parametrize(
    ("metric", "text", "unit"),
    [
        ("flood.1400.pps", "flood, 1400 bytes", "packets/s"),
        ("flood.64.cpu_us", "flood, 64 bytes, CPU a packet", "µs"),
        ("rtt.p99_us", "round trip, 99th percentile", "µs"),
        ("bpf.1400.sender-egress_ns", "BPF, 1400 bytes, sender egress", "ns"),
        ("memory.mb", "memory", "MB"),
        ("rtt.lost", "round trip, lost", ""),
    ],
)
def test_metrics_have_words_and_units(metric: str, text: str, unit: str) -> None:
    shown = label(metric)
    assert (shown.text, shown.unit) == (text, unit)


@pytest.mark.parametrize(
    ("value", "text"),
    [(152_314.4, "152314"), (98.26, "98.26"), (984.26, "984.3"), (0.3524, "0.352"), (0, "0.00")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text
