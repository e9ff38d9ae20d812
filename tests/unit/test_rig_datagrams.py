# SPDX-License-Identifier: GPL-2.0-only
"""The judge of test traffic: it must see every kind of damage, else green means nothing."""

import pytest

from tests.rig.datagrams import Stream, seeded_sizes


def sent_stream(sizes: list[int], seed: int = 1) -> tuple[Stream, list[bytes]]:
    stream = Stream(sizes, seed)
    for ordinal in range(len(sizes)):
        stream.note_sent(ordinal)
    return stream, [stream.datagram(ordinal) for ordinal in range(len(sizes))]


def receive(stream: Stream, datagrams: list[bytes]) -> None:
    for datagram in datagrams:
        stream.note_received(datagram)


def test_sizes_show_each_size_at_least_once_in_seeded_order() -> None:
    sizes = seeded_sizes(300, 200, seed=4)
    assert len(sizes) == 300
    assert set(sizes) == set(range(201))
    assert sizes == seeded_sizes(300, 200, seed=4)
    assert sizes != seeded_sizes(300, 200, seed=5)
    assert sizes[:201] != sorted(sizes[:201])


def test_too_few_datagrams_for_every_size_are_refused() -> None:
    with pytest.raises(ValueError, match="every size"):
        seeded_sizes(200, 200, seed=1)


def test_datagrams_have_their_size_and_differ() -> None:
    stream, datagrams = sent_stream(list(range(100)) + [100] * 500)
    assert [len(datagram) for datagram in datagrams[:100]] == list(range(100))
    assert len(set(datagrams[100:])) == 500
    assert stream.datagram(250) == datagrams[250]


def test_everything_in_order_is_clean() -> None:
    stream, datagrams = sent_stream(list(range(50)))
    receive(stream, datagrams)
    verdict = stream.verdict()
    assert verdict.clean
    assert (verdict.sent, verdict.received) == (50, 50)


@pytest.mark.parametrize("ordinal", [0, 3, 7, 8, 40])
def test_a_missing_datagram_is_named_whatever_its_size(ordinal: int) -> None:
    stream, datagrams = sent_stream(list(range(50)))
    receive(stream, datagrams[:ordinal] + datagrams[ordinal + 1 :])
    verdict = stream.verdict()
    assert verdict.missing == (ordinal,)
    assert verdict.intact
    assert not verdict.clean
    assert stream.outstanding == 1


@pytest.mark.parametrize("ordinal", [1, 3, 7, 8, 40])
def test_a_changed_byte_is_corruption_and_the_datagram_is_missing(ordinal: int) -> None:
    for index in range(ordinal):
        stream, datagrams = sent_stream(list(range(50)))
        changed = bytearray(datagrams[ordinal])
        changed[index] ^= 1
        datagrams[ordinal] = bytes(changed)
        receive(stream, datagrams)
        verdict = stream.verdict()
        assert verdict.corrupt == 1
        assert verdict.missing == (ordinal,)


@pytest.mark.parametrize("cut", [-1, -5])
def test_a_datagram_cut_short_or_padded_is_corruption(cut: int) -> None:
    stream, datagrams = sent_stream([20, 20])
    receive(stream, [datagrams[0][:cut], datagrams[1] + b"x"])
    assert stream.verdict().corrupt == 2


def test_a_datagram_of_another_stream_is_corruption() -> None:
    stream, _ = sent_stream([20])
    _, others = sent_stream([20], seed=2)
    receive(stream, others)
    assert stream.verdict().corrupt == 1


@pytest.mark.parametrize("size", [0, 5, 30])
def test_a_datagram_that_comes_twice_is_counted(size: int) -> None:
    stream, datagrams = sent_stream([size])
    receive(stream, datagrams * 2)
    verdict = stream.verdict()
    assert (verdict.duplicated, verdict.missing, verdict.clean) == (1, (), False)


def test_a_datagram_overtaken_by_a_later_one_is_counted() -> None:
    stream, datagrams = sent_stream([20] * 5)
    receive(stream, [datagrams[i] for i in (0, 2, 1, 3, 4)])
    verdict = stream.verdict()
    assert (verdict.late, verdict.missing, verdict.intact) == (1, (), False)


def test_a_refused_send_is_not_clean() -> None:
    stream, datagrams = sent_stream([20])
    stream.note_refused("Message too long")
    receive(stream, datagrams)
    assert not stream.verdict().clean


def test_a_verdict_tells_itself_in_words() -> None:
    stream, datagrams = sent_stream([20] * 5)
    stream.note_refused("Message too long")
    receive(stream, [datagrams[1], datagrams[0], datagrams[0], b"nobody sent this"])
    assert str(stream.verdict()) == (
        "4 of 5 arrived, 3 missing (first: 2, 3, 4), 1 corrupt, 1 late, 1 twice, "
        "1 refused (Message too long)"
    )
