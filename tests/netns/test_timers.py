# SPDX-License-Identifier: GPL-2.0-only
"""Retries, cooldown, keepalive and stale in real time: what a capture shows of short settings.

One scene of a minute and a half serves all tests; test_timers_short has one of a few seconds.
"""

import time
from itertools import pairwise

import pytest

from tests.netns.talk import say
from tests.netns.timer_scene import (
    Scene,
    Script,
    Scripts,
    Talk,
    after_the_peer_fell_silent,
    answered,
    answered_after_the_first_cooldown_then_reset,
    assert_gaps,
    falls_silent,
    is_keepalive,
    is_probe,
    is_reset,
    is_syn,
    never_answered,
    never_answered_though_asked_all_the_time,
    opened_by_a_peer_that_falls_silent,
    play_scene,
    says_nothing_of_its_own,
    says_something_now_and_then,
)
from tests.rig.analysis import ACK, SYN
from tests.rig.peer import State
from tests.rig.segment import sequence_after

pytestmark = pytest.mark.slow

SCENE_S = 90.0


def opened_by_the_peer_in_the_middle(talk: Talk) -> Script:
    middle_s = time.monotonic() + SCENE_S / 2
    while time.monotonic() < middle_s:
        say(talk.program, b"too early")
        yield
    talk.peer.connect(b"hello")
    while talk.peer.state is not State.ESTABLISHED:
        yield
    say(talk.program, b"in time")


SCRIPTS: Scripts = {
    "no answer": ("handshake=2:2", never_answered),
    "cooldown": ("handshake=1:0", never_answered_though_asked_all_the_time),
    "cleared": ("handshake=1:0", answered_after_the_first_cooldown_then_reset),
    "half open": ("handshake=2:1", opened_by_a_peer_that_falls_silent),
    "passive": ("handshake=0:3", opened_by_the_peer_in_the_middle),
    "alive": ("keepalive=2:2:3:0", answered),
    "dead": ("keepalive=2:2:3:0", falls_silent),
    "no interval": ("keepalive=3:0:3:0", falls_silent),
    "no retry": ("keepalive=2:3:0:0", falls_silent),
    "off": ("keepalive=0:1:1:0", falls_silent),
    "stale": ("keepalive=2:2:3:7", says_nothing_of_its_own),
    "not stale": ("keepalive=2:2:3:7", says_something_now_and_then),
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return play_scene(SCRIPTS, SCENE_S, tmp_path_factory.mktemp("timers"))


# --- handshake and cooldown ---


def test_a_syn_is_repeated_at_the_interval_then_reset(scene: Scene) -> None:
    syns, last = scene.ours["no answer"][:-1], scene.ours["no answer"][-1]
    assert [is_syn(packet) for packet in syns] == [True, True, True]
    assert len({packet.seq for packet in syns}) == 1
    assert is_reset(last)
    assert last.seq == (syns[0].seq + 1) % 2**32
    assert_gaps([*syns, last], 2, 2, 2)


def test_the_cooldown_doubles_with_each_attempt_that_fails(scene: Scene) -> None:
    packets = scene.ours["cooldown"]
    assert [is_syn(packet) for packet in packets] == [True, False] * 5
    assert all(is_reset(packet) for packet in packets[1::2])
    assert_gaps(packets, 1, 5, 1, 10, 1, 20, 1, 40, 1)
    for earlier, later in pairwise(packets[::2]):
        # On the same ports a new ISN lies above the last number used.
        assert sequence_after(later.seq, earlier.seq) > 1


def test_the_cooldown_begins_anew_after_a_connection_was_established(scene: Scene) -> None:
    both = scene.both["cleared"]
    (reset_of_peer,) = (p for p in both if is_reset(p) and p not in scene.ours["cleared"])
    syns = [packet for packet in scene.ours["cleared"] if is_syn(packet)]
    before = [packet for packet in syns if packet.time_s < reset_of_peer.time_s]
    after = [packet for packet in syns if packet.time_s > reset_of_peer.time_s]
    assert len(before) == 2
    assert_gaps([reset_of_peer, after[0]], 5)


def test_a_handshake_that_the_peer_does_not_finish_is_reset_without_a_cooldown(
    scene: Scene,
) -> None:
    syn_ack, reset, *next_try = scene.ours["half open"]
    assert syn_ack.flags == SYN | ACK
    assert is_reset(reset)
    assert_gaps([syn_ack, reset], 4)
    assert_gaps([reset, next_try[0]], 0)
    assert is_syn(next_try[0])


def test_a_passive_end_waits_until_the_peer_connects(scene: Scene) -> None:
    first, *rest = scene.both["passive"]
    assert is_syn(first)
    assert first not in scene.ours["passive"]
    assert not any(is_syn(packet) or is_reset(packet) for packet in rest)
    assert [p.length_bytes for p in scene.ours["passive"] if "P" in p.flag_letters] == [7]


# --- keepalive and stale ---


def test_a_silent_connection_is_kept_alive_while_the_peer_answers(scene: Scene) -> None:
    both, ours = scene.both["alive"], scene.ours["alive"]
    at = [number for number, packet in enumerate(both) if is_keepalive(packet)]
    assert len(at) >= 8
    for number in at:
        # The last segment of the peer is what the time counts from.
        last_of_peer = [packet for packet in both[:number] if packet not in ours][-1]
        assert_gaps([last_of_peer, both[number]], 2)
    assert not any(is_reset(packet) for packet in both)
    assert scene.shown["alive"] == "established"


def test_a_peer_that_fell_silent_is_asked_in_two_ways_then_reset(scene: Scene) -> None:
    last, *attempts, reset = after_the_peer_fell_silent(scene, "dead")
    first, probe, third = attempts
    assert is_keepalive(first)
    assert is_probe(probe)
    assert sequence_after(probe.seq, first.seq) == 1
    assert third.length_bytes == 0
    assert third.seq == probe.seq
    assert is_reset(reset)
    assert reset.seq == (probe.seq + 1) % 2**32
    assert_gaps([last, first, probe, third, reset], 2, 2, 2, 2)


def test_keepalive_without_an_interval_resets_at_once(scene: Scene) -> None:
    last, reset = after_the_peer_fell_silent(scene, "no interval")
    assert is_reset(reset)
    assert_gaps([last, reset], 3)


def test_keepalive_without_retries_is_one_attempt(scene: Scene) -> None:
    last, attempt, reset = after_the_peer_fell_silent(scene, "no retry")
    assert is_keepalive(attempt)
    assert is_reset(reset)
    assert_gaps([last, attempt, reset], 2, 3)


def test_keepalive_that_is_off_never_asks(scene: Scene) -> None:
    assert len(after_the_peer_fell_silent(scene, "off")) == 1
    assert scene.shown["off"] == "established"


def test_a_connection_without_data_is_reset_as_stale_and_opens_again_at_once(
    scene: Scene,
) -> None:
    """Keepalives and their answers do not count as life."""
    ours = scene.ours["stale"]
    at = next(number for number, packet in enumerate(ours) if is_reset(packet))
    early = [packet for packet in ours[:at] if not is_keepalive(packet)]
    assert sum(is_keepalive(packet) for packet in ours[:at]) >= 2
    assert_gaps([early[-1], ours[at]], 7)
    assert is_syn(ours[at + 1])
    assert_gaps(ours[at : at + 2], 0)


def test_a_connection_with_data_now_and_then_is_not_stale(scene: Scene) -> None:
    both = scene.both["not stale"]
    assert sum("P" in packet.flag_letters for packet in both) > 8
    assert not any(is_reset(packet) for packet in both)
    assert scene.shown["not stale"] == "established"


def test_what_ended_is_forgotten_after_twice_the_cooldown(scene: Scene) -> None:
    assert not {"no answer", "dead", "no interval", "no retry"} & set(scene.shown)
    assert scene.shown["cooldown"] in ("idle", "syn-sent")
