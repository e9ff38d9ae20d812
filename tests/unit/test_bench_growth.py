# SPDX-License-Identifier: GPL-2.0-only
"""Many flows and many filters of the benchmarks."""

import pytest

from bench.arms import OURS, other, ours
from bench.growth import filter_file, flows, load_addresses, with_filter_file
from mimicd.core.config_text import parse_config_text


@pytest.mark.parametrize("count", [1, 7, 100, 1_000, 60_000, 65_535])
def test_flows_are_as_many_as_were_asked_for(count: int) -> None:
    many = flows(count)
    assert many["sockets"] * many["addresses"] == count
    assert many["addresses"] <= len(list(load_addresses()))


def test_the_usual_numbers_need_few_sockets() -> None:
    # A process may have 1024 open files on many systems.
    assert all(flows(count)["sockets"] <= 1000 for count in (1, 1_000, 60_000))


def test_filters_are_distinct_and_one_comes_from_the_command_line() -> None:
    texts = parse_config_text(filter_file(10_000), "file")["filter"]
    assert len(set(texts)) == len(texts) == 9_999
    assert filter_file(1) == ""


def test_the_file_is_read_at_both_ends() -> None:
    arm = with_filter_file(ours("mimicd"))
    for line in (arm.server, arm.client):
        assert "-F {folder}/filters.conf -f " in line
    assert arm.name == OURS


def test_an_arm_without_filters_stays_as_it_is() -> None:
    arm = other("x", "a", "b", is_relay=False)
    assert with_filter_file(arm) == arm
