# SPDX-License-Identifier: GPL-2.0-only
"""Parts of a long list: each connection is in one of them, whatever else comes and goes."""

from hypothesis import given
from hypothesis import strategies as st

from mimicd.core.part import CONNECTIONS, WHOLE, Part, parts_for


@given(st.binary(min_size=36, max_size=36), st.integers(1, 100))
def test_a_connection_is_in_exactly_one_part(key: bytes, parts: int) -> None:
    assert [Part(number, parts).has(key) for number in range(parts)].count(True) == 1
    assert WHOLE.has(key)


def test_a_short_list_is_one_part_and_a_long_one_as_many_as_it_takes() -> None:
    sizes = (0, 1, CONNECTIONS, CONNECTIONS + 1, 65536)
    assert [parts_for(size) for size in sizes] == [1, 1, 1, 2, 8]
