# SPDX-License-Identifier: GPL-2.0-only
"""The host names of an interface's filters: when each is resolved again, and what it means now.

The system's resolver tells no time to live, so a name is resolved every 60 seconds; sooner when a
connection through it fails or the network changes. A name that resolves no more keeps the
addresses that it had, and an address that is no longer the name's stays while a connection uses it:
the program behind it may well not know of the new one yet.

Times are seconds of any clock that does not go back.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

EVERY_S = 60.0
SPACING_S = 5.0
"""Between two looks at the same name, however much happens; doubled while it does not resolve."""
ADDRESSES_MAX = 256
"""Of one name. What a name server sends is not to fill the maps."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a look brought."""

    filters: bool
    """Whether other addresses are to be disguised now."""
    words: str = ""
    """What to tell, "" for nothing."""
    is_fault: bool = False


@dataclass(slots=True)
class _Name:
    addresses: tuple[Address, ...] = ()
    looked_at_s: float = float("-inf")
    due_s: float = float("-inf")
    failures: int = 0


class Names:
    """All names of one interface."""

    def __init__(self, known: Mapping[str, Sequence[Address]] | None = None) -> None:
        """`known`: addresses that names had before; they are to be looked at all the same."""
        self._names = {host: _Name(tuple(of)) for host, of in (known or {}).items()}

    @property
    def addresses(self) -> dict[str, tuple[Address, ...]]:
        """Of each name that ever resolved."""
        return {host: one.addresses for host, one in self._names.items() if one.addresses}

    def keep(self, hosts: Iterable[str]) -> None:
        """These are the names from now on; new ones are due at once."""
        self._names = {host: self._names.get(host) or _Name() for host in hosts}

    def due(self, now_s: float) -> list[str]:
        """Names to be resolved now."""
        return [host for host, one in self._names.items() if one.due_s <= now_s]

    def next_s(self) -> float | None:
        """When `due` will have something."""
        return min((one.due_s for one in self._names.values()), default=None)

    def hurry(self, host: str = "") -> None:
        """A connection to it failed; for "" the network changed: look at all of them soon."""
        for name, one in self._names.items():
            if host in ("", name):
                one.due_s = min(one.due_s, one.looked_at_s + SPACING_S)

    def gone(self, host: str, answer: Collection[Address]) -> set[Address]:
        """The addresses that the name had and that are not in an answer."""
        one = self._names.get(host)
        return set(one.addresses).difference(answer) if one else set()

    def found(
        self,
        host: str,
        answer: Iterable[Address],
        now_s: float,
        in_use: Callable[[Address], bool] = lambda address: False,
    ) -> Change:
        """The name resolves to `answer`. `in_use`: whether a connection uses an address."""
        one = self._names.get(host)
        if one is None:
            return Change(False)
        now_its_own = list(dict.fromkeys(answer))[:ADDRESSES_MAX]
        if not now_its_own:
            return self.failed(host, "it has no address that can be a peer's", now_s)
        staying = [
            address for address in one.addresses if address not in now_its_own and in_use(address)
        ]
        before, had_failed = one.addresses, one.failures > 0
        one.addresses = (*now_its_own, *staying)[:ADDRESSES_MAX]
        one.failures = 0
        one.looked_at_s, one.due_s = now_s, now_s + EVERY_S
        if set(before) == set(one.addresses):
            one.addresses = before
            return Change(False, f"the name {host} resolves again" if had_failed else "")
        if not before:
            return Change(True)
        words = f"the name {host} is now {_words(now_its_own)}, it was {_words(before)}"
        if staying:
            words += f"; {_words(staying)} stays while connections use it"
        return Change(True, words)

    def failed(self, host: str, reason: str, now_s: float) -> Change:
        """The name could not be resolved; told once, until it resolves again."""
        one = self._names.get(host)
        if one is None:
            return Change(False)
        one.failures += 1
        wait_s = min(EVERY_S, SPACING_S * 2.0 ** min(one.failures - 1, 8))
        one.looked_at_s, one.due_s = now_s, now_s + wait_s
        if one.failures > 1:
            return Change(False)
        words = f"the name {host} does not resolve: {reason}"
        if one.addresses:
            words += f"; it stays {_words(one.addresses)} until it does"
        return Change(False, words, is_fault=True)


def _words(addresses: Sequence[Address]) -> str:
    shown = ", ".join(map(str, addresses[:8]))
    return shown if len(addresses) <= 8 else f"{shown} and {len(addresses) - 8} more"
