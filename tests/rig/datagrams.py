# SPDX-License-Identifier: GPL-2.0-only
"""Seeded datagrams and the judge of what became of them. Pure: no sockets, no clock.

A datagram of 8 bytes or more begins with an 8-byte header, network byte order, so that its
receiver knows which one it should be:

    0               4               8
    +---------------+---------------+----------
    | stream (32)   | ordinal (32)  | seeded bytes
    +---------------+---------------+----------

Smaller ones carry seeded bytes only and are judged as a multiset of contents.
"""

import random
import struct
from collections import Counter
from dataclasses import dataclass, field

_HEADER = struct.Struct("!II")
_POOL_BYTES = 1 << 20


@dataclass(frozen=True)
class Verdict:
    """What became of the datagrams of one direction."""

    sent: int
    received: int
    missing: tuple[int, ...]
    """Ordinals, counted from 0 in the order of sending."""
    corrupt: int
    """Datagrams whose bytes nobody sent."""
    duplicated: int
    late: int
    """Datagrams that came after one that was sent later (tiny ones are not judged)."""
    refused: tuple[str, ...] = ()
    """Words of the errors with which the kernel refused to send."""

    def __str__(self) -> str:
        words = [f"{self.received} of {self.sent} arrived"]
        if self.missing:
            first = ", ".join(str(ordinal) for ordinal in self.missing[:10])
            words.append(f"{len(self.missing)} missing (first: {first})")
        for count, what in ((self.corrupt, "corrupt"), (self.late, "late")):
            words += [f"{count} {what}"] if count else []
        words += [f"{self.duplicated} twice"] if self.duplicated else []
        words += [f"{len(self.refused)} refused ({self.refused[0]})"] if self.refused else []
        return ", ".join(words)

    @property
    def clean(self) -> bool:
        """Everything arrived, once, in order, byte for byte."""
        return self.intact and not self.missing and not self.refused

    @property
    def intact(self) -> bool:
        """What arrived is right, though some may be missing."""
        return not (self.corrupt or self.duplicated or self.late)


def seeded_sizes(count: int, largest_bytes: int, seed: int) -> list[int]:
    """`count` sizes in seeded random order, each of 0..largest_bytes at least once."""
    if count <= largest_bytes:
        raise ValueError(f"{count} datagrams cannot show every size up to {largest_bytes}")
    chosen = random.Random(f"sizes {seed}")
    sizes = list(range(largest_bytes + 1))
    sizes += [chosen.randint(0, largest_bytes) for _ in range(count - len(sizes))]
    chosen.shuffle(sizes)
    return sizes


@dataclass
class Stream:
    """The datagrams of one direction: makes them by ordinal, judges what arrives."""

    sizes: list[int]
    seed: int
    _sent: set[int] = field(default_factory=set)
    _seen: set[int] = field(default_factory=set)
    _tiny_expected: Counter[bytes] = field(default_factory=Counter)
    _tiny_seen: Counter[bytes] = field(default_factory=Counter)
    _received: int = 0
    _corrupt: int = 0
    _duplicated: int = 0
    _late: int = 0
    _newest: int = -1
    _refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stream = random.Random(f"stream {self.seed}").getrandbits(32)
        self._pool = random.Random(f"pool {self.seed}").randbytes(_POOL_BYTES)

    def datagram(self, ordinal: int) -> bytes:
        """The bytes of datagram `ordinal`, the same at every call."""
        size = self.sizes[ordinal]
        # A prime step, so that neighbours differ and every alignment in the pool comes up.
        start = ordinal * 7919 % (_POOL_BYTES - 65536)
        if size < _HEADER.size:
            return self._pool[start : start + size]
        return _HEADER.pack(self._stream, ordinal) + self._pool[start + _HEADER.size : start + size]

    def note_sent(self, ordinal: int) -> None:
        self._sent.add(ordinal)
        if self.sizes[ordinal] < _HEADER.size:
            self._tiny_expected[self.datagram(ordinal)] += 1

    def note_refused(self, words: str) -> None:
        self._refused.append(words)

    def note_received(self, data: bytes) -> None:
        self._received += 1
        if len(data) < _HEADER.size:
            self._note_tiny(data)
            return
        stream, ordinal = _HEADER.unpack_from(data)
        if stream != self._stream or ordinal not in self._sent or data != self.datagram(ordinal):
            self._corrupt += 1
        elif ordinal in self._seen:
            self._duplicated += 1
        else:
            self._seen.add(ordinal)
            self._late += ordinal < self._newest
            self._newest = max(self._newest, ordinal)

    @property
    def outstanding(self) -> int:
        """Sent and not yet received."""
        return len(self._sent) - self._received

    def verdict(self) -> Verdict:
        tiny_missing = self._tiny_expected - self._tiny_seen
        missing = []
        for ordinal in sorted(self._sent):
            if self.sizes[ordinal] >= _HEADER.size:
                if ordinal not in self._seen:
                    missing.append(ordinal)
            elif tiny_missing[data := self.datagram(ordinal)] > 0:
                tiny_missing[data] -= 1
                missing.append(ordinal)
        return Verdict(
            sent=len(self._sent),
            received=self._received,
            missing=tuple(missing),
            corrupt=self._corrupt,
            duplicated=self._duplicated,
            late=self._late,
            refused=tuple(self._refused),
        )

    def _note_tiny(self, data: bytes) -> None:
        self._tiny_seen[data] += 1
        if self._tiny_seen[data] > self._tiny_expected[data]:
            if self._tiny_expected[data]:
                self._duplicated += 1
            else:
                self._corrupt += 1
