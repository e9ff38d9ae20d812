# SPDX-License-Identifier: GPL-2.0-only
"""The files in dbus/ do what they are there for: a bus that reads them lets the right ones in."""

import asyncio
import configparser
import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mimicd.bus import names
from mimicd.bus.keeper import BusKeeper
from mimicd.core.errors import BusError
from tests.bus.caller import OPTIONS, Caller, run, serving
from tests.bus.dbus_daemon import SYSTEM_POLICY, PrivateBus, private_bus
from tests.bus.fake_manager import FakeManager
from tests.rig.nobody import AS_NOBODY

ROOT = Path(__file__).resolve().parents[2]
POLICY_FILE = ROOT / "dbus" / "org.mimicd1.conf"

# As some user: tries to own the name, to read, to change, and to call what is none of its own.
_TRY_EVERYTHING = """
import asyncio, json, sys
from pathlib import Path
import mimicd.bus
from mimicd.bus import names
from tests.bus.caller import OPTIONS, Caller
from tests.bus.dbus_daemon import PrivateBus

async def main():
    async with Caller.on(PrivateBus(Path(sys.argv[1]))) as caller:
        own = await caller.call("RequestName", "su", [names.BUS_NAME, 4], path=names.DRIVER_PATH,
                                interface=names.DRIVER, destination=names.DRIVER_NAME)
        read = await caller.call("ListInterfaces")
        introspect = await caller.call("Introspect", interface=names.INTROSPECTABLE)
        change = await caller.call("Run", "sa{sv}", ["eth0", OPTIONS])
        other = await caller.call("Ping", interface="org.example.Other")
        print(json.dumps([one.error_name for one in (own, read, introspect, change, other)]))

asyncio.run(main())
"""


@pytest.mark.root
def test_with_the_policy_file_root_owns_the_name_and_anyone_may_look() -> None:
    async def scene(bus: PrivateBus) -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as root:
            nobody = await tried_by_nobody(bus)
            assert nobody == [
                names.ACCESS_DENIED,
                None,
                None,
                names.ERROR_PREFIX + "NotAuthorized",
                names.ACCESS_DENIED,
            ]
            assert manager.calls == []
            await root.result("Run", "sa{sv}", ["eth0", OPTIONS])

    with private_bus(f"{SYSTEM_POLICY}<include>{POLICY_FILE}</include>") as bus:
        run(scene(bus))


async def tried_by_nobody(bus: PrivateBus) -> list[str | None]:
    process = await asyncio.create_subprocess_exec(
        *AS_NOBODY,
        *(sys.executable, "-B", "-c", _TRY_EVERYTHING, str(bus.folder)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    found: list[str | None] = json.loads(out)
    return found


def test_without_the_policy_file_the_name_is_refused() -> None:
    async def scene(bus: PrivateBus) -> None:
        with pytest.raises(BusError, match="was refused by the policy"):
            await BusKeeper(FakeManager(), bus.address).start()

    with private_bus(SYSTEM_POLICY) as bus:
        run(scene(bus))


def test_a_call_starts_the_daemon_by_the_activation_file(bus: PrivateBus) -> None:
    file = configparser.ConfigParser()
    file.optionxform = str  # type: ignore[assignment, method-assign]
    file.read(ROOT / "dbus" / "org.mimicd1.service")
    entry = file["D-BUS Service"]
    assert (entry["Name"], entry["User"]) == (names.BUS_NAME, "root")
    assert entry["Exec"] == "/usr/sbin/mimicd"
    service = bus.folder / "services" / "org.mimicd1.service"
    service.write_text(
        f"[D-BUS Service]\nName={entry['Name']}\n"
        f"Exec=/usr/bin/env PYTHONPATH={ROOT} DBUS_SYSTEM_BUS_ADDRESS={bus.address}"
        f" {sys.executable} -m tests.bus.standin --running eth7\n"
    )
    bus.stop()
    bus.start()
    shown = subprocess.run(
        [sys.executable, "-m", "mimicctl", "show", "--json", "--address", bus.address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    facts = json.loads(shown.stdout)
    # Nobody else ends it: it is the child of none of ours, and waits for the bus to come back.
    os.kill(facts["pid"], signal.SIGKILL)
    assert [view["name"] for view in facts["interfaces"]] == ["eth7"]


def test_the_polkit_file_defines_the_action_that_is_asked_for() -> None:
    root = ET.parse(ROOT / "dbus" / "org.mimicd1.policy").getroot()
    (action,) = root.findall("action")
    assert action.get("id") == names.ACTION_MANAGE
    defaults = action.find("defaults")
    assert defaults is not None
    assert {one.tag: one.text for one in defaults} == dict.fromkeys(
        ("allow_any", "allow_inactive", "allow_active"), "auth_admin_keep"
    )
