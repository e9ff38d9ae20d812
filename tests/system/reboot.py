# SPDX-License-Identifier: GPL-2.0-only
"""What is enabled is there again after a reboot."""

from __future__ import annotations

from pathlib import Path

from tests.demo.report import Report
from tests.system import machine
from tests.system.machine import CONFIG, apt, await_active, ctl, do, is_active, systemctl
from tests.system.scenes import purge

_FILTER = "filter = remote=192.0.2.1:51820\n"


def prepare(report: Report, package: str, interface: str) -> None:
    """Enable an interface that this machine has at boot; nothing is started."""
    report.heading("Before the reboot")
    apt("install", str(Path(package).resolve()))
    (CONFIG / f"{interface}.conf").write_text(_FILTER)
    for unit in units_of(interface):
        systemctl("enable", unit)
        report.check("enabled", systemctl("is-enabled", unit).stdout.strip() == "enabled", unit)


def units_of(interface: str) -> tuple[str, str]:
    """That of the disguise and that of the guard."""
    return f"mimic@{interface}.service", f"mimic-guard@{interface}.service"


def look(report: Report, interface: str) -> None:
    """After it."""
    report.heading("After the reboot")
    for unit in units_of(interface):
        await_active(unit)
        report.check("the unit is active", is_active(unit), unit)
    dropped = do("tc", "filter", "show", "dev", interface, "egress").stdout
    report.check("the guard is on", "mimic_guard" in dropped, "")
    guarded_us, network_us = (
        int(machine.unit_property(unit, "ActiveEnterTimestampMonotonic"))
        for unit in (units_of(interface)[1], "network-pre.target")
    )
    before = 0 < guarded_us < network_us
    report.check("since before the network", before, f"{guarded_us} us, {network_us} us")
    listed = ctl("list").stdout
    report.check("the interface is attached", interface in listed, "")
    booted = machine.unit_property("multi-user.target", "ActiveState")
    report.check("the boot is done", booted == "active", booted)
    apt("remove", "mimicd")
    (CONFIG / f"{interface}.conf").unlink()
    purge(report)
