# SPDX-License-Identifier: GPL-2.0-only
"""Which filter has which rule number, and what the map rules holds for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mimicd.core.abi import MAX_RULES, encode_rule
from mimicd.core.errors import InvalidConfigError
from mimicd.core.model import Filter, FlowSettings
from mimicd.core.settings import format_filter, parse_filter

FILTERS_MAX = MAX_RULES // 2 - 1
"""Old and new ones stand in the map together while one replaces the other."""


@dataclass(frozen=True, slots=True)
class RuleBook:
    """Filters with known addresses, each with its rule number (from 1)."""

    filters: Mapping[int, Filter]

    @property
    def settings(self) -> dict[int, FlowSettings]:
        """By rule number, as core.flows wants them."""
        return {number: filter_.settings for number, filter_ in self.filters.items()}

    def text(self, number: int) -> str:
        """What `show` calls the filter; the name it came from beside the address."""
        filter_ = self.filters.get(number)
        if filter_ is None:
            return ""
        return f"{filter_.text()} ({filter_.host})" if filter_.host else filter_.text()

    def rule_values(self) -> dict[int, bytes]:
        """The map rules."""
        return {number: encode_rule(filter_.settings) for number, filter_ in self.filters.items()}

    def saved(self, flow: FlowSettings) -> tuple[dict[str, str], dict[str, str]]:
        """Rule number -> filter with its address, and -> what that came from, if anything."""
        texts = {
            str(number): format_filter(replace(one, host=""), flow)
            for number, one in self.filters.items()
        }
        return texts, {str(number): one.host for number, one in self.filters.items() if one.host}

    @classmethod
    def from_saved(
        cls, texts: Mapping[str, str], hosts: Mapping[str, str], flow: FlowSettings
    ) -> "RuleBook":
        """The inverse of `saved`. Raises ValueError or InvalidConfigError."""
        return cls(
            {
                int(number): replace(parse_filter(text, flow), host=hosts.get(number, ""))
                for number, text in texts.items()
            }
        )

    def renumbered(self, filters: Iterable[Filter]) -> "RuleBook":
        """A book of `filters`, in which those that were here before keep their numbers.

        What counts is the end that a filter matches: other settings apply to its connections.
        Raises InvalidConfigError for more filters than the maps hold.
        """
        known = {filter_.identity: number for number, filter_ in self.filters.items()}
        wanted = list(filters)
        if len(wanted) > FILTERS_MAX:
            raise InvalidConfigError(
                f"{len(wanted)} filters are more than the {FILTERS_MAX} that an interface can have",
                "leave some out; one filter may stand for a network or a range of ports",
            )
        taken = set(known.values())
        # by turns: a set of all of them is megabytes, which a process hardly gives back
        free = (number for number in range(1, MAX_RULES) if number not in taken)
        return RuleBook({known.get(one.identity) or next(free): one for one in wanted})
