# SPDX-License-Identifier: GPL-2.0-only
"""Networks of the rig as fixtures. Each test gets its own, and everything here needs root."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import mimicd.bus  # noqa: F401  (keeps dbus-next from loading GLib)
from tests.netns.scripted import Scene, scripted_scene
from tests.rig.network import Network, direct, routed

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.root)


@pytest.fixture
def direct_network() -> Iterator[Network]:
    """Two hosts and one cable."""
    with direct() as network:
        yield network


@pytest.fixture
def routed_network() -> Iterator[Network]:
    """Two hosts and a router with a conntrack firewall."""
    with routed() as network:
        yield network


@pytest.fixture
def wired_network() -> Iterator[Network]:
    """The same with a user-space cable between router and B."""
    with routed(wire=True) as network:
        yield network


@pytest.fixture(scope="module", params=["native", "none"], ids=["XDP", "TC"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """The data path at both hosts, received in either way, ready to meet scripted peers."""
    with scripted_scene(request.param) as scene:
        yield scene
