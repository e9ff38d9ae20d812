# SPDX-License-Identifier: GPL-2.0-only
"""A private bus for each test that asks for one."""

from collections.abc import Iterator

import pytest

import mimicd.bus  # noqa: F401 - before dbus_next, which would load GLib
from tests.bus.dbus_daemon import PrivateBus, private_bus


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus() as one:
        yield one
