# SPDX-License-Identifier: GPL-2.0-only
"""Superpackets of every segment size, and the order of what goes through the hop and past it."""

import itertools
import os
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.matrix.cells import PORT, WITHIN_S, Scene, received, scene_of
from tests.matrix.links import KINDS
from tests.matrix.senders import UDP_SEGMENT
from tests.rig.traffic import open_udp

pytestmark = pytest.mark.root

WHOLE_SEGMENTS = 2
SIZES_AT_ONCE = 40
TURNS, PAUSES_S = 600, (0, 0, 0.0002, 0.001, 0.0019, 0.0021, 0.003)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with scene_of(KINDS["veth"]) as found, found.data_path("none"):
        found.set_offload("all on")
        yield found


def send_segmented(udp: socket.socket, payload: bytes, size: int) -> None:
    udp.sendmsg([payload], [(socket.SOL_UDP, UDP_SEGMENT, size.to_bytes(2, "little"))])


@pytest.mark.parametrize("family", [4, 6])
def test_every_segment_size_arrives_with_a_short_last_segment(scene: Scene, family: int) -> None:
    b, chance = scene.net.b, random.Random(family)
    largest = scene.largest_bytes(family)
    with open_udp(scene.net.a.namespace, family) as near, open_udp(b.namespace, family) as far:
        far.bind((b.address(family), PORT))
        near.connect((b.address(family), PORT))
        near.send(b"hello")
        assert received(far, 1) == [b"hello"]
        scene.tap.take(PORT)
        near.settimeout(WITHIN_S)
        for first in range(1, largest + 1, SIZES_AT_ONCE):
            sent = []
            for size in range(first, min(first + SIZES_AT_ONCE, largest + 1)):
                payload = chance.randbytes(size * WHOLE_SEGMENTS + chance.randint(1, size))
                send_segmented(near, payload, size)
                sent += [payload[at : at + size] for at in range(0, len(payload), size)]
            assert received(far, len(sent)) == sent, f"sizes from {first}"
            seen = scene.tap.take(PORT)
            assert seen.faults == []
            assert list(seen.data.values()) == [sent], f"sizes from {first}"


@pytest.mark.parametrize("moves", [False, True], ids=["on one CPU", "from CPU to CPU"])
def test_what_goes_past_the_hop_does_not_overtake_what_goes_through(
    scene: Scene, moves: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Superpackets and single datagrams by turns, with pauses around the time that both take the
    hop; a sender that the scheduler moves is the worst case. What is told is what was measured."""
    b, chance = scene.net.b, random.Random(TURNS)
    came: list[int] = []
    with open_udp(scene.net.a.namespace) as near, open_udp(b.namespace) as far:
        far.bind((b.address(), PORT))
        near.connect((b.address(), PORT))
        near.send(b"hello")
        assert received(far, 1) == [b"hello"]
        near.settimeout(WITHIN_S)
        total = 0
        numbers = iter(range(1 << 30))

        def collect() -> None:
            far.settimeout(WITHIN_S)
            while len(came) < expected:
                came.append(int.from_bytes(far.recv(2000)[:4], "big"))

        expected = sum(10 if turn % 2 else 1 for turn in range(TURNS))
        thread = threading.Thread(target=collect)
        thread.start()
        cpus = sorted(os.sched_getaffinity(0))
        try:
            for turn in range(TURNS):
                if moves:
                    os.sched_setaffinity(0, {cpus[turn // 2 % len(cpus)]})
                count = 10 if turn % 2 else 1
                parts = [next(numbers).to_bytes(4, "big") + bytes(996) for _ in range(count)]
                if count == 1:
                    near.send(parts[0])
                else:
                    send_segmented(near, b"".join(parts), 1000)
                total += count
                if pause_s := chance.choice(PAUSES_S):
                    until_s = time.monotonic() + pause_s
                    while time.monotonic() < until_s:
                        pass
        finally:
            os.sched_setaffinity(0, cpus)
            thread.join()
    late = sum(one < before for before, one in itertools.pairwise(came))
    with capsys.disabled():
        print(f"\n{len(came)} datagrams, {late} came behind a later one")
    assert sorted(came) == list(range(total))
    assert late == 0
