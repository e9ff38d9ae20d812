# SPDX-License-Identifier: GPL-2.0-only
"""What ran out is noticed at once and said once a minute."""

from mimicd.core.abi import COUNTERS
from mimicd.core.shortages import RING_FULL, SAY_EVERY_NS, Shortages

NAMES = [RING_FULL, "drop-map-full", "drop-rx-map-full"]


def test_each_shortage_is_noticed_at_once_and_said_with_its_count() -> None:
    counts = [0] * len(COUNTERS)
    counts[COUNTERS.index(RING_FULL)] = 7  # of an earlier daemon
    shortages = Shortages(counts.__getitem__)
    assert shortages.news(0) == (set(), [])
    for name in NAMES:
        counts[COUNTERS.index(name)] += 3
        risen, (sentence,) = shortages.news(0)
        assert risen == {name}
        assert sentence.startswith("3 ")
        assert shortages.news(0) == (set(), [])


def test_what_goes_on_is_said_once_a_minute_and_nothing_is_left_out() -> None:
    counts = [0] * len(COUNTERS)
    shortages = Shortages(counts.__getitem__)
    for second in range(150):
        counts[COUNTERS.index("drop-map-full")] += 1
        risen, sentences = shortages.news(second * SAY_EVERY_NS // 60)
        assert risen == {"drop-map-full"}
        said = [int(sentence.split()[0]) for sentence in sentences]
        assert said == {0: [1], 60: [60], 120: [60]}.get(second, [])


def test_other_counters_are_no_shortage() -> None:
    counts = [0] * len(COUNTERS)
    shortages = Shortages(counts.__getitem__)
    for index, name in enumerate(COUNTERS):
        counts[index] += name not in NAMES
    assert shortages.news(0) == (set(), [])
