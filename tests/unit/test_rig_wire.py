# SPDX-License-Identifier: GPL-2.0-only
"""The plan of a user-space cable: which frames it loses, holds and swaps."""

import random

import pytest

from tests.rig.wire import Lane, is_transport

UDP4 = bytes(12) + b"\x08\x00" + bytes(9) + b"\x11" + bytes(10)
TCP6 = bytes(12) + b"\x86\xdd" + bytes(6) + b"\x06" + bytes(33)
ARP = bytes(12) + b"\x08\x06" + bytes(28)
HEADER = b"virtio"


def numbered(count: int) -> list[bytes]:
    return [UDP4 + bytes([number]) for number in range(count)]


def pass_through(lane: Lane, frames: list[bytes], now_s: float = 0.0) -> list[int]:
    """The numbers of the frames that come out, in order."""
    out = []
    for frame in frames:
        out += lane.step(HEADER + frame, len(HEADER), now_s)
    return [data[-1] for data in out]


def test_without_faults_everything_passes_in_order() -> None:
    lane = Lane()
    assert pass_through(lane, numbered(5)) == [0, 1, 2, 3, 4]
    assert lane.passed == 5


def test_drop_loses_exactly_the_chosen_frames() -> None:
    lane = Lane()
    fault = lane.drop({1, 3})
    assert pass_through(lane, numbered(6)) == [0, 2, 4, 5]
    assert (fault.hits, lane.passed) == (2, 4)


def test_swap_exchanges_a_frame_with_the_next_one() -> None:
    lane = Lane()
    fault = lane.swap({1, 4})
    assert pass_through(lane, numbered(7)) == [0, 2, 1, 3, 5, 4, 6]
    assert fault.hits == 2


def test_two_neighbours_swapped_make_two_steps() -> None:
    lane = Lane()
    lane.swap({0, 1})
    assert sorted(pass_through(lane, numbered(4))) == [0, 1, 2, 3]


def test_frames_that_do_not_match_pass_and_are_not_counted() -> None:
    lane = Lane()
    fault = lane.drop({0})
    assert lane.step(HEADER + ARP, len(HEADER), 0) == [HEADER + ARP]
    assert pass_through(lane, numbered(2)) == [1]
    assert fault.seen == 2


def test_a_delayed_frame_comes_out_behind_the_given_number_of_others() -> None:
    lane = Lane()
    lane.delay({0}, by_frames=3)
    assert pass_through(lane, numbered(5)) == [1, 2, 3, 0, 4]


def test_a_delayed_frame_comes_out_at_its_time_when_nothing_follows() -> None:
    lane = Lane()
    lane.delay({0}, by_s=0.5)
    assert pass_through(lane, numbered(1), now_s=10.0) == []
    assert lane.next_deadline_s() == 10.5
    assert lane.release(10.4) == []
    assert lane.release(10.5) == [HEADER + numbered(1)[0]]
    assert lane.next_deadline_s() is None


def test_a_swap_at_the_very_end_is_released_by_time() -> None:
    lane = Lane()
    lane.swap({0})
    assert pass_through(lane, numbered(1)) == []
    assert len(lane.release(2.0)) == 1


def test_no_frame_is_held_for_longer_than_a_second() -> None:
    with pytest.raises(ValueError, match="at most 1 s"):
        Lane().delay({0}, by_s=1.5)


def test_cleared_faults_disturb_nothing_more() -> None:
    lane = Lane()
    lane.drop(range(100))
    lane.clear()
    assert pass_through(lane, numbered(3)) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_faults_no_frame_is_doubled_or_made_up(seed: int) -> None:
    chance = random.Random(seed)
    lane = Lane()
    lost = lane.drop({n for n in range(100) if chance.random() < 0.1})
    lane.swap({n for n in range(100) if chance.random() < 0.1})
    lane.delay({n for n in range(100) if chance.random() < 0.1}, by_frames=5)
    out = pass_through(lane, numbered(100)) + [data[-1] for data in lane.release(5.0)]
    assert len(out) == len(set(out)) == 100 - lost.hits == lane.passed


def test_tcp_and_udp_of_both_families_are_transport_and_arp_is_not() -> None:
    assert is_transport(UDP4)
    assert is_transport(TCP6)
    assert not is_transport(ARP)
