# SPDX-License-Identifier: GPL-2.0-only
"""What is done to the installed package, in order, and what has to be so then."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.demo.report import Report
from tests.netns.talk import heard, say, say_until
from tests.rig.attachments import attachments
from tests.rig.namespace import Namespace, wait_until
from tests.rig.tcx import tcx_programs
from tests.system import machine
from tests.system.lan import INTERFACE, PORT, Lan, Traffic, this_machine
from tests.system.machine import (
    CONFIG,
    UNIT,
    WITHIN_S,
    apt,
    await_active,
    ctl,
    do,
    exposure,
    is_active,
    main_pid,
    systemctl,
)

INSTANCE = f"mimic@{INTERFACE}.service"
GUARD = f"mimic-guard@{INTERFACE}.service"
CONFIG_FILE = CONFIG / f"{INTERFACE}.conf"
EXPOSURE_MAX = 3.0
DATAGRAMS = 100_000
CRASHES = 20
_CALL = ("busctl", "call", "org.mimicd1", "/org/mimicd1", "org.mimicd1.Manager")
_NOBODY = "nobody"


def connections() -> list[dict[str, Any]]:
    shown: dict[str, Any] = json.loads(ctl("show", "--json").stdout)
    listed: list[dict[str, Any]] = shown["connections"]
    return listed


def connection_of(traffic: Traffic) -> dict[str, Any]:
    """As the daemon sees it."""
    (one,) = (one for one in connections() if one["local"] == traffic.here.text)
    return one


def write_config(*lines: str) -> None:
    CONFIG.mkdir(exist_ok=True)
    CONFIG_FILE.write_text("".join(f"{line}\n" for line in lines))
    CONFIG_FILE.chmod(0o600)


def installed(report: Report, package: str) -> None:
    report.heading("Install")
    report.command("#", f"apt-get install {package}")
    apt("install", str(Path(package).resolve()))
    report.check("the daemon is not started by the installation", main_pid() == 0, "")
    alias = machine.unit_property("dbus-org.mimicd1.service", "Id")
    report.check("the bus's name for the unit is shipped", alias == UNIT, alias)
    done = do("systemd-analyze", "verify", "--man=no", UNIT, INSTANCE, GUARD, check=False)
    report.check("systemd finds no fault with the units", not done.words, done.words)


def activated(report: Report) -> None:
    report.heading("Activate by a bus call")
    report.command("#", " ".join((*_CALL, "ListInterfaces")))
    done = do(*_CALL, "ListInterfaces", check=False)
    report.check("a call starts the daemon", done.stdout.strip() == "ao 0", done.words)
    report.check("the unit is active", is_active(UNIT), machine.unit_property(UNIT, "ActiveState"))
    for unit in (UNIT, "mimic@eth0.service", "mimic-guard@eth0.service"):
        found = exposure(unit)
        claim = f"exposure of {unit} is at most {EXPOSURE_MAX}"
        report.check(claim, found <= EXPOSURE_MAX, f"{found}")
    status = Path(f"/proc/{main_pid()}/status").read_text()
    mask = int(re.findall(r"CapEff:\s*(\w+)", status)[0], 16)
    report.check("it has no CAP_SYS_ADMIN", not mask >> 21 & 1, f"{mask:x}")


def trusted(report: Report) -> None:
    report.heading("Who may do what")
    look = ctl("list", user=_NOBODY, check=False)
    report.check("an unprivileged user may look", look.exit_code == 0, look.words)
    for words, prepare in (
        ("polkit", lambda: None),
        ("no polkit", lambda: systemctl("mask", "--runtime", "--now", "polkit.service")),
    ):
        prepare()
        refused = ctl(
            "run", "--detach", "-f", "remote=192.0.2.1:7", "lo", user=_NOBODY, check=False
        )
        seen = f"exit code {refused.exit_code}: {refused.words}"
        report.check(f"{words}: they may not change anything", refused.exit_code == 4, seen)
        stop = ctl("stop", "lo", check=False)
        report.check(f"{words}: root may", "not running" in stop.words, stop.words)
    systemctl("unmask", "--runtime", "polkit.service")
    driver = ("org.freedesktop.DBus", "/", "org.freedesktop.DBus")
    take = ("RequestName", "su", "org.mimicd1", "0")
    own = do("busctl", "call", *driver, *take, user=_NOBODY, check=False)
    report.check("they may not take the daemon's name", own.exit_code != 0, own.words)
    listening = do("ss", "-H", "-tulwnp").stdout
    report.check("nothing of it listens on the network", "mimicd" not in listening, "")


def attached(report: Report, lan: Lan, traffic: Traffic) -> None:
    report.heading("One interface, as configured")
    write_config(f"filter = {lan.filter}")
    report.command("#", f"systemctl enable --now {INSTANCE}")
    systemctl("enable", "--now", INSTANCE)
    report.check("ready means attached", INTERFACE in ctl("list").stdout, "")
    traffic.some(3000)
    report.check("datagrams cross, byte for byte", traffic.clean, traffic.words)
    one = connection_of(traffic)
    report.check("they cross disguised", one["tx-packets"] >= 3000, f"{one['tx-packets']}")
    records = machine.journal(f"_SYSTEMD_UNIT={UNIT}", f"INTERFACE={INTERFACE}")
    priorities = {str(record["PRIORITY"]) for record in records}
    report.check("its log has the interface as a field", bool(records), f"{len(records)} records")
    report.check("its log has priorities", "6" in priorities, " ".join(sorted(priorities)))
    flow = f"CONNECTION={one['local']} => {one['remote']}"
    report.check("and the connection", bool(machine.journal(flow)), flow)
    run, cache = Path("/run/mimicd"), Path("/var/cache/mimicd")
    state = [run, *run.rglob("*"), cache, *cache.rglob("*")]
    loose = [
        (path, mode)
        for path, owner, mode in machine.owned(*state)
        if owner != "root" or int(mode, 8) & (0o022 if path == str(run) else 0o077)
    ]
    report.check("its files are for root alone", not loose, str(loose or len(state)))


def unready(report: Report) -> None:
    report.heading("A bad file")
    write_config("filter = nonsense")
    started = systemctl("start", INSTANCE, check=False)
    said = machine.messages("-u", INSTANCE)
    report.check("a unit with a bad file fails", started.exit_code != 0, "")
    report.check("and says why", "nonsense" in said, "")
    systemctl("reset-failed", INSTANCE)


def guarded(report: Report, lan: Lan) -> None:
    report.heading("Nothing leaves undisguised")
    before = state_of_interface()
    write_config(f"filter = {lan.filter}")
    report.command("#", f"systemctl enable --now {GUARD}")
    systemctl("enable", "--now", GUARD)
    report.check("a guarded flow does not leave", not crosses(lan, PORT), "")
    report.check("another one does", crosses(lan, PORT + 1), "")
    write_config(f"filter = {lan.filter}", f"filter = {lan.filter_on(PORT + 1)}")
    systemctl("reload", GUARD)
    report.check("a reload guards one more", not crosses(lan, PORT + 1), "")
    write_config("filter = nonsense")
    code = systemctl("reload", GUARD, check=False).exit_code
    kept = not crosses(lan, PORT) and is_active(GUARD)
    report.check("a reload of a bad file fails and changes nothing", code != 0 and kept, f"{code}")
    write_config(f"filter = {lan.filter}")
    lan.unplug()
    await_end(GUARD)
    lan.plug()
    await_active(GUARD)
    report.check("it comes back with its interface", not crosses(lan, PORT), "")
    systemctl("disable", "--now", GUARD)
    report.check("stopped, it lets all pass", crosses(lan, PORT), "")
    here = state_of_interface()
    report.check("and leaves nothing", here == before, "" if here == before else f"{here}")


def crosses(lan: Lan, port: int) -> bool:
    """Whether a datagram reaches the peer as it is; one on another port tells the end."""
    with lan.flow(port) as (here, there), lan.flow(9) as (marker, end):
        say(here, b"plain")
        say_until(marker, b"end", lambda: bool(heard(end, within_s=0.1)), WITHIN_S, "the end comes")
        return heard(there, within_s=0.01) == [b"plain"]


def replugged(report: Report, lan: Lan, traffic: Callable[[], Traffic]) -> None:
    report.heading("An interface that goes and comes back")
    lan.stop_peer()
    lan.unplug()
    await_end(INSTANCE)
    report.check("the unit ends with its interface", not ctl("list").stdout, "")
    lan.plug()
    await_active(INSTANCE)
    lan.start_peer()
    report.check("and comes back with it", INTERFACE in ctl("list").stdout, "")
    with traffic() as again:
        again.some()
        report.check("disguised as before", again.clean and bool(connections()), again.words)
    systemctl("stop", INSTANCE)
    seen = ctl("list").stdout
    report.check(
        "stopping its unit stops it, and not the daemon", not seen and main_pid() > 0, seen
    )
    systemctl("start", INSTANCE)


def await_end(unit: str) -> None:
    """Until it is stopped, and can be started again."""
    gone = ("inactive", "failed")
    wait_until(lambda: machine.unit_property(unit, "ActiveState") in gone, WITHIN_S, f"{unit} ends")


def reloaded(report: Report, lan: Lan, traffic: Traffic) -> None:
    report.heading("Reload")
    traffic.some()
    before = connection_of(traffic)
    ways: tuple[tuple[str, Callable[[], object]], ...] = (
        ("systemctl reload", lambda: systemctl("reload", UNIT)),
        ("SIGHUP", lambda: os.kill(main_pid(), signal.SIGHUP)),
        ("mimicctl reload", lambda: ctl("reload")),
        (f"systemctl reload {INSTANCE}", lambda: systemctl("reload", INSTANCE)),
    )
    traffic.begin()
    for number, (words, reload) in enumerate(ways, start=2):
        extra = [f"filter = remote=192.0.2.{last}:7" for last in range(2, 1 + number)]
        write_config(f"filter = {lan.filter}", *extra)
        reload()
        await_filters(number, words)
        report.check(f"{words} applies what changed", True, f"{len(filters())} filters")
    good = filters()
    write_config(f"filter = {lan.filter}", "padding = 999")
    for words, bad in (
        ("systemctl reload", ("systemctl", "reload", UNIT)),
        ("mimicctl reload", ("mimicctl", "reload")),
    ):
        code = do(*bad, check=False).exit_code
        seen = f"exit code {code}"
        unchanged = code != 0 and filters() == good
        report.check(f"{words} of a bad file fails and changes nothing", unchanged, seen)
    os.kill(main_pid(), signal.SIGHUP)
    wait_until(
        lambda: "not reloaded" in machine.messages(f"_SYSTEMD_UNIT={UNIT}"), WITHIN_S, "it is told"
    )
    report.check("SIGHUP with a bad file is told and changes nothing", filters() == good, "")
    write_config(f"filter = {lan.filter}")
    systemctl("reload", UNIT)
    traffic.end()
    report.check("traffic goes on meanwhile", traffic.clean, traffic.words)
    after = connection_of(traffic)
    report.check("the connection is the same one", same(before, after), continuity(before, after))


def await_filters(count: int, words: str) -> None:
    wait_until(lambda: len(filters()) == count, WITHIN_S, f"{words} applies {count} filters")


def filters() -> list[str]:
    shown: dict[str, Any] = json.loads(ctl("show", "--json", INTERFACE).stdout)
    listed: list[str] = shown["interfaces"][0]["filters"]
    return listed


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether this is the same connection, further on: no reset, no other sequence numbers."""
    return bool(
        after["state"] == before["state"] == "established"
        and after["age"] >= before["age"]
        and after["tx-packets"] >= before["tx-packets"]
        and after["role"] == before["role"]
    )


def continuity(before: dict[str, Any], after: dict[str, Any]) -> str:
    return (
        f"age {before['age']:.0f} s, then {after['age']:.0f} s;"
        f" {before['tx-packets']}, then {after['tx-packets']} segments sent"
    )


def under_traffic(
    report: Report, lan: Lan, traffic: Traffic, what: str, action: Callable[[], str], count: int
) -> None:
    """`action` while datagrams are under way, `count` of them at least; none may be lost."""
    traffic.some()
    before, said = connection_of(traffic), lan.peer_log
    traffic.verdicts.clear()
    traffic.begin()
    seen = action()
    traffic.go_on_until(count)
    report.check(f"{what}: no datagram is lost", traffic.clean, traffic.words)
    after = connection_of(traffic)
    report.check(f"{what}: the same connection", same(before, after), continuity(before, after))
    news = lan.peer_log[len(said) :].strip()
    report.check(f"{what}: the peer notices nothing", not news, news or seen)


def new_process(action: Callable[[], object]) -> int:
    """Do it and wait until another process serves the bus."""
    old = main_pid()
    action()
    wait_until(lambda: main_pid() not in (0, old), WITHIN_S, "another process is there", 0.02)
    await_active(UNIT)
    assert INTERFACE in ctl("list").stdout
    return main_pid()


def await_other_than(pid: int) -> None:
    wait_until(lambda: main_pid() != pid, WITHIN_S, "the process is gone", 0.01)


def restarted(report: Report, lan: Lan, traffic: Traffic) -> None:
    report.heading("Restart under traffic")

    def restart() -> str:
        return f"PID {new_process(lambda: systemctl('restart', UNIT))}"

    under_traffic(report, lan, traffic, "systemctl restart", restart, DATAGRAMS)
    report.check("the interface's unit stays", is_active(INSTANCE), "")


def crashed(report: Report, lan: Lan, traffic: Traffic) -> None:
    report.heading(f"{CRASHES} crashes under traffic")
    chosen = random.Random(6)

    def crash() -> str:
        pids = set()
        for _ in range(CRASHES):
            # at any moment: also while the next one is still taking over
            time.sleep(chosen.uniform(0.0, 1.0))
            pid = wait_until(main_pid, WITHIN_S, "there is a process", 0.01)
            os.kill(pid, signal.SIGKILL)
            pids.add(pid)
            await_other_than(pid)
        await_active(UNIT)
        wait_until(lambda: INTERFACE in ctl("list").stdout, WITHIN_S, "it is adopted")
        return f"{len(pids)} processes"

    under_traffic(report, lan, traffic, f"{CRASHES} times SIGKILL", crash, DATAGRAMS)
    report.check("the interface's unit stays", is_active(INSTANCE), "")


def hung(report: Report, lan: Lan, traffic: Traffic) -> None:
    report.heading("A daemon that hangs")
    folder = Path(f"/run/systemd/system/{UNIT}.d")
    folder.mkdir(parents=True)
    (folder / "test.conf").write_text("[Service]\nWatchdogSec=2s\n")
    systemctl("daemon-reload")
    new_process(lambda: systemctl("restart", UNIT))

    def hang() -> str:
        return f"PID {new_process(lambda: os.kill(main_pid(), signal.SIGSTOP))}"

    under_traffic(report, lan, traffic, "watchdog", hang, 10_000)
    (folder / "test.conf").unlink()
    folder.rmdir()
    systemctl("daemon-reload")


def upgraded(report: Report, lan: Lan, traffic: Traffic, package: str) -> None:
    report.heading("Upgrade under traffic")
    with TemporaryDirectory(dir="/var/tmp") as folder:
        newer = newer_package(package, Path(folder))

        def upgrade() -> str:
            pid = new_process(lambda: apt("install", str(newer)))
            return f"PID {pid}"

        under_traffic(report, lan, traffic, "upgrade", upgrade, DATAGRAMS)
    version = do("dpkg-query", "-W", "-f", "${Version}", "mimicd").stdout
    report.check("the newer version is installed", "+later" in version, version)


def newer_package(package: str, folder: Path) -> Path:
    """The same with a higher version number."""
    tree, made = folder / "tree", folder / "mimicd_later.deb"
    do("dpkg-deb", "-R", package, str(tree))
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", r"\1+later", control.read_text()))
    do("dpkg-deb", "--root-owner-group", "-b", str(tree), str(made))
    folder.chmod(0o755)
    return made


def in_a_namespace(report: Report) -> None:
    report.heading("The daemon of another network namespace")
    with Namespace("blue") as blue:
        unit = f"mimicd-netns@{blue.name}.service"
        blue.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        blue.run("ip", "link", "set", "eth0", "up")
        report.command("#", f"systemctl start {unit}")
        systemctl("start", unit)
        found = exposure(unit)
        report.check(f"exposure is at most {EXPOSURE_MAX}", found <= EXPOSURE_MAX, f"{found}")
        there = ("--netns", blue.name)
        ctl("run", "--detach", *there, "-f", "remote=192.0.2.1:7", "eth0")
        listed = (ctl("list", *there).stdout, ctl("list").stdout)
        report.check("it serves its own interfaces", "eth0" in listed[0], "")
        report.check("and no other's", "eth0" not in listed[1] and INTERFACE not in listed[0], "")
        old = int(machine.unit_property(unit, "MainPID"))
        systemctl("restart", unit)
        new = int(machine.unit_property(unit, "MainPID"))
        adopted = "eth0" in ctl("list", *there).stdout
        report.check("a restart takes over", adopted and new != old, f"PID {old}, then {new}")
        attached = programs_at_tc(blue)
        systemctl("stop", unit)
        left = programs_at_tc(blue)
        report.check("a stop detaches", "mimic_egress" in attached and not left, left)


def programs_at_tc(namespace: Namespace) -> str:
    """What runs at the egress of its eth0, by links or filters."""
    filters = ("tc", "filter", "show", "dev", "eth0", "egress")
    linked = namespace.call(lambda: tcx_programs(socket.if_nametoindex("eth0"), "egress"))
    names = " ".join(name for _, name in linked)
    return names + namespace.run(*filters, check=False).stdout.strip()


def stopped(report: Report, lan: Lan, traffic: Traffic, bare: object) -> None:
    report.heading("Stop")
    traffic.some()
    said = lan.peer_log
    report.command("#", f"systemctl stop {UNIT}")
    systemctl("stop", UNIT)
    news = wait_until(lambda: lan.peer_log[len(said) :].strip(), WITHIN_S, "the peer is told")
    report.check("a stop resets the connection", "reset" in news, news.partition("\n")[0])
    here = state_of_interface()
    report.check("nothing stays attached", here == bare, "" if here == bare else f"{here}")
    systemctl("stop", INSTANCE)
    report.check("and stopping its unit starts no daemon", not main_pid(), "")


def state_of_interface() -> object:
    """What is attached anywhere on this machine, as long as no daemon has a folder for pins."""
    found = attachments(this_machine())
    return (found.links, found.qdiscs, found.filters, found.xdp, found.pins)


def purged(report: Report, bare: object) -> None:
    report.heading("Remove and purge")
    systemctl("start", INSTANCE)
    systemctl("enable", "--now", GUARD)
    do("mimicd", "guard", "-f", "remote=192.0.2.1:7", "lo")
    # the worst case: something is attached and nobody serves it
    os.kill(main_pid(), signal.SIGUSR2)
    await_active(UNIT, False)
    report.command("#", "apt-get remove mimicd")
    apt("remove", "mimicd")
    here = state_of_interface()
    report.check("removal detaches everything", here == bare, "" if here == bare else f"{here}")
    CONFIG_FILE.unlink()
    purge(report)


def purge(report: Report) -> None:
    report.command("#", "apt-get purge mimicd")
    apt("purge", "mimicd")
    left = machine.traces()
    report.check("a purge leaves nothing", not left, ", ".join(left))
    report.check("no folder of configurations either", not CONFIG.exists(), "")
    failed = systemctl("list-units", "--failed", "--plain", "--no-legend").stdout.strip()
    report.check("no unit has failed", not failed, failed)
