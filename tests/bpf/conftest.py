# SPDX-License-Identifier: GPL-2.0-only
"""The programs are compiled once for all tests; each test finds their maps empty."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bpf.plane import Build, Plane
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


BUILDS = {
    "xdp": Build(),
    "tc": Build(receive_on="tc"),
    "whole sums": Build(with_btf=False),
    "whole sums, old kernel": Build(with_btf=False, old_adjust_room=True),
    "no link header": Build(link_bytes=0),
    "no link header, tc": Build(link_bytes=0, receive_on="tc"),
}


@pytest.fixture(scope="session")
def open_build(
    inside: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Plane]]:
    """Compiles a build when it is first asked for."""
    planes: dict[str, Plane] = {}
    cache = tmp_path_factory.mktemp("cache")

    def open_(name: str) -> Plane:
        if name not in planes:
            planes[name] = BUILDS[name].compile(inside, cache)
        planes[name].reset()
        return planes[name]

    yield open_
    for plane in planes.values():
        plane.close()


@pytest.fixture(params=["xdp", "tc"])
def plane(request: pytest.FixtureRequest, open_build: Callable[[str], Plane]) -> Plane:
    """For an interface with Ethernet headers, receiving on either hook."""
    return open_build(request.param)


@pytest.fixture(params=["xdp", "whole sums", "whole sums, old kernel"])
def sending_plane(request: pytest.FixtureRequest, open_build: Callable[[str], Plane]) -> Plane:
    """Where the kernel tells how it left a checksum, and where it does not."""
    return open_build(request.param)


@pytest.fixture
def whole_sum_plane(open_build: Callable[[str], Plane]) -> Plane:
    """Where the kernel does not tell."""
    return open_build("whole sums")


@pytest.fixture
def xdp_plane(open_build: Callable[[str], Plane]) -> Plane:
    """Receiving on XDP, with a program for answers on TC ingress."""
    return open_build("xdp")


@pytest.fixture(params=["no link header", "no link header, tc"])
def headerless_plane(request: pytest.FixtureRequest, open_build: Callable[[str], Plane]) -> Plane:
    """For an interface without link headers."""
    return open_build(request.param)
