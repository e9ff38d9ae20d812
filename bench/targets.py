# SPDX-License-Identifier: GPL-2.0-only
"""What the project promises to reach, and whether a run reached it. Pure."""

from dataclasses import dataclass

from bench.samples import Samples


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for one metric: of its ratio to plain UDP in the same run, or of itself."""

    metric: str
    bound: float
    is_at_least: bool
    is_ratio: bool = True


TARGETS = (
    Target("flood.1400.pps", 0.75, is_at_least=True),
    Target("flood.64.pps", 0.75, is_at_least=True),
    Target("flood.1400.cpu_us", 1.40, is_at_least=False),
    Target("flood.64.cpu_us", 1.40, is_at_least=False),
    Target("rtt.p50_us", 1.08, is_at_least=False),
    Target("wireguard.mbps", 0.88, is_at_least=True),
    Target("cold.first_ms", 0.5, is_at_least=False, is_ratio=False),
    Target("burst.in_order_percent", 100.0, is_at_least=True, is_ratio=False),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target held against what was measured: the median of all passes."""

    target: Target
    value: float

    @property
    def is_met(self) -> bool:
        if self.target.is_at_least:
            return self.value >= self.target.bound
        return self.value <= self.target.bound


def verdicts(samples: Samples, arm: str, base: str) -> list[Verdict]:
    """Of the targets whose metric was measured, for one arm."""
    found = []
    for target in TARGETS:
        if target.is_ratio:
            value = samples.ratio(arm, base, target.metric)
        else:
            value = samples.of(arm, target.metric)
        if value is not None:
            found.append(Verdict(target, value.median))
    return found
