# SPDX-License-Identifier: GPL-2.0-only
"""What ran out, and in whose traffic that is felt: counted always, said once a minute at most."""

from collections.abc import Callable

from mimicd.core.abi import COUNTERS, MAX_CONNECTIONS

RING_FULL = "drop-ring-full"
SAY_EVERY_NS = 60_000_000_000

_WORDS = {
    RING_FULL: "records did not fit the ring buffer: the daemon was too slow, datagrams of"
    " handshakes are lost",
    "drop-map-full": f"datagrams of new flows were dropped: {MAX_CONNECTIONS} connections are kept"
    " already, and none of them was idle for long",
    "drop-rx-map-full": f"new connections of peers were refused: {MAX_CONNECTIONS} are kept"
    " already, and none of them was idle for long",
}


class Shortages:
    """Of one interface; `count` gives a counter by its index in abi.COUNTERS."""

    def __init__(self, count: Callable[[int], int]) -> None:
        self._count = count
        self._seen = {name: count(COUNTERS.index(name)) for name in _WORDS}
        self._said = dict(self._seen)
        self._said_ns = dict.fromkeys(_WORDS, -SAY_EVERY_NS)

    def news(self, now_ns: int) -> tuple[set[str], list[str]]:
        """The counters that have risen since the last call, and what there is to say."""
        counts = {name: self._count(COUNTERS.index(name)) for name in _WORDS}
        risen = {name for name, count in counts.items() if count != self._seen[name]}
        self._seen = counts
        sentences = []
        for name, words in _WORDS.items():
            unsaid = counts[name] - self._said[name]
            if unsaid and now_ns - self._said_ns[name] >= SAY_EVERY_NS:
                sentences.append(f"{unsaid} {words}")
                self._said[name], self._said_ns[name] = counts[name], now_ns
        return risen, sentences
