# SPDX-License-Identifier: GPL-2.0-only
"""Rules and filters as the BPF programs find them in their maps, changed under traffic."""

from mimicd.core.abi import ConfigFlag
from mimicd.core.filter_tables import NO_TABLES, Address, build_tables, decode_tables
from mimicd.core.rules import RuleBook
from mimicd.core.sources import strict_filters
from mimicd.kernel.dataplane import DataPlane, index_key


class RuleMaps:
    """Of one interface. Only what differs from what is there is written."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._rules: dict[int, bytes] = {}
        self._tables = NO_TABLES

    def read(self) -> None:
        """What an earlier process left in them."""
        filters = self._plane.filters
        entries = {key: filters.lookup(key) or b"" for key in filters.all_keys()}
        self._tables = decode_tables(self._plane.ports.lookup(index_key(0)) or b"", entries)

    def write(self, book: RuleBook, own: frozenset[Address]) -> None:
        """`own`: the interface's addresses, for which wildcards stand.

        What is new comes first, then what leads to it, then what is left over goes. Raises
        InvalidConfigError, and then nothing was changed.
        """
        before, tables = self._tables, build_tables(book.filters, own, self._tables)
        rules = book.rule_values()
        for number, value in rules.items():
            if self._rules.get(number) != value:
                self._plane.rules.update(index_key(number), value)
        self._rules, self._tables = rules, tables
        for key, value in tables.entries.items():
            if before.entries.get(key) != value:
                self._plane.filters.update(key, value)
        if tables.classes != before.classes:
            self._plane.ports.update(index_key(0), tables.encode_ports())
        for key in before.entries.keys() - tables.entries.keys():
            self._plane.filters.delete(key)
        self._plane.set_flag(ConfigFlag.STRICT, bool(strict_filters(book.filters.values())))
