# SPDX-License-Identifier: GPL-2.0-only
"""What a run leaves: the text, and a folder with table, JSON and plots."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import machine
from bench.arms import OURS, PLAIN
from bench.plots import plots
from bench.samples import Samples
from bench.session import Scenario
from bench.table import target_table, text_table
from bench.targets import Verdict, verdicts


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario with what was measured in it."""

    scenario: Scenario
    samples: Samples
    kind: str = ""
    """ "growth", or nothing in particular."""

    @property
    def title(self) -> str:
        return f"{self.scenario}, {self.kind}" if self.kind else str(self.scenario)

    @property
    def verdicts(self) -> list[Verdict]:
        return verdicts(self.samples, OURS, PLAIN)


def text(result: Result) -> str:
    """The table of one scenario, its targets, and what went wrong."""
    parts = [f"== {result.title}\n", text_table(result.samples, PLAIN)]
    if found := result.verdicts:
        parts += ["\nTargets\n", target_table(found)]
    if disturbances := result.samples.disturbances:
        shares = [share for _, share in disturbances]
        parts.append(
            f"\nOthers took {min(shares):.0%} to {max(shares):.0%} of a CPU in {len(shares)}"
            " measurements: see results.json, and docs/benchmarks.md for what that spoils.\n"
        )
    if troubles := result.samples.troubles:
        parts += ["\nTroubles\n", *(f"{words}\n" for words in troubles)]
    return "".join(parts)


def document(results: list[Result], settings: Mapping[str, object]) -> dict[str, object]:
    """For programs: every single value, and the medians."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine.description(),
        "settings": dict(settings),
        "scenarios": [
            {
                "title": result.title,
                **asdict(result.scenario),
                "passes": result.samples.passes,
                "medians": {
                    arm: {
                        metric: value.median
                        for metric in result.samples.metrics()
                        if (value := result.samples.of(arm, metric))
                    }
                    for arm in result.samples.arms()
                },
                "targets": [
                    {**asdict(verdict.target), "value": verdict.value, "met": verdict.is_met}
                    for verdict in result.verdicts
                ],
                "troubles": result.samples.troubles,
                "disturbances": [
                    {"step": step, "others_share": share}
                    for step, share in result.samples.disturbances
                ],
            }
            for result in results
        ],
    }


def write(folder: Path, results: list[Result], settings: Mapping[str, object]) -> None:
    """Files of one run into a folder, which is made; older ones of the same names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.txt").write_text("\n".join(map(text, results)), encoding="utf-8")
    content = json.dumps(document(results, settings), indent=1)
    for result in results:
        prefix = "-".join(result.title.replace(",", "").split())
        for name, picture in plots(result.samples, result.title).items():
            (folder / f"{prefix}-{name}").write_text(picture, encoding="utf-8")
    (folder / "results.json").write_text(content + "\n", encoding="utf-8")
