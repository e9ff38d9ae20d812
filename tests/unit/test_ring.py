# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.kernel.ring: records out of memory laid out as the kernel lays out a ring buffer.

consumer position (a page) | producer position (a page) | data | the same data again
"""

import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicd.kernel.ring import Ring

PAGE = mmap.PAGESIZE
SIZE = 1 << 20
BUSY, DISCARDED = 1 << 31, 1 << 30


class FakeRing:
    """The kernel's side of it, in a memory file."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self.memory = mmap.mmap(self.fd, 2 * PAGE + 2 * SIZE)
        self.ring = Ring(self.fd, SIZE)

    def close(self) -> None:
        self.ring.close()
        self.memory.close()
        os.close(self.fd)

    @property
    def consumed(self) -> int:
        return int(struct.unpack_from("=Q", self.memory, 0)[0])

    @property
    def produced(self) -> int:
        return int(struct.unpack_from("=Q", self.memory, PAGE)[0])

    def start_at(self, position: int) -> None:
        for page in (0, PAGE):
            struct.pack_into("=Q", self.memory, page, position)

    def push(self, record: bytes, flags: int = 0) -> int:
        """The position of its header; a flag can be taken away later with `mark`."""
        position = self.produced
        raw = struct.pack("=II", len(record) | flags, 0) + record
        raw += bytes(-len(raw) % 8)
        self._write(position, raw)
        struct.pack_into("=Q", self.memory, PAGE, position + len(raw))
        return position

    def mark(self, position: int, length_and_flags: int) -> None:
        self._write(position, struct.pack("=I", length_and_flags))

    def _write(self, position: int, raw: bytes) -> None:
        start = position % SIZE
        first = raw[: SIZE - start]
        for copy in (0, SIZE):
            at = 2 * PAGE + copy
            self.memory[at + start : at + start + len(first)] = first
            self.memory[at : at + len(raw) - len(first)] = raw[len(first) :]

    def read(self, budget: int = 1000) -> list[bytes]:
        return list(self.ring.read(budget))


@pytest.fixture
def fake() -> Iterator[FakeRing]:
    ring = FakeRing()
    yield ring
    ring.close()


def test_an_empty_ring_has_nothing(fake: FakeRing) -> None:
    assert fake.read() == []
    assert fake.consumed == 0


def test_records_of_any_length_come_in_order(fake: FakeRing) -> None:
    records = [bytes([size & 0xFF]) * size for size in (1, 7, 8, 9, 80, 81, 1500, 16484)]
    for record in records:
        fake.push(record)
    assert fake.read() == records
    assert fake.consumed == fake.produced
    assert fake.read() == []


def test_no_more_are_taken_than_asked_for(fake: FakeRing) -> None:
    for number in range(5):
        fake.push(b"%d" % number)
    assert fake.read(2) == [b"0", b"1"]
    assert fake.read(0) == []
    assert fake.consumed == 32
    assert fake.read() == [b"2", b"3", b"4"]


def test_a_record_that_is_still_written_stops_the_reader(fake: FakeRing) -> None:
    fake.push(b"done")
    position = fake.push(b"busy", BUSY)
    fake.push(b"behind it")
    assert fake.read() == [b"done"]
    assert fake.consumed == position
    assert fake.read() == []
    fake.mark(position, 4)
    assert fake.read() == [b"busy", b"behind it"]


def test_a_record_that_was_given_up_is_skipped(fake: FakeRing) -> None:
    fake.push(b"one")
    fake.push(b"given up", DISCARDED)
    fake.push(b"two")
    assert fake.read(2) == [b"one", b"two"]
    assert fake.consumed == fake.produced


def test_a_record_is_consumed_when_it_is_handed_out(fake: FakeRing) -> None:
    """Who stops in the middle misses nothing and sees nothing twice."""
    for number in range(3):
        fake.push(b"%d" % number)
    records = fake.ring.read(9)
    assert next(records) == b"0"
    assert fake.consumed == 16
    del records
    assert fake.read() == [b"1", b"2"]


@pytest.mark.parametrize("lap", [1, 2, 4096, (1 << 63) // SIZE])
@pytest.mark.parametrize("before", [8, 16, 24, 800])
def test_records_go_on_across_the_end_of_the_memory(fake: FakeRing, lap: int, before: int) -> None:
    fake.start_at(lap * SIZE - before)
    records = [b"a" * 5, b"b" * 300, b"c" * 900]
    for record in records:
        fake.push(record)
    assert fake.read() == records
    assert fake.consumed > lap * SIZE


@settings(max_examples=50)
@given(
    st.integers(0, SIZE // 8 - 1).map(lambda words: 8 * words),
    st.lists(st.lists(st.integers(1, 60_000), max_size=8), max_size=6),
    st.integers(1, 9),
)
def test_whatever_is_pushed_comes_out_once(
    start: int, batches: list[list[int]], budget: int
) -> None:
    fake = FakeRing()
    try:
        fake.start_at(start)
        pushed: list[bytes] = []
        read: list[bytes] = []
        for sizes in batches:
            for size in sizes:
                record = struct.pack("=I", len(pushed)) * (size // 4 + 1)
                fake.push(record)
                pushed.append(record)
            while records := fake.read(budget):
                assert len(records) <= budget
                read += records
        assert read == pushed
    finally:
        fake.close()
