# SPDX-License-Identifier: GPL-2.0-only
"""Which connection has to be looked at next: a heap of deadlines, one per key."""

import heapq


class Deadlines:
    """Each key has at most one deadline; setting it again replaces it."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, bytes]] = []
        self._of: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._of)

    def set(self, key: bytes, at_ns: int) -> None:
        """Look at `key` once `at_ns` has come."""
        if self._of.get(key) == at_ns:
            return
        self._of[key] = at_ns
        heapq.heappush(self._heap, (at_ns, key))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._of):
            self._heap = [(at, key) for key, at in self._of.items()]
            heapq.heapify(self._heap)

    def clear(self, key: bytes) -> None:
        """Forget the key's deadline, if it has one."""
        self._of.pop(key, None)

    def next_ns(self) -> int | None:
        """The earliest deadline."""
        while self._heap and self._of.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now_ns: int, limit: int) -> list[bytes]:
        """At most `limit` keys whose deadline has come, earliest first; they have none then."""
        due: list[bytes] = []
        while len(due) < limit:
            at_ns = self.next_ns()
            if at_ns is None or at_ns > now_ns:
                break
            _, key = heapq.heappop(self._heap)
            del self._of[key]
            due.append(key)
        return due
