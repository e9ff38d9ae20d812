# SPDX-License-Identifier: GPL-2.0-only
"""Every timer in real time once, in a few seconds: what test_timers shows at length."""

import pytest

from tests.netns.timer_scene import (
    Scene,
    Scripts,
    after_the_peer_fell_silent,
    answered,
    assert_gaps,
    falls_silent,
    is_keepalive,
    is_probe,
    is_reset,
    is_syn,
    never_answered,
    never_answered_though_asked_all_the_time,
    play_scene,
)

SCENE_S = 8.5

SCRIPTS: Scripts = {
    "no answer": ("handshake=2:1", never_answered),
    "handshake retry 0": ("handshake=4:0", never_answered_though_asked_all_the_time),
    "passive": ("handshake=0:3", never_answered_though_asked_all_the_time),
    "alive": ("keepalive=2:2:1:0", answered),
    "dead": ("keepalive=2:2:2:0", falls_silent),
    "keepalive time 0": ("keepalive=0:1:1:0", falls_silent),
    "keepalive interval 0": ("keepalive=3:0:3:0", falls_silent),
    "keepalive retry 0": ("keepalive=2:3:0:0", falls_silent),
    "stale": ("keepalive=0:2:1:4", answered),
    "stale 0": ("keepalive=0:2:1:0", answered),
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return play_scene(SCRIPTS, SCENE_S, tmp_path_factory.mktemp("timers"))


def test_a_handshake_is_tried_as_often_as_its_setting_says(scene: Scene) -> None:
    first, second, reset = scene.ours["no answer"]
    assert is_syn(first) and is_syn(second) and is_reset(reset)  # noqa: PT018
    assert first.seq == second.seq
    assert_gaps([first, second, reset], 2, 2)
    # Asked all the time, it is not tried again within the cooldown.
    only, reset = scene.ours["handshake retry 0"]
    assert [is_syn(only), is_reset(reset)] == [True, True]
    assert_gaps([only, reset], 4)


def test_a_passive_end_sends_nothing(scene: Scene) -> None:
    assert scene.both["passive"] == []


def test_a_peer_that_answers_is_kept_and_one_that_does_not_is_reset(scene: Scene) -> None:
    assert sum(is_keepalive(packet) for packet in scene.ours["alive"]) >= 2
    assert scene.shown["alive"] == "established"
    last, first, probe, reset = after_the_peer_fell_silent(scene, "dead")
    assert [is_keepalive(first), is_probe(probe), is_reset(reset)] == [True, True, True]
    assert_gaps([last, first, probe, reset], 2, 2, 2)


def test_zeros_of_keepalive_mean_off_at_once_and_a_single_attempt(scene: Scene) -> None:
    assert len(after_the_peer_fell_silent(scene, "keepalive time 0")) == 1
    assert scene.shown["keepalive time 0"] == "established"
    last, reset = after_the_peer_fell_silent(scene, "keepalive interval 0")
    assert is_reset(reset)
    assert_gaps([last, reset], 3)
    last, attempt, reset = after_the_peer_fell_silent(scene, "keepalive retry 0")
    assert [is_keepalive(attempt), is_reset(reset)] == [True, True]
    assert_gaps([last, attempt, reset], 2, 3)


def test_stale_forgets_and_zero_never_does(scene: Scene) -> None:
    (reset,) = (packet for packet in scene.ours["stale"] if is_reset(packet))
    early = [packet for packet in scene.ours["stale"] if packet.time_s < reset.time_s]
    assert_gaps([early[-1], reset], 4)
    assert scene.shown["stale"] == "idle"
    assert not any(is_reset(packet) for packet in scene.both["stale 0"])
    assert scene.shown["stale 0"] == "established"
