# SPDX-License-Identifier: GPL-2.0-only
"""What is enabled is there again after a reboot."""

from __future__ import annotations

from tests.demo.report import Report
from tests.system import machine
from tests.system.machine import CONFIG, apt, await_active, ctl, is_active, systemctl
from tests.system.scenes import purge

_FILTER = "filter = remote=192.0.2.1:51820\n"


def prepare(report: Report, package: str, interface: str) -> None:
    """Enable an interface that this machine has at boot; nothing is started."""
    report.heading("Before the reboot")
    apt("install", package)
    (CONFIG / f"{interface}.conf").write_text(_FILTER)
    unit = f"mimic@{interface}.service"
    systemctl("enable", unit)
    report.check("enabled", systemctl("is-enabled", unit).stdout.strip() == "enabled", unit)


def look(report: Report, interface: str) -> None:
    """After it."""
    report.heading("After the reboot")
    unit = f"mimic@{interface}.service"
    await_active(unit)
    report.check("the unit is active", is_active(unit), unit)
    listed = ctl("list").stdout
    report.check("the interface is attached", interface in listed, "")
    booted = machine.unit_property("multi-user.target", "ActiveState")
    report.check("the boot is done", booted == "active", booted)
    apt("remove", "mimicd")
    (CONFIG / f"{interface}.conf").unlink()
    purge(report)
