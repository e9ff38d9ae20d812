# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.deadlines: at most one deadline a key, the earliest first."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mimicd.core.deadlines import Deadlines

keys = st.integers(0, 9).map(lambda number: b"%d" % number)
# few moments, so that many are the same
moments = st.integers(0, 20)


class AgainstADictionary(RuleBasedStateMachine):
    """Does what Deadlines does, by looking at all of them each time."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines = Deadlines()
        self.model: dict[bytes, int] = {}

    @rule(key=keys, at_ns=moments)
    def set(self, key: bytes, at_ns: int) -> None:
        self.deadlines.set(key, at_ns)
        self.model[key] = at_ns

    @rule(key=keys)
    def clear(self, key: bytes) -> None:
        self.deadlines.clear(key)
        self.model.pop(key, None)

    @rule(now_ns=moments, limit=st.integers(0, 4))
    def take_due(self, now_ns: int, limit: int) -> None:
        due = self.deadlines.take_due(now_ns, limit)
        expected = sorted(at_ns for at_ns in self.model.values() if at_ns <= now_ns)[:limit]
        assert [self.model[key] for key in due] == expected
        assert len(set(due)) == len(due)
        for key in due:
            del self.model[key]

    @invariant()
    def next_is_the_earliest(self) -> None:
        assert self.deadlines.next_ns() == min(self.model.values(), default=None)
        assert len(self.deadlines) == len(self.model)


TestAgainstADictionary = AgainstADictionary.TestCase
TestAgainstADictionary.settings = settings(max_examples=200, stateful_step_count=60)


def test_a_key_that_is_set_again_and_again_takes_no_room() -> None:
    deadlines = Deadlines()
    deadlines.set(b"other", 1)
    for at_ns in range(100_000, 0, -1):
        deadlines.set(b"key", at_ns)
    assert len(deadlines) == 2
    assert len(deadlines._heap) <= 64
    assert deadlines.take_due(1, 9) == [b"key", b"other"]
    assert deadlines.next_ns() is None


def test_no_more_are_taken_than_asked_for() -> None:
    deadlines = Deadlines()
    for number in range(10):
        deadlines.set(b"%d" % number, 10 - number)
    assert deadlines.take_due(5, 3) == [b"9", b"8", b"7"]
    assert deadlines.take_due(5, 3) == [b"6", b"5"]
    assert deadlines.next_ns() == 6
