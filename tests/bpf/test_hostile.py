# SPDX-License-Identifier: GPL-2.0-only
"""Frames that nobody in his right mind would send: dropped and counted, or passed as they are.

What is not for a flow of ours leaves bit for bit as it came. What is for one of ours, and no right
segment, changes a counter and nothing else, in every state of the connection.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimicd.core import abi
from mimicd.core.connection import State
from mimicd.core.model import FlowSettings
from tests.bpf.model import WINDOW, WORD
from tests.bpf.packets import IPV4, IPV6, LOCAL_MAC, REMOTE_MAC, TCP, UDP, VLAN
from tests.bpf.plane import Arrival, Departure, Plane
from tests.bpf.talk import HIGHER_REMOTE, LOCAL, Talk, talk
from tests.bpf.test_model import EACH_STATE, twin_of
from tests.bpf.test_states import idle, syn_received
from tests.bpf.twin import known
from tests.rig.noise import any_packet
from tests.rig.segment import ACK, PSH, RST, SYN

NO_FIXTURE_CHECK = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
LEAST_BYTES = 14 + 40
"""A test run takes no frame that is shorter."""
OPTIONS_READ = 20
"""Of a SYN; padding counts as well."""


def link(kinds: tuple[int, ...]) -> bytes:
    return LOCAL_MAC + REMOTE_MAC + b"".join(struct.pack("!H", kind) for kind in kinds)


LINKS = st.sampled_from(
    [
        link((IPV4,)),
        link((IPV6,)),
        link((VLAN, 7, IPV4)),
        link((VLAN, 7, VLAN, 8, IPV6)),
        link((9,)),
    ]
)


@settings(max_examples=150, suppress_health_check=NO_FIXTURE_CHECK)
@given(LINKS, st.binary(max_size=200), st.integers(0, 1500))
def test_random_bytes_pass_bit_for_bit_both_ways(
    plane: Plane, header: bytes, noise: bytes, size: int
) -> None:
    """Of no flow of ours, but for one chance in 2^48."""
    plane.reset()
    talk(plane)
    frame = (header + noise + bytes(size))[:1514].ljust(LEAST_BYTES, b"\xa5")
    arrived = plane.ingress(frame)
    assert (arrived.kind, arrived.frame) == (Arrival.PASSED, frame)
    run = plane.egress(frame)
    assert (run.result, run.data) == (Departure.SENT, frame)
    assert plane.counted() == {}
    assert plane.maps["conns"].all_keys() == []


# A frame of our flow in which everything else is drawn.


def any_frame(chance: random.Random, conversation: Talk, protocol: int) -> bytes:
    """Of our flow's addresses and ports."""
    packet = any_packet(chance, conversation.remote, conversation.local, protocol)
    kind = IPV4 if conversation.local.version == 4 else IPV6
    return (link((kind,)) + packet).ljust(LEAST_BYTES, b"\0")


def nothing(plane: Plane, version: int) -> Talk:
    return talk(plane, version)


def opening(plane: Plane, version: int) -> Talk:
    conversation = talk(plane, version)
    conversation.open()
    return conversation


def answered(plane: Plane, version: int) -> Talk:
    return syn_received(plane)[0] if version == 4 else opening(plane, version)


def established(plane: Plane, version: int) -> Talk:
    conversation = talk(plane, version)
    conversation.connect()
    return conversation


WAYS = {
    "none": nothing,
    "idle": idle,
    "syn-sent": opening,
    "syn-received": answered,
    "established": established,
}
CONTROL = ("rx-ack", "rx-probe", "rx-keepalive", "rx-rst", "rx-fin", "rx-syn")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", WAYS)
def test_any_frame_of_our_flow_is_counted_or_passed_in_every_state(
    plane: Plane, way: str, version: int
) -> None:
    chance = random.Random(f"{way} {version}")
    conversation = WAYS[way](plane, version)
    before = plane.entry(conversation.key)
    for _ in range(400):
        plane.counted()
        frame = any_frame(chance, conversation, chance.choice([TCP, TCP, TCP, UDP]))
        arrived = plane.ingress(frame)
        counts = plane.counted()
        if arrived.kind is Arrival.PASSED and arrived.frame == frame:
            assert counts == {}
        elif arrived.kind is Arrival.DROPPED:
            assert counts
        # a control segment with a right checksum is one chance in 65536: none of these got in
        assert not any(name in counts for name in CONTROL)
        if set(counts) - {"rx-data", "tx-window-update"} and before is not None:
            entry = conversation.entry
            assert (entry.state, entry.isn, entry.generation) == (
                before.state,
                before.isn,
                before.generation,
            )
    assert conversation.state() is (before.state if before else None)
    assert len(plane.maps["conns"].all_keys()) == (before is not None)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", WAYS)
def test_any_wrong_datagram_of_our_flow_is_counted_or_passed_in_every_state(
    plane: Plane, way: str, version: int
) -> None:
    """What leaves: cut, a fragment, or with lengths that lie."""
    chance = random.Random(f"{way} {version} out")
    conversation = WAYS[way](plane, version)
    ends = conversation.local, conversation.remote
    before, seen = plane.entry(conversation.key), set()
    plane.counted()
    for _ in range(400):
        packet = any_packet(chance, *ends, UDP)
        kind = IPV4 if version == 4 else IPV6
        frame = (link((kind,)) + packet).ljust(LEAST_BYTES, b"\0")
        run = plane.egress(frame)
        counts = plane.counted()
        if run.result == Departure.SENT:
            assert (run.data, counts) == (frame, {})
        else:
            assert run.result == Departure.DROPPED
            assert set(counts) < {"drop-malformed", "drop-fragment", "drop-too-big"}
        seen |= set(counts)
    assert "drop-malformed" in seen
    assert plane.entry(conversation.key) == before
    assert len(plane.maps["conns"].all_keys()) == (before is not None)


# TCP options.


def wanted_options(raw: bytes) -> tuple[int, int] | None:
    """MSS and window scale, 0 where they are missing; None where a length is broken."""
    mss = scale = at = 0
    for _ in range(OPTIONS_READ):
        if at >= len(raw) or raw[at] == 0:
            break
        if raw[at] == 1:
            at += 1
            continue
        length = raw[at + 1] if at + 1 < len(raw) else 0
        if length < 2 or at + length > len(raw):
            return None
        if (raw[at], length) == (2, 4):
            mss = int.from_bytes(raw[at + 2 : at + 4], "big")
        elif (raw[at], length) == (3, 3):
            scale = min(raw[at + 2], 14)
        at += length
    return mss, scale


OPTION = st.one_of(
    st.just(b"\1"),
    st.just(b"\0"),
    st.builds(lambda value: b"\2\4" + value.to_bytes(2, "big"), st.integers(0, 65535)),
    st.builds(lambda value: b"\3\3" + bytes([value]), st.integers(0, 255)),
    st.builds(
        lambda kind, body: bytes([kind, 2 + len(body)]) + body,
        st.integers(4, 255),
        st.binary(max_size=10),
    ),
    st.binary(min_size=1, max_size=6),
)


@settings(max_examples=300, suppress_health_check=NO_FIXTURE_CHECK)
@given(st.lists(OPTION, max_size=14), st.sampled_from([4, 6]))
def test_any_options_of_a_syn_are_read_or_refused(
    plane: Plane, options: list[bytes], version: int
) -> None:
    plane.reset()
    conversation = talk(plane, version)
    raw = b"".join(options)[:40]
    raw += b"\1" * (-len(raw) % 4)
    wanted = wanted_options(raw)
    segment = conversation.segment(SYN, seq=7000, ack=0, options=raw)
    arrived = conversation.receive(segment)
    hint = plane.maps["half_opens"].lookup(conversation.key)
    if wanted is None:
        assert arrived.kind is Arrival.DROPPED
        assert plane.counted() == {"drop-rx-options": 1}
        assert hint is None
    else:
        assert arrived.kind is Arrival.ANSWERED
        assert hint is not None
        assert struct.unpack_from("=HB", hint, 16) == wanted


# RST.


def distances(chance: random.Random) -> Iterator[int]:
    window = WINDOW[False]
    yield from (0, 1, -1, window - 1, window, window + 1, WORD // 2, WORD // 2 - 1)
    for _ in range(30):
        yield chance.randrange(WORD)


@EACH_STATE
def test_no_rst_outside_the_window_ends_a_connection(plane: Plane, state: State | None) -> None:
    """But with seq 0, which is what mimic sends. The model says what each of them does."""
    chance = random.Random(1)
    for distance in distances(chance):
        twin = twin_of(plane, 0, FlowSettings())
        if state is not None:
            known(twin, state)
        entry = twin.entry
        seq = ((entry.ack if entry else 0) + distance) % WORD
        for flags, ack in ((RST, 0), (RST | ACK, chance.randrange(WORD))):
            twin.receive(twin.segment(flags, seq, ack, 0, b""))
            if entry is not None and seq and not 0 <= distance < WINDOW[False]:
                assert twin.entry is not None
                assert twin.entry.state is state


# No room.


def test_without_room_the_next_connection_is_refused_and_the_others_go_on(plane: Plane) -> None:
    conversation = talk(plane)
    conversation.connect()
    full = abi.MAX_CONNECTIONS
    raw = plane.maps["conns"].lookup(conversation.key)
    assert raw is not None
    for number in range(full - 1):
        plane.maps["conns"].update(struct.pack("=I", number).ljust(abi.FLOW_KEY.size, b"\1"), raw)
    plane.counted()
    other = Talk(plane, LOCAL[4], replace(HIGHER_REMOTE[4], port=9), FlowSettings())
    # ours
    assert other.send().result == Departure.DROPPED
    assert plane.counted() == {"drop-map-full": 1}
    # the peer's
    syn_ack = other.answer(other.syn())
    other.peer_seq, other.peer_ack = other.peer_seq + 1, syn_ack.seq + 1
    refused = other.answer(other.segment(ACK))
    assert (refused.flags, refused.seq) == (RST, other.peer_ack)
    counts = plane.counted()
    assert (counts["drop-rx-map-full"], counts["tx-rst"]) == (1, 1)
    # and theirs who were there
    assert conversation.sent().flags == ACK | PSH
    assert conversation.receive(conversation.data()).kind is Arrival.PASSED
    # one leaves
    plane.maps["conns"].delete(struct.pack("=I", 5).ljust(abi.FLOW_KEY.size, b"\1"))
    update = other.answer(other.segment(ACK))
    assert (update.flags, other.state()) == (ACK, State.ESTABLISHED)
