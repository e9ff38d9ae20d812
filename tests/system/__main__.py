# SPDX-License-Identifier: GPL-2.0-only
"""Runs the scenes; exit code 1 if a check failed, 2 if this machine cannot show any."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.demo.report import Report
from tests.rig.namespace import RigError
from tests.system import reboot, scenes
from tests.system.lan import Lan, Traffic
from tests.system.machine import CommandError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.system", description=__doc__)
    parser.add_argument("package", help="the Debian package, mimicd_VERSION_all.deb")
    parser.add_argument("--reboot", metavar="INTERFACE", help="prepare for a reboot")
    parser.add_argument("--rebooted", metavar="INTERFACE", help="look after it, and purge")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not Path("/run/systemd/system").is_dir():
        sys.stderr.write("this needs root and a machine that systemd runs\n")
        return 2
    if not arguments.rebooted and Path("/usr/sbin/mimicd").exists():
        sys.stderr.write("mimicd is installed here, and would be purged: use another machine\n")
        return 2
    report = Report()
    try:
        if arguments.rebooted:
            reboot.look(report, arguments.rebooted)
        elif arguments.reboot:
            reboot.prepare(report, arguments.package, arguments.reboot)
        else:
            run(report, arguments.package)
    except (CommandError, RigError) as error:
        report.check("every step can be done", False, str(error))
    return report.close()


def run(report: Report, package: str) -> None:
    with Lan() as lan:
        bare = scenes.state_of_interface()
        scenes.installed(report, package)
        scenes.activated(report)
        scenes.trusted(report)
        scenes.unready(report)
        scenes.guarded(report, lan)
        lan.start_peer()
        with Traffic(lan) as traffic:
            scenes.attached(report, lan, traffic)
        scenes.replugged(report, lan, lambda: Traffic(lan))
        for scene in (scenes.reloaded, scenes.restarted, scenes.crashed, scenes.hung):
            with Traffic(lan) as traffic:
                scene(report, lan, traffic)
        scenes.in_a_namespace(report)
        with Traffic(lan) as traffic:
            scenes.upgraded(report, lan, traffic, package)
        with Traffic(lan) as traffic:
            scenes.stopped(report, lan, traffic, bare)
        lan.stop_peer()
        scenes.purged(report, bare)


if __name__ == "__main__":
    sys.exit(main())
