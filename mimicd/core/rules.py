# SPDX-License-Identifier: GPL-2.0-only
"""Which filter has which number in the maps, and what the maps hold for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mimicd.core.abi import MAX_RULES, encode_filter_key, encode_filter_value, encode_rule
from mimicd.core.errors import InvalidConfigError
from mimicd.core.model import Filter, FlowSettings, Origin

Address = IPv4Address | IPv6Address


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

    def filter_entries(self, own_addresses: Iterable[Address]) -> dict[bytes, bytes]:
        """The map filters. A wildcard stands for the interface's addresses of its family."""
        own = list(own_addresses)
        entries: dict[bytes, bytes] = {}
        # exact filters last: they replace what a wildcard says of the same address and port
        for number, filter_ in sorted(
            self.filters.items(), key=lambda item: not item[1].is_wildcard
        ):
            for address in self._addresses(filter_, own):
                exact = Filter(filter_.origin, address, filter_.port)
                entries[encode_filter_key(exact)] = encode_filter_value(number, filter_)
        return entries

    @staticmethod
    def _addresses(filter_: Filter, own: list[Address]) -> list[Address]:
        assert filter_.address is not None
        if filter_.origin is Origin.LOCAL and filter_.is_wildcard:
            return [address for address in own if address.version == filter_.address.version]
        return [filter_.address]

    def renumbered(self, filters: Iterable[Filter]) -> "RuleBook":
        """A book of `filters`, in which those that were here before keep their numbers.

        What counts is the end that a filter matches: other settings apply to its connections.
        Raises InvalidConfigError for more filters than the maps hold.
        """
        known = {_identity(filter_): number for number, filter_ in self.filters.items()}
        wanted = list(filters)
        free = iter(sorted(set(range(1, MAX_RULES)) - set(known.values())))
        book: dict[int, Filter] = {}
        for filter_ in wanted:
            number = known.get(_identity(filter_)) or next(free, None)
            if number is None:
                raise InvalidConfigError(
                    f"{len(wanted)} filters are more than the {MAX_RULES - 1} that an interface"
                    " can have",
                    "leave some out",
                )
            book[number] = filter_
        return RuleBook(book)


def _identity(filter_: Filter) -> tuple[Origin, Address | None, int]:
    return filter_.origin, filter_.address, filter_.port
