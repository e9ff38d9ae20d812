# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.notes: what `show` says of a connection, and why it does not work."""

from typing import Any

import pytest

from mimicd.core.abi import CONN_DROPS, ConnFlag, Reason
from mimicd.core.connection import Connection, Role, State
from mimicd.core.notes import CHANGES, connection_of
from tests.unit.entries import KEY, NS, entry

NOW_NS = 100 * NS
REMOTE = "203.0.113.5:40001"


def shown(state: State, **members: Any) -> Connection:
    return connection_of(KEY, entry(state, **members), "local=192.0.2.1:51820", "eth0", NOW_NS)


def test_a_connection_is_shown_with_its_numbers() -> None:
    one = shown(
        State.ESTABLISHED,
        role=Role.RESPONDER,
        seq=4294967295,
        ack=7,
        window=8,
        peer_window=9,
        peer_mss=1460,
        state_since_ns=90 * NS,
        last_rx_ns=98 * NS + 500_000_000,
        tx_packets=1,
        tx_bytes=2,
        rx_packets=3,
        rx_bytes=4,
        held=9,
        resent=5,
        drops=(0, 2, 0, 3, 0, 0),
    )
    assert one == Connection(
        local="192.0.2.1:51820",
        remote=REMOTE,
        state=State.ESTABLISHED,
        role=Role.RESPONDER,
        seq=4294967295,
        ack=7,
        window=8,
        peer_window=9,
        peer_mss=1460,
        filter="local=192.0.2.1:51820",
        age_s=10.0,
        idle_s=1.5,
        cooldown_s=0.0,
        tx_packets=1,
        tx_bytes=2,
        rx_packets=3,
        rx_bytes=4,
        held=4,
        drops={"passive": 2, "window": 3},
        note="",
        interface="eth0",
    )


def test_held_datagrams_are_counted_where_numbers_wrap() -> None:
    assert shown(State.SYN_SENT, held=2, resent=2**32 - 1).held == 3


def test_idle_time_counts_from_the_start_where_nothing_was_received() -> None:
    assert shown(State.SYN_SENT, state_since_ns=93 * NS).idle_s == 7.0


def test_a_clock_that_is_behind_makes_no_negative_time() -> None:
    one = shown(State.ESTABLISHED, state_since_ns=NOW_NS + 1, last_rx_ns=NOW_NS + 1)
    assert (one.age_s, one.idle_s) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"state_since_ns": 97 * NS}, f"waiting for {REMOTE} for 3 s: nothing was received"),
        ({"flags": ConnFlag.RETRIED}, "it answered with RST"),
    ],
)
def test_a_handshake_says_what_it_waits_for(members: dict[str, Any], words: str) -> None:
    assert words in shown(State.SYN_SENT, **members).note


def test_a_half_open_connection_says_what_is_missing() -> None:
    assert "its SYN came" in shown(State.SYN_RECEIVED).note


@pytest.mark.parametrize(("step", "left_s"), [(1, 3), (2, 8), (3, 18), (4, 38)])
def test_cooling_down_says_for_how_long_and_why(step: int, left_s: int) -> None:
    one = shown(State.IDLE, cooldown_step=step, reset_ns=98 * NS, last_reset=Reason.NO_ANSWER)
    assert one.cooldown_s == left_s
    assert one.note.startswith(
        f"cooling down for {left_s} s more: the peer did not answer ({REMOTE}); check that mimic"
    )


@pytest.mark.parametrize(("ack", "words"), [(0, "no mimic may be running"), (7, "reset it")])
def test_a_peer_that_never_answered_but_with_rst_is_told_from_one_that_ended_it(
    ack: int, words: str
) -> None:
    for since_ns in (98 * NS, 50 * NS):
        one = shown(
            State.IDLE,
            cooldown_step=1,
            reset_ns=since_ns,
            last_reset=Reason.RESET_BY_PEER,
            ack=ack,
        )
        assert words in one.note


def test_after_its_cooldown_an_entry_rests() -> None:
    one = shown(State.IDLE, cooldown_step=1, reset_ns=95 * NS, last_reset=Reason.KEEPALIVE)
    assert one.cooldown_s == 0.0
    assert one.note == "idle: the peer stopped answering; the next datagram opens it again"
    assert shown(State.IDLE).note == ""


def test_a_passive_filter_says_that_it_waits() -> None:
    drops = tuple(int(name == "passive") for name in CONN_DROPS)
    assert shown(State.IDLE, drops=drops).note == (
        f"passive: datagrams are dropped until {REMOTE} connects"
    )


@pytest.mark.parametrize(
    ("members", "is_one_way"),
    [
        ({"tx_packets": 5}, True),
        ({"tx_packets": 5, "rx_packets": 1}, False),
        ({"rx_packets": 5}, False),
        ({"tx_packets": 5, "state_since_ns": 98 * NS}, False),
        ({}, False),
    ],
)
def test_a_one_way_connection_says_so(members: dict[str, Any], is_one_way: bool) -> None:
    given = {"state_since_ns": 90 * NS, **members}
    assert ("one-way: 5 datagrams" in shown(State.ESTABLISHED, **given).note) == is_one_way


def test_every_change_has_words_for_the_log() -> None:
    assert set(CHANGES) == set(Reason) - {Reason.NONE}
    assert all(CHANGES.values())


ENDS = set(Reason) - {
    Reason.NONE,
    Reason.OPENED,
    Reason.CROSSED,
    Reason.ESTABLISHED,
    Reason.RESTARTED_BY_PEER,
}


@pytest.mark.parametrize("reason", ENDS)
def test_every_end_has_words(reason: Reason) -> None:
    assert shown(State.IDLE, last_reset=reason, ack=7).note.startswith(f"idle: {CHANGES[reason]}; ")
