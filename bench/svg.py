# SPDX-License-Identifier: GPL-2.0-only
"""Small plots as SVG: bars side by side, and lines over a logarithmic axis. Pure.

Every value is drawn as its median with a whisker from the smallest to the largest. The vertical
axis begins at zero.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from bench.samples import Summary

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 84, 16, 64, 44
COLOURS = ("#7f8c8d", "#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a")
TICKS = 5

Group = tuple[str, Mapping[str, Summary]]
"""What stands below it on the axis, and a value for each series that has one."""


def bars(title: str, unit: str, groups: Sequence[Group]) -> str:
    """Groups side by side, in each a bar for every series."""
    names = series_names(groups)
    top = _top(groups)
    width = _plot_width() / max(1, len(groups))
    bar = width * 0.8 / max(1, len(names))
    body = list(_frame(title, unit, names, top))
    for at, (label, values) in enumerate(groups):
        left = LEFT + at * width + width * 0.1
        body.append(_text(left + width * 0.4, HEIGHT - BOTTOM + 18, label, "middle"))
        for place, name in enumerate(names):
            if value := values.get(name):
                x, y = left + place * bar, _y(value.median, top)
                body.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar * 0.9:.1f}" '
                    f'height="{HEIGHT - BOTTOM - y:.1f}" fill="{_colour(place)}"/>'
                )
                body += _whisker(x + bar * 0.45, value, top, "#222")
    return _document(body)


def lines(title: str, unit: str, points: Sequence[tuple[int, Mapping[str, Summary]]]) -> str:
    """A line for each series over counts from 1 up, at which each has a value."""
    groups = [(f"{count:,}", values) for count, values in points]
    names, top = series_names(groups), _top(groups)
    largest = max((count for count, _ in points), default=1)
    body = list(_frame(title, unit, names, top))
    for (count, _), (label, _) in zip(points, groups, strict=True):
        body.append(_text(_log_x(count, largest), HEIGHT - BOTTOM + 18, label, "middle"))
    for place, name in enumerate(names):
        placed = [
            (_log_x(count, largest), values[name]) for count, values in points if name in values
        ]
        path = " ".join(f"{x:.1f},{_y(value.median, top):.1f}" for x, value in placed)
        colour = _colour(place)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, value in placed:
            y = _y(value.median, top)
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
            body += _whisker(x, value, top, colour)
    return _document(body)


def series_names(groups: Sequence[Group]) -> list[str]:
    """All series, in the order in which they come first."""
    return list(dict.fromkeys(name for _, values in groups for name in values))


def round_up(value: float) -> float:
    """The next 1, 2, 2.5 or 5 times a power of ten: where an axis may end."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.999999)


def _top(groups: Sequence[Group]) -> float:
    return round_up(
        max((value.high for _, values in groups for value in values.values()), default=0)
    )


def _plot_width() -> float:
    return WIDTH - LEFT - RIGHT


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top


def _log_x(count: int, largest: int) -> float:
    # Some room on both sides, so that labels stay inside.
    share = math.log(count) / math.log(largest) if largest > 1 else 0.5
    return LEFT + _plot_width() * (0.06 + 0.88 * share)


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _frame(title: str, unit: str, names: Sequence[str], top: float) -> Iterator[str]:
    """Title, legend, unit, horizontal lines with their values."""
    yield _text(LEFT, 22, title, "start", size=15)
    x: float = LEFT
    for place, name in enumerate(names):
        yield f'<rect x="{x:.1f}" y="34" width="11" height="11" fill="{_colour(place)}"/>'
        yield _text(x + 16, 44, name, "start")
        x += 34 + 7.5 * len(name)
    yield _text(LEFT - 8, TOP - 12, unit, "end")
    for tick in range(TICKS + 1):
        value = top * tick / TICKS
        y = _y(value, top)
        yield (
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" '
            f'stroke="{"#222" if tick == 0 else "#ddd"}"/>'
        )
        yield _text(LEFT - 8, y + 4, f"{value:,.4g}" if value < 1000 else f"{value:,.0f}", "end")


def _whisker(x: float, value: Summary, top: float, colour: str) -> list[str]:
    if value.low == value.high:
        return []
    low, high = _y(value.low, top), _y(value.high, top)
    ends = [(x, low, x, high), (x - 4, low, x + 4, low), (x - 4, high, x + 4, high)]
    return [
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'
        for x1, y1, x2, y2 in ends
    ]


def _text(x: float, y: float, words: str, anchor: str, size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(words)}</text>"
    )


def _document(body: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">'
    )
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    return "\n".join([head, background, *body, "</svg>", ""])
