# SPDX-License-Identifier: GPL-2.0-only
"""The programs are compiled once for all tests; each test finds their maps empty."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bpf.plane import Plane, build
from tests.rig.namespace import Namespace
from tests.rig.namespace import _enter_network as enter_network

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="session")
def inside() -> Iterator[ThreadPoolExecutor]:
    """A thread in a namespace of its own, where the programs run."""
    with (
        Namespace("bpf") as namespace,
        ThreadPoolExecutor(1, initializer=enter_network, initargs=(namespace.path,)) as thread,
    ):
        yield thread


def opened(
    inside: ThreadPoolExecutor, link_bytes: int = 14, with_btf: bool = True
) -> Iterator[Plane]:
    plane = build(inside, link_bytes, with_btf)
    yield plane
    plane.close()


@pytest.fixture(scope="session")
def ethernet_build(inside: ThreadPoolExecutor) -> Iterator[Plane]:
    yield from opened(inside)


@pytest.fixture(scope="session")
def whole_sum_build(inside: ThreadPoolExecutor) -> Iterator[Plane]:
    yield from opened(inside, with_btf=False)


@pytest.fixture(scope="session")
def headerless_build(inside: ThreadPoolExecutor) -> Iterator[Plane]:
    yield from opened(inside, link_bytes=0)


@pytest.fixture
def plane(ethernet_build: Plane) -> Plane:
    """For an interface with Ethernet headers."""
    ethernet_build.reset()
    return ethernet_build


@pytest.fixture
def whole_sum_plane(whole_sum_build: Plane) -> Plane:
    """The same where the kernel does not tell how it left a checksum."""
    whole_sum_build.reset()
    return whole_sum_build


@pytest.fixture
def headerless_plane(headerless_build: Plane) -> Plane:
    """For an interface without link headers."""
    headerless_build.reset()
    return headerless_build
