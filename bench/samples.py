# SPDX-License-Identifier: GPL-2.0-only
"""What was measured: one value for each pass, arm and metric; medians, spread, ratios. Pure.

A metric is named "figure.what_unit" or "figure.size.what_unit": flood.1400.pps, rtt.p50_us.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Values = Mapping[str, float]
"""By metric."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A median with the smallest and the largest of its values."""

    median: float
    low: float
    high: float
    count: int


def summary(values: Iterable[float]) -> Summary | None:
    """None without any value."""
    found = list(values)
    if not found:
        return None
    return Summary(statistics.median(found), min(found), max(found), len(found))


@dataclass
class Samples:
    """All passes of all arms in one scenario."""

    passes: list[dict[str, dict[str, float]]] = field(default_factory=list)
    """By pass; in each by arm, then by metric."""
    troubles: list[str] = field(default_factory=list)
    """What could not be measured, and why."""
    disturbances: list[tuple[str, float]] = field(default_factory=list)
    """Steps in which others took more of the machine than they should: which, share of a CPU."""

    def begin_pass(self, arms: Iterable[str]) -> None:
        self.passes.append({arm: {} for arm in arms})

    def add(self, arm: str, values: Values) -> None:
        """Values of the current pass."""
        self.passes[-1][arm].update(values)

    def arms(self) -> list[str]:
        return list(dict.fromkeys(arm for one in self.passes for arm in one))

    def metrics(self) -> list[str]:
        """In the order in which they were measured first."""
        return list(
            dict.fromkeys(metric for one in self.passes for row in one.values() for metric in row)
        )

    def of(self, arm: str, metric: str) -> Summary | None:
        return summary(one[arm][metric] for one in self.passes if metric in one.get(arm, {}))

    def ratio(self, arm: str, base: str, metric: str) -> Summary | None:
        """Against another arm, formed inside each pass: a slow drift of the machine cancels."""
        return summary(
            one[arm][metric] / one[base][metric]
            for one in self.passes
            if metric in one.get(arm, {}) and one.get(base, {}).get(metric)
        )
