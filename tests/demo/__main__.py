# SPDX-License-Identifier: GPL-2.0-only
"""The command behind ./demo.sh. Exit code: 0 all checks passed, 1 not, 2 bad usage, 4 not root."""

import os
import signal
import sys

from tests.demo import story
from tests.demo.machine import Machine
from tests.demo.report import Report
from tests.rig.namespace import RigError, scratch_folder
from tests.rig.network import routed

USAGE = "usage: ./demo.sh (no options; as root)"


def main() -> int:
    if len(sys.argv) > 1:
        print(USAGE, file=sys.stderr)
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    if os.geteuid() != 0:
        print(
            "demo: not root, and network namespaces need it; run: sudo ./demo.sh", file=sys.stderr
        )
        return 4
    # A kill removes what was made, like the other ways to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report = Report()
    try:
        _play(report)
    except KeyboardInterrupt:
        print("\ndemo: interrupted; what it made is removed", file=sys.stderr)
        return 130
    except (RigError, OSError) as exc:
        report.check("the demonstration runs to its end", False, " ".join(str(exc).split()))
    return report.close()


def _play(report: Report) -> None:
    with (
        scratch_folder() as folder,
        routed() as network,
        Machine("A", network.a, report) as at_a,
        Machine("B", network.b, report) as at_b,
    ):
        stage = story.Stage(report, network, folder)
        story.introduce(stage)
        before = story.plain(stage)
        story.start(stage, at_a, at_b)
        story.disguised(stage, before)
        story.show(stage, at_a, at_b)
        story.stop(stage, at_a, at_b)


if __name__ == "__main__":
    sys.exit(main())
