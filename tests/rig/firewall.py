# SPDX-License-Identifier: GPL-2.0-only
"""The router's nftables firewall: conntrack that drops and counts what is invalid, and losses.

Frames pass these points in order: `before` (prerouting, before conntrack has seen them),
`ct state invalid` (forward), `after` (postrouting, conntrack has seen them). Invalid packets are
also logged to NFLOG group 5, so `Capture(router, "nflog:5", ...)` shows which ones they were.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Literal

from tests.rig.namespace import Namespace

TABLE = "rig"
NFLOG_GROUP = 5
ANY_TRANSPORT = "meta l4proto { tcp, udp }"
Point = Literal["before", "after"]

# 2**32 - 1: "numgen inc" counts the matching packets from 0 and does not come round in a test.
_NEVER_AGAIN = 0xFFFFFFFF


class Loss:
    """One rule that drops packets; `dropped` counts them, `remove` lifts it."""

    def __init__(self, namespace: Namespace, chain: str, counter: str, handle: int) -> None:
        self._namespace = namespace
        self._chain = chain
        self._counter = counter
        self._handle = handle

    @property
    def dropped(self) -> int:
        return _counters(self._namespace)[self._counter]

    def remove(self) -> None:
        self._namespace.run(
            *("nft", "delete", "rule", "inet", TABLE, self._chain, "handle", str(self._handle))
        )


class Firewall:
    """The rule set of one router; sides are "a" and "b", a packet's side is where it came from."""

    def __init__(
        self, namespace: Namespace, interfaces: Mapping[str, str], tcp_loose: bool = True
    ) -> None:
        self._namespace = namespace
        self._interfaces = dict(interfaces)
        self._losses = 0
        namespace.run("nft", "-f", "-", stdin=_rule_set(self._interfaces))
        prefix = "netfilter/nf_conntrack"
        namespace.sysctl(
            {
                f"{prefix}_checksum": 1,
                f"{prefix}_tcp_be_liberal": 0,
                f"{prefix}_tcp_loose": int(tcp_loose),
            }
        )

    def invalid(self) -> int:
        """Packets that conntrack called invalid, both sides."""
        return sum(self.invalid_from(side) for side in self._interfaces)

    def invalid_from(self, side: str) -> int:
        """Packets from that side that conntrack called invalid."""
        return _counters(self._namespace)[f"invalid_from_{side}"]

    def forwarded(self, protocol: Literal["tcp", "udp"]) -> int:
        """Valid packets of that protocol that were let through, both sides."""
        return _counters(self._namespace)[f"forwarded_{protocol}"]

    def connections(self) -> list[str]:
        """The conntrack table as /proc/net/nf_conntrack words it, one line a connection."""
        return self._namespace.run("cat", "/proc/net/nf_conntrack").stdout.splitlines()

    def drop_nth(
        self, side: str, ordinals: Iterable[int], match: str = "", point: Point = "before"
    ) -> Loss:
        """Drop exactly these packets (the first is 0) among those from `side` that match.

        `match` is an nftables expression such as "tcp flags & (psh | syn) == psh"; without one
        every TCP and UDP packet counts.
        """
        chosen = ", ".join(str(ordinal) for ordinal in sorted(set(ordinals)))
        return self._lose(
            side, f"{match or ANY_TRANSPORT} numgen inc mod {_NEVER_AGAIN} {{ {chosen} }}", point
        )

    def drop_every(self, side: str, period: int, match: str = "", point: Point = "before") -> Loss:
        """Drop the last of each `period` matching packets from `side`."""
        return self._lose(
            side, f"{match or ANY_TRANSPORT} numgen inc mod {period} == {period - 1}", point
        )

    def drop_random(
        self, side: str, per_mille: int, match: str = "", point: Point = "before"
    ) -> Loss:
        """Drop each matching packet from `side` with that probability."""
        return self._lose(
            side, f"{match or ANY_TRANSPORT} numgen random mod 1000 < {per_mille}", point
        )

    def drop_all(self, side: str, match: str = "", point: Point = "before") -> Loss:
        """Drop every matching packet from `side`: a hole that no link state shows."""
        return self._lose(side, match or ANY_TRANSPORT, point)

    def _lose(self, side: str, what: str, point: Point) -> Loss:
        counter = f"loss_{self._losses}"
        self._losses += 1
        # In postrouting the incoming interface is no longer named: take the way out instead.
        (opposite,) = (other for name, other in self._interfaces.items() if name != side)
        where = (
            f'iifname "{self._interfaces[side]}"' if point == "before" else f'oifname "{opposite}"'
        )
        rule = f"{where} {what} counter name {counter} drop"
        self._namespace.run("nft", "add", "counter", "inet", TABLE, counter)
        answer = self._namespace.run(
            *("nft", "-e", "-j", "add", "rule", "inet", TABLE, point, rule)
        )
        handle = _first_handle(answer.stdout)
        return Loss(self._namespace, point, counter, handle)


def _rule_set(interfaces: Mapping[str, str]) -> str:
    names = [f"invalid_from_{side}" for side in interfaces]
    counters = [*names, "forwarded_tcp", "forwarded_udp"]
    invalid = [
        f'iifname "{interface}" ct state invalid log group {NFLOG_GROUP} '
        f"counter name invalid_from_{side} drop"
        for side, interface in interfaces.items()
    ]
    forwarded = [
        f"meta l4proto {protocol} counter name forwarded_{protocol}" for protocol in ("tcp", "udp")
    ]
    # Before -400 (defragmentation) and -200 (conntrack): what is lost here was never seen.
    return "\n".join(
        [
            f"table inet {TABLE} {{",
            *(f"counter {name} {{ }}" for name in counters),
            "chain before { type filter hook prerouting priority -450; policy accept; }",
            "chain forward { type filter hook forward priority 0; policy drop;",
            *invalid,
            *forwarded,
            "ct state { new, established, related, untracked } accept",
            "}",
            "chain after { type filter hook postrouting priority 300; policy accept; }",
            "}",
            "",
        ]
    )


def _counters(namespace: Namespace) -> dict[str, int]:
    listing = namespace.run("nft", "-j", "list", "counters", "table", "inet", TABLE).stdout
    entries = (entry.get("counter") for entry in json.loads(listing)["nftables"])
    return {entry["name"]: int(entry["packets"]) for entry in entries if entry}


def _first_handle(answer: str) -> int:
    for entry in json.loads(answer)["nftables"]:
        if rule := entry.get("add", {}).get("rule"):
            return int(rule["handle"])
    raise LookupError(f"nft echoed no rule handle: {answer}")
