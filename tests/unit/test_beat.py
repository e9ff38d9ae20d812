# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.beat: what is due regularly comes at the same time, whenever it began."""

from types import SimpleNamespace
from typing import Any

import pytest

from mimicd.beat import at_next


def delay_s(now_s: float, every_s: float) -> float:
    """After what time a loop whose clock shows `now_s` is asked to call."""
    asked: list[float] = []
    loop: Any = SimpleNamespace(
        time=lambda: now_s, call_later=lambda after_s, _work: asked.append(after_s)
    )
    at_next(loop, every_s, lambda: None)
    return asked[0]


@pytest.mark.parametrize("began_s", [700.0, 700.2, 700.998])
def test_the_next_time_does_not_depend_on_the_last(began_s: float) -> None:
    assert began_s + delay_s(began_s, 1.0) == pytest.approx(701.0)


def test_now_is_not_the_next_time() -> None:
    assert delay_s(700.0, 2.0) == 2.0


def test_what_comes_half_as_often_comes_with_every_second_one_of_the_others() -> None:
    assert 700.4 + delay_s(700.4, 2.0) == pytest.approx(702.0)
