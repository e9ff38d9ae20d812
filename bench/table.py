# SPDX-License-Identifier: GPL-2.0-only
"""The results as text: a block for each figure, a line for each metric, the targets below. Pure."""

from collections.abc import Sequence

from bench.metrics import figure_of, label, number
from bench.samples import Samples, Summary
from bench.targets import Verdict


def text_table(samples: Samples, base: str) -> str:
    """Medians with [smallest..largest]; beside each the ratio to `base`, formed within passes."""
    names = samples.arms()
    rows: list[list[str]] = []
    previous = ""
    for metric in samples.metrics():
        if previous and figure_of(metric) != previous:
            rows.append([])
        previous = figure_of(metric)
        shown = label(metric)
        row = [shown.text, shown.unit]
        for name in names:
            row.append(_spread(samples.of(name, metric)))
            if name != base and base in names:
                row.append(_ratio(samples.ratio(name, base, metric)))
        rows.append(row)
    heads = ["", ""]
    for name in names:
        heads.append(name)
        if name != base and base in names:
            heads.append(f"/ {base}")
    return aligned([heads, [], *rows])


def target_table(verdicts: Sequence[Verdict]) -> str:
    """Each target with what was reached."""
    rows = []
    for verdict in verdicts:
        target = verdict.target
        shown = label(target.metric)
        rows.append(
            [
                "met" if verdict.is_met else "MISSED",
                shown.text,
                f"{verdict.value:.3f}",
                f"{'>=' if target.is_at_least else '<='} {target.bound:g}",
                "of plain UDP" if target.is_ratio else shown.unit,
            ]
        )
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; an empty row is an empty line."""
    columns = max((len(row) for row in rows), default=0)
    widths = [
        max((len(row[at]) for row in rows if at < len(row)), default=0) for at in range(columns)
    ]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )
    return "".join(f"{line}\n" for line in lines)


def _spread(value: Summary | None) -> str:
    if value is None:
        return "-"
    if value.count == 1:
        return number(value.median)
    return f"{number(value.median)} [{number(value.low)}..{number(value.high)}]"


def _ratio(value: Summary | None) -> str:
    if value is None:
        return "-"
    if value.count == 1:
        return f"{value.median:.3f}"
    return f"{value.median:.3f} [{value.low:.3f}..{value.high:.3f}]"
