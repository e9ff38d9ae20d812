# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.records: who serves an interface is told from whoever else would."""

from pathlib import Path

import pytest

from mimicd.audience import Audience
from mimicd.core.errors import AlreadyRunningError
from mimicd.records import Records


def test_what_is_served_is_claimed_by_nobody_else_and_not_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a renaming that is not yet seen: the same interface under another name."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    ours, others = (Records(Audience(lambda _: None)) for _ in range(2))
    ours.claim("eth0", "3")
    for records, name in ((others, "eth0"), (ours, "wan0")):
        with pytest.raises(AlreadyRunningError):
            records.claim(name, "3")
    assert (ours.has_claimed("3"), others.has_claimed("3")) == (True, False)
    ours.forget("3")
    others.claim("eth0", "3")
    others.release_all()
