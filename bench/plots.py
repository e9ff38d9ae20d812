# SPDX-License-Identifier: GPL-2.0-only
"""Which plots a scenario gives: a file name and an SVG for each kind of value. Pure."""

from collections.abc import Mapping

from bench.metrics import figure_of, label
from bench.samples import Samples, Summary
from bench.svg import bars, lines

GROWTH = ("connections", "filters")
NOT_DRAWN = ("loss_percent", "lost_percent", "lost")


def plots(samples: Samples, title: str) -> dict[str, str]:
    """By file name: "flood-pps.svg" with a group for each size, "filters-pps.svg" over counts."""
    families: dict[tuple[str, str], list[str]] = {}
    for metric in samples.metrics():
        figure, *_, last = metric.split(".")
        # Times of one figure stand side by side where they have no size of their own.
        if last not in NOT_DRAWN and any(values(samples, metric)):
            unit = label(metric).unit
            sized = metric.count(".") == 2
            families.setdefault((figure, last if sized else unit), []).append(metric)
    return {
        f"{figure}-{_file_word(kind)}.svg": _plot(samples, title, figure, metrics)
        for (figure, kind), metrics in families.items()
    }


def values(samples: Samples, metric: str) -> Mapping[str, Summary]:
    """The arms that have it."""
    return {arm: value for arm in samples.arms() if (value := samples.of(arm, metric))}


def _plot(samples: Samples, title: str, figure: str, metrics: list[str]) -> str:
    first = label(metrics[0])
    if figure in GROWTH:
        name = first.text.replace(f", {int(metrics[0].split('.')[1]):,}", "", 1)
        points = [(int(metric.split(".")[1]), values(samples, metric)) for metric in metrics]
        return lines(f"{name}: {title}", first.unit, points)
    groups = [(_group(metric), values(samples, metric)) for metric in metrics]
    return bars(f"{_common(metrics)}: {title}", first.unit, groups)


def _group(metric: str) -> str:
    """What tells a metric from the others of its plot: the size, or its words."""
    parts = label(metric).text.split(", ")
    return next((part for part in parts if part.endswith(" bytes")), parts[-1])


def _common(metrics: list[str]) -> str:
    """What all metrics of a plot have in common."""
    each = [label(metric).text.split(", ") for metric in metrics]
    shared = [part for part in each[0] if all(part in parts for parts in each)]
    return ", ".join(shared) or figure_of(metrics[0])


def _file_word(kind: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in kind.replace("µ", "u").replace("%", "share"))
