# SPDX-License-Identifier: GPL-2.0-only
"""The stateless responder: a SYN leaves nothing, and only the ACK that proves it makes an entry.

 31            6 5     4 3      0
| 26 bits of hash | epoch | wscale |   (wscale masked by the hash; an epoch is 17 s)
"""

import struct
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from mimicd.core.connection import Role, State
from mimicd.core.model import FlowSettings, Handshake
from tests.bpf.plane import COOKIE_KEY, Arrival, Departure, Plane, now_ns
from tests.bpf.siphash import siphash
from tests.bpf.talk import DATAGRAM, LOCAL, PEER_ISN, Talk, talk
from tests.rig.namespace import wait_until
from tests.rig.segment import ACK, PSH, RST, SYN, End, encode_syn_options

EPOCH_SHIFT = 34
RST_INTERVAL_NS = 10_000_000


def epoch_now() -> int:
    """The present epoch, of which enough is left for a test."""
    enough_ns = 2_000_000_000
    wait_until(
        lambda: -now_ns() % (1 << EPOCH_SHIFT) > enough_ns, 5, "an epoch with enough time left"
    )
    return now_ns() >> EPOCH_SHIFT


def cookie(conversation: Talk, epoch: int, scale: int) -> int:
    """What our ISN must be."""
    message = conversation.key + struct.pack("<II", epoch & 0xFFFFFFFF, 0)
    value = siphash(COOKIE_KEY, message)
    return value & 0xFFFFFFC0 | (epoch & 3) << 4 | (scale ^ value >> 32) & 0xF


def test_siphash_is_that_of_its_authors() -> None:
    key = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
    assert siphash(key, bytes(range(15))) == 0xA129CA6149BE45E5


@pytest.mark.parametrize("version", [4, 6])
def test_our_isn_is_the_hash_of_the_flow(plane: Plane, version: int) -> None:
    for scale in range(15):
        conversation = replace(talk(plane, version), peer_scale=scale)
        epoch = epoch_now()
        assert conversation.answer(conversation.syn()).seq == cookie(conversation, epoch, scale)


def test_a_repeated_syn_is_answered_identically(plane: Plane) -> None:
    conversation = talk(plane)
    epoch_now()
    first = conversation.receive(conversation.syn())
    assert first.kind is Arrival.ANSWERED
    assert all(conversation.receive(conversation.syn()) == first for _ in range(5))
    assert plane.maps["conns"].all_keys() == []
    assert plane.counted() == {"rx-syn": 6, "tx-syn-ack": 6}


@pytest.mark.parametrize("scale", [0, 1, 7, 12, 14, 15, 255])
def test_the_peers_window_scale_comes_back_with_its_ack(plane: Plane, scale: int) -> None:
    conversation = replace(talk(plane), peer_scale=scale)
    conversation.accept()
    entry = conversation.entry
    used = min(scale, 14)
    assert (entry.state, entry.role, entry.peer_wscale) == (
        State.ESTABLISHED,
        Role.RESPONDER,
        used,
    )
    assert entry.peer_window == 0x3400 << used


def test_a_peer_without_options_has_scale_0_even_if_it_had_one_before(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.accept()
    assert conversation.entry.peer_wscale == 12
    syn = replace(conversation.syn(PEER_ISN + 5000), options=b"")
    syn_ack = conversation.answer(syn)
    conversation.peer_seq, conversation.peer_ack = syn.seq + 1, syn_ack.seq + 1
    conversation.answer(conversation.segment(ACK, window=1000))
    entry = conversation.entry
    assert (entry.peer_wscale, entry.peer_window, entry.peer_mss) == (0, 1000, 0)
    conversation.receive(conversation.segment(RST))
    conversation.open()
    conversation.answer(replace(conversation.syn_ack(), options=b"", window=500))
    entry = conversation.entry
    assert (entry.state, entry.peer_wscale, entry.peer_window) == (State.ESTABLISHED, 0, 500)


@pytest.mark.parametrize(
    "options",
    [
        b"\x01\x01\x01\x03\x03\x07\x02\x04\x05\x00\x00\x00",
        b"\x08\x0a\1\2\3\4\5\6\7\x08\x04\x02\x02\x04\x05\x00\x03\x03\x07\x01",
        b"\xfd\x06abcd\x01\x02\x04\x05\x00\x03\x03\x07\1\0",
        b"\x03\x03\x07\x02\x04\x05\x00\x00\x03\x03\x09\x00",
    ],
    ids=["NOPs first", "others first", "an unknown one", "behind the end of the list"],
)
def test_options_of_a_syn_are_found_in_any_order(plane: Plane, options: bytes) -> None:
    conversation = talk(plane)
    syn = replace(conversation.syn(), options=options, payload=b"")
    syn_ack = conversation.answer(syn)
    conversation.peer_seq, conversation.peer_ack = PEER_ISN + 1, syn_ack.seq + 1
    conversation.answer(conversation.segment(ACK))
    entry = conversation.entry
    assert (entry.peer_wscale, entry.peer_mss) == (7, 0x500)


def test_an_ack_with_data_proves_as_well_and_the_data_is_delivered(plane: Plane) -> None:
    conversation = talk(plane)
    syn_ack = conversation.answer(conversation.syn())
    conversation.peer_seq, conversation.peer_ack = PEER_ISN + 1, syn_ack.seq + 1
    arrived = conversation.receive(conversation.data())
    assert arrived.kind is Arrival.DELIVERED_AND_ANSWERED
    assert arrived.frame.endswith(DATAGRAM)
    assert conversation.entry.rx_packets == 1


def test_a_cookie_counts_for_three_epochs_and_never_again(plane: Plane) -> None:
    for age in (0, 1, 2, 5, 6, 7, 64, 1 << 20):
        plane.reset()
        conversation = talk(plane)
        epoch = epoch_now()
        if age > epoch:
            continue
        conversation.peer_ack = (cookie(conversation, epoch - age, 12) + 1) % 2**32
        conversation.receive(conversation.segment(ACK))
        assert conversation.state() is (State.ESTABLISHED if age < 3 else None), f"age {age}"


def test_a_cookie_counts_for_its_own_flow_alone(plane: Plane) -> None:
    conversation = talk(plane)
    syn_ack = conversation.answer(conversation.syn())
    for other in (
        replace(conversation, remote=replace(conversation.remote, port=40001)),
        replace(conversation, remote=replace(conversation.remote, address=IPv4Address(1 << 24))),
    ):
        plane.allow_reset()
        answer = other.answer(other.segment(ACK, ack=syn_ack.seq + 1))
        assert (answer.flags, answer.seq) == (RST, syn_ack.seq + 1)
        assert other.state() is None


@pytest.mark.parametrize(("flags", "payload"), [(ACK, b""), (ACK | PSH, DATAGRAM)])
def test_an_ack_of_a_wrong_cookie_is_answered_with_rst_once_in_10_ms(
    plane: Plane, flags: int, payload: bytes
) -> None:
    conversation = talk(plane)
    syn_ack = conversation.answer(conversation.syn())
    plane.counted()
    wrong = conversation.segment(flags, payload, ack=syn_ack.seq + 1 + 64)
    start_ns = now_ns()
    kinds = [conversation.receive(wrong).kind for _ in range(300)]
    most = (now_ns() - start_ns) // RST_INTERVAL_NS + 1
    assert kinds[0] is Arrival.ANSWERED
    assert set(kinds) == {Arrival.ANSWERED, Arrival.DROPPED}
    answered = kinds.count(Arrival.ANSWERED)
    assert answered <= most
    assert plane.counted() == {"tx-rst": answered, "drop-rx-no-connection": 300}
    assert conversation.state() is None


def test_a_flood_of_syns_from_ten_thousand_ends_fills_nothing(plane: Plane) -> None:
    conversation = talk(plane)
    for number in range(10_000):
        remote = End(IPv4Address(0x0A000000 + number * 7), 1024 + number)
        flooder = replace(conversation, remote=remote)
        arrived = flooder.receive(flooder.syn(number * 429_496))
        assert arrived.kind is Arrival.ANSWERED
    assert plane.maps["conns"].all_keys() == []
    assert plane.events() == []
    assert plane.counted() == {"rx-syn": 10_000, "tx-syn-ack": 10_000}
    # and the next one gets in
    conversation.accept()
    assert conversation.state() is State.ESTABLISHED


def test_a_syn_that_was_answered_keeps_us_from_opening_as_well(plane: Plane) -> None:
    conversation = talk(plane)
    syn_ack = conversation.answer(conversation.syn())
    assert conversation.send().result == Departure.HELD
    entry = conversation.entry
    assert (entry.state, entry.role) == (State.SYN_RECEIVED, Role.RESPONDER)
    assert (entry.seq, entry.ack) == (syn_ack.seq + 1, PEER_ISN + 1)


def test_a_syn_of_a_connection_that_ended_is_forgotten(plane: Plane) -> None:
    """The peer that connected and went away is not waiting: the next datagram opens."""
    conversation = talk(plane)
    conversation.accept()
    conversation.receive(conversation.segment(RST))
    assert conversation.state() is State.IDLE
    assert conversation.open().flags == SYN
    assert conversation.state() is State.SYN_SENT


def test_a_passive_filter_accepts_and_then_sends(plane: Plane) -> None:
    conversation = talk(plane, settings=FlowSettings(handshake=Handshake(interval_s=0)))
    assert conversation.send().result == Departure.DROPPED
    assert plane.counted() == {"drop-passive": 1}
    conversation.accept()
    assert conversation.sent().flags == ACK | PSH


def test_max_window_offers_scale_14(plane: Plane) -> None:
    conversation = talk(plane, settings=FlowSettings(max_window=True))
    answer = conversation.answer(conversation.syn())
    assert answer.options == encode_syn_options(1460, 14)
    assert LOCAL[4] == answer.source
