# SPDX-License-Identifier: GPL-2.0-only
"""A peer that errs as a deployed mimic does is talked to all the same, whoever opened.

Each error by itself and all of them together; the notes of the protocol, one by one, are in
test_peer_notes.
"""

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.netns.scripted import (
    EACH_QUIRK,
    EACH_WAY,
    FAMILIES,
    QUIRKS,
    RECOVERY_S,
    Scene,
    chat,
    open_by,
    resets,
)
from tests.netns.talk import BETWEEN_TRIES_S, heard, say
from tests.netns.test_peer_notes import seed_of_isn
from tests.rig.namespace import RigError, wait_until
from tests.rig.peer import Peer, Quirks
from tests.rig.segment import ACK, SYN

# One way of receiving is enough here: what differs is in test_peer_notes.
pytestmark = pytest.mark.parametrize("scene", ["auto"], indirect=True)


@EACH_WAY
@EACH_QUIRK
def test_what_ours_opens_carries_data_both_ways(
    scene: Scene, quirks: Quirks, family: int, padding: int
) -> None:
    before = scene.invalid()
    with scene.talk(family, padding, quirks) as (program, peer):
        say(program, b"opens")
        assert peer.next_datagram() == b"opens"
        chat(program, peer)
        assert resets(peer.received) == []
    assert scene.invalid() == before


@EACH_WAY
@EACH_QUIRK
def test_what_the_peer_opens_carries_data_both_ways(
    scene: Scene, quirks: Quirks, family: int, padding: int
) -> None:
    before = scene.invalid()
    with scene.talk(family, padding, quirks) as (program, peer):
        peer.connect(b"opens")
        assert heard(program) == [b"opens"]
        chat(program, peer)
        assert resets(peer.received) == []
    assert scene.invalid() == before


@FAMILIES
@pytest.mark.parametrize("leave", [Peer.reset, Peer.forget], ids=["a reset", "a silent restart"])
@pytest.mark.parametrize("opener", ["ours", "peer"])
def test_after_the_peer_has_left_the_next_datagrams_open_it_again(
    scene: Scene, opener: str, leave: Callable[[Peer], None], family: int
) -> None:
    """All errors at once, since most of the time is spent waiting for cooldowns.

    Just above the peer's numbers conntrack takes a RST with seq 0 for one that is to be
    challenged: it passes, the connection stays, and our next SYN, which goes the other way than
    the first one, is invalid for as long. No end can mend that, so such a peer has another ISN.
    """
    elsewhere = seed_of_isn(just_below_zero=False)
    with ExitStack() as stack:
        talks = {
            name: stack.enter_context(
                scene.talk(
                    family,
                    quirks=quirks,
                    seed=elsewhere if quirks.reset_with_seq_zero else None,
                )
            )
            for name, quirks in QUIRKS.items()
        }
        for program, peer in talks.values():
            open_by(opener, program, peer)
        before = scene.invalid()[0]
        for _, peer in talks.values():
            peer.skip()
            leave(peer)

        away = set(talks)

        def all_are_back() -> bool:
            for name in list(away):
                program, peer = talks[name]
                if b"again" in peer.tcp.delivered:
                    away.remove(name)
                else:
                    say(program, b"again")
            return not away

        try:
            wait_until(all_are_back, RECOVERY_S, "a datagram to each peer", every_s=BETWEEN_TRIES_S)
        except RigError as error:
            shown = {name: (talks[name][1].tcp, talks[name][1].received) for name in away}
            raise AssertionError(f"{error}: {shown}") from error
        for name, (program, peer) in talks.items():
            peer.expect(lambda segment: segment.flags == SYN, what=f"a new SYN to {name}")
            peer.send(b"answer")
            assert heard(program) == [b"answer"], name
        if opener == "ours":
            assert scene.invalid()[0] == before


@EACH_QUIRK
def test_a_peer_that_opened_restarted_and_opens_again_is_let_in_at_once(
    scene: Scene, quirks: Quirks
) -> None:
    before = scene.invalid()
    with scene.talk(quirks=quirks) as (program, peer):
        open_by("peer", program, peer)
        # An answer still on its way would meet the new SYN, and a mimic would give that up.
        wait_until(lambda: peer.received[-1].ack == peer.tcp.seq, 5, "all is acknowledged")
        peer.forget()
        peer.skip()
        peer.connect(b"anew")
        assert heard(program) == [b"anew"]
        assert peer.expect(lambda segment: segment.has(SYN)).flags == SYN | ACK
        chat(program, peer)
        assert resets(peer.received) == []
    assert scene.invalid() == before
