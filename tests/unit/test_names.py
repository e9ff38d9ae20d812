# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.names: when names are resolved again, and what answers and failures mean."""

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from mimicd.core.names import ADDRESSES_MAX, EVERY_S, SPACING_S, Names

HOST, OTHER = "peer.example", "other.example"
A, B, C = (ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1"))


def started(*addresses: object) -> Names:
    """A name that was looked at at 0 s."""
    names = Names()
    names.keep([HOST])
    assert names.due(0) == [HOST]
    names.found(HOST, addresses or [A], 0)  # type: ignore[arg-type]
    return names


def test_a_name_is_due_every_minute() -> None:
    names = started()
    assert names.due(EVERY_S - 0.1) == []
    assert names.next_s() == EVERY_S == 60
    assert names.due(EVERY_S) == [HOST]
    assert not names.found(HOST, [A], EVERY_S).words
    assert names.next_s() == 2 * EVERY_S


def test_other_addresses_are_taken_over_and_told() -> None:
    names = started(A, C)
    change = names.found(HOST, [C, B], 60)
    assert change.filters
    assert change.words == (
        "the name peer.example is now 2001:db8::1, 192.0.2.2, it was 192.0.2.1, 2001:db8::1"
    )
    assert names.addresses == {HOST: (C, B)}


def test_the_same_addresses_in_another_order_are_no_change() -> None:
    names = started(A, B)
    assert not names.found(HOST, [B, A, B], 60).filters
    assert names.addresses == {HOST: (A, B)}


def test_an_address_in_use_stays_until_it_is_not() -> None:
    names = started(A, B)
    assert names.gone(HOST, [C]) == {A, B}
    change = names.found(HOST, [C], 60, in_use={A}.__contains__)
    assert names.addresses == {HOST: (C, A)}
    assert change.words.endswith("192.0.2.1 stays while connections use it")
    assert names.found(HOST, [C], 120).filters
    assert names.addresses == {HOST: (C,)}


def test_a_name_that_fails_keeps_its_addresses_and_is_told_once() -> None:
    names = started()
    change = names.failed(HOST, "no answer", 60)
    assert not change.filters
    assert change.is_fault
    assert "does not resolve: no answer; it stays 192.0.2.1" in change.words
    at_s = 60.0
    waits = []
    for _ in range(6):
        due_s = names.next_s()
        assert due_s is not None
        waits.append(due_s - at_s)
        at_s = due_s
        assert not names.failed(HOST, "no answer", at_s).words
    assert waits == [5, 10, 20, 40, 60, 60]
    assert names.addresses == {HOST: (A,)}
    change = names.found(HOST, [A], at_s)
    assert not change.filters
    assert "resolves again" in change.words
    assert names.failed(HOST, "no answer", at_s + 60).words


def test_an_empty_answer_is_a_failure() -> None:
    names = started()
    assert names.found(HOST, [], 60).is_fault
    assert names.addresses == {HOST: (A,)}


def test_a_failed_connection_brings_its_name_forward_but_not_more_often_than_allowed() -> None:
    names = started()
    names.keep([HOST, OTHER])
    names.found(OTHER, [B], 0)
    names.hurry(HOST)
    assert names.next_s() == SPACING_S
    assert names.due(SPACING_S) == [HOST]
    names.found(HOST, [A], 30)
    names.hurry(HOST)
    assert names.next_s() == 30 + SPACING_S
    names.hurry("unknown.example")


def test_a_change_of_the_network_brings_all_forward() -> None:
    names = started()
    names.keep([HOST, OTHER])
    names.found(OTHER, [B], 0)
    names.hurry()
    assert names.due(SPACING_S) == [HOST, OTHER]


def test_names_come_and_go_with_the_configuration() -> None:
    names = started()
    names.keep([HOST, OTHER])
    assert names.due(1) == [OTHER]
    assert names.addresses == {HOST: (A,)}
    names.keep([OTHER])
    assert names.addresses == {}
    # what was asked before it went is answered
    assert not names.found(HOST, [A], 2).filters
    assert not names.failed(HOST, "late", 2).words


def test_what_was_known_before_counts_until_it_is_looked_at() -> None:
    names = Names({HOST: [A]})
    assert names.addresses == {HOST: (A,)}
    assert names.due(0) == [HOST]


def test_a_name_has_no_more_addresses_than_allowed() -> None:
    many = [ip_address(0x0A000000 + number) for number in range(ADDRESSES_MAX + 50)]
    names = started(*many)
    assert len(names.addresses[HOST]) == ADDRESSES_MAX


@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from([A, B, C])),
            st.sets(st.sampled_from([A, B, C])),
            st.floats(0, 100),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_every_answer_is_contained_and_nothing_comes_from_nowhere(
    looks: list[tuple[set[object], set[object], float, bool]],
) -> None:
    names = started(A)
    seen: set[object] = {A}
    now_s = 0.0
    for answer, used, pause_s, fails in looks:
        now_s += pause_s
        before = names.addresses[HOST]
        if fails:
            names.failed(HOST, "no answer", now_s)
            assert names.addresses[HOST] == before
        else:
            change = names.found(HOST, answer, now_s, used.__contains__)  # type: ignore[arg-type]
            after = set(names.addresses[HOST])
            assert answer <= after or not answer
            assert after <= seen | answer
            assert after & set(before) >= used & set(before)
            assert change.filters is (after != set(before))
        seen |= answer
        due_s = names.next_s()
        assert due_s is not None
        assert now_s < due_s <= now_s + EVERY_S
