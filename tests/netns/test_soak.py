# SPDX-License-Identifier: GPL-2.0-only
"""A short soak; `make soak` is the long one."""

import io

from tests.demo.report import Report
from tests.netns.soak import soak


def test_nothing_leaks_while_interfaces_addresses_and_connections_come_and_go() -> None:
    words = io.StringIO()
    report = Report(words)
    soak(report)
    assert report.close() == 0, words.getvalue()
