# SPDX-License-Identifier: GPL-2.0-only
"""Filters of which nothing could say which one wins."""

from collections.abc import Iterator, Sequence

from mimicd.core.model import Filter


def conflicts(filters: Sequence[Filter]) -> Iterator[tuple[int, int]]:
    """Index of a filter, and index of an earlier one that matches the same packets.

    That are filters of the same end, address and prefix whose ports are the same, or overlap
    without one lying inside the other: else the longer prefix or the smaller range wins.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, one in enumerate(filters):
        groups.setdefault(one.identity[:4], []).append(index)
    found = [pair for group in groups.values() for pair in _overlaps(filters, group)]
    yield from sorted((max(pair), min(pair)) for pair in found)


def _overlaps(filters: Sequence[Filter], group: Sequence[int]) -> Iterator[tuple[int, int]]:
    """For each filter, at most one that it meets."""
    around: list[int] = []
    for index in sorted(group, key=lambda one: (filters[one].port, -filters[one].last_port, one)):
        here = filters[index]
        while around and filters[around[-1]].last_port < here.port:
            around.pop()
        if around:
            outer = filters[around[-1]]
            if outer.ports == here.ports or outer.last_port < here.last_port:
                yield index, around[-1]
        around.append(index)
