# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kaminari.rig import Rig, open_rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    with open_rig() as opened:
        yield opened
