# SPDX-License-Identifier: GPL-2.0-only
"""The benchmarks' plots: well-formed, with every value at its place."""

import xml.etree.ElementTree as ElementTree

import pytest

from bench.plots import plots
from bench.samples import Samples, Summary
from bench.svg import HEIGHT, WIDTH, bars, lines, round_up

SVG = "{http://www.w3.org/2000/svg}"


def elements(picture: str, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(picture).iter(f"{SVG}{name}"))


def words(picture: str) -> list[str]:
    return [element.text or "" for element in elements(picture, "text")]


def test_bars_are_as_high_as_their_medians() -> None:
    picture = bars(
        "a < b",
        "µs",
        [("64", {"x": Summary(50, 40, 60, 3), "y": Summary(25, 25, 25, 3)})],
    )
    # the background, two of the legend, two bars
    _, _, _, first, second = elements(picture, "rect")
    assert float(first.attrib["height"]) == pytest.approx(2 * float(second.attrib["height"]), abs=1)
    assert float(first.attrib["x"]) < float(second.attrib["x"])
    assert {"a < b", "µs", "64", "x", "y", "100"} <= set(words(picture))


def test_a_series_without_a_value_has_no_bar() -> None:
    value = Summary(1, 1, 1, 1)
    picture = bars("t", "", [("1", {"x": value, "y": value}), ("2", {"y": value})])
    assert len(elements(picture, "rect")) == 1 + 2 + 3


def test_lines_stand_over_a_logarithmic_axis() -> None:
    value = Summary(1, 1, 1, 1)
    picture = lines("t", "", [(1, {"x": value}), (100, {"x": value}), (10_000, {"x": value})])
    first, second, third = (float(dot.attrib["cx"]) for dot in elements(picture, "circle"))
    assert second - first == pytest.approx(third - second, abs=0.2)
    assert "10,000" in words(picture)


def test_one_count_alone_is_drawn_too() -> None:
    assert len(elements(lines("t", "", [(1, {"x": Summary(0, 0, 0, 1)})]), "circle")) == 1


def test_everything_is_inside_the_picture() -> None:
    value = Summary(99_999, 1, 240_001, 5)
    picture = lines("t", "u", [(1, {"x": value}), (60_000, {"x": value})])
    for line in elements(picture, "line"):
        for key, limit in (("x1", WIDTH), ("x2", WIDTH), ("y1", HEIGHT), ("y2", HEIGHT)):
            assert 0 <= float(line.attrib[key]) <= limit


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (0.3, 0.5), (1, 1), (1.1, 2), (240_001, 250_000), (6, 10)]
)
def test_an_axis_ends_at_a_round_number(value: float, top: float) -> None:
    assert round_up(value) == pytest.approx(top)


def test_a_scenario_has_a_plot_for_each_kind_of_value() -> None:
    samples = Samples()
    for factor in (1.0, 1.1):
        samples.begin_pass(["plain", "mimicd"])
        for arm in ("plain", "mimicd"):
            samples.add(
                arm,
                {f"flood.{size}.pps": 1000 * factor for size in (64, 1400)}
                | {f"connections.{count}.pps": 1000.0 for count in (1, 1000)}
                | {"rtt.p50_us": 20.0, "rtt.p99_us": 40.0, "rtt.lost": 0.0},
            )
    found = plots(samples, "direct")
    assert set(found) == {"flood-pps.svg", "connections-pps.svg", "rtt-us.svg"}
    assert {"64 bytes", "1400 bytes", "plain", "mimicd"} <= set(words(found["flood-pps.svg"]))
    assert {"median", "99th percentile"} <= set(words(found["rtt-us.svg"]))
    assert {"1", "1,000"} <= set(words(found["connections-pps.svg"]))
    assert len(elements(found["connections-pps.svg"], "polyline")) == 2
