# SPDX-License-Identifier: GPL-2.0-only
"""The methods, properties, signals and errors of the service, as a caller on the bus meets them."""

import json
import logging
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from dbus_next.signature import Variant

from mimicd.bus import names
from mimicd.bus.values import plain_view
from mimicd.core.errors import AlreadyRunningError, InvalidConfigError, Problem
from tests.bus.caller import FILTER, OPTIONS, Caller, run, serving, until
from tests.bus.dbus_daemon import PrivateBus
from tests.bus.fake_manager import MISSING_INTERFACE, FakeManager, connection

ROOT = Path(__file__).resolve().parents[2]
ETH0 = names.interface_path("eth0")


def test_run_attaches_and_answers_with_the_path_of_the_interface(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            path = await caller.result("Run", "sa{sv}", ["eth0", OPTIONS])
            assert path == ETH0
            assert manager.calls == [("run", "eth0", {"filter": [FILTER]})]
            assert await caller.result("ListInterfaces") == [ETH0]

    run(scene())


def test_stop_detaches_and_the_object_is_gone(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            manager.add("eth0", {"filter": [FILTER]})
            assert await caller.result("Stop", "s", ["eth0"]) is None
            assert await caller.result("ListInterfaces") == []
            get_all = ("GetAll", "s", [names.INTERFACE])
            fault = await caller.fault(*get_all, path=ETH0, interface=names.PROPERTIES)
            assert fault == (
                names.UNKNOWN_OBJECT,
                f"there is no object {ETH0}: eth0 is not running",
            )

    run(scene())


def test_reload_hands_over_the_new_options(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            manager.add("eth0", {"filter": [FILTER]})
            options = {**OPTIONS, "padding": Variant("s", "7")}
            await caller.result("Reload", "sa{sv}", ["eth0", options])
            assert manager.calls == [("reload", "eth0", {"filter": [FILTER], "padding": "7"})]

    run(scene())


def test_the_log_level_is_set_while_it_runs(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            manager.add("eth0", {"filter": [FILTER]})
            for interface, level in (("eth0", "trace"), ("", "1")):
                await caller.result("SetLogLevel", "ss", [interface, level])
                assert manager.calls[-1] == ("set_log_level", interface, level)
            name, text = await caller.fault("SetLogLevel", "ss", ["eth0", "loud"])
            assert name == names.ERROR_PREFIX + "InvalidConfig"
            assert '"loud" is not a log level' in text
            name, _ = await caller.fault("SetLogLevel", "ss", ["eth9", "info"])
            assert name == names.ERROR_PREFIX + "NotRunning"

    run(scene())


def test_connections_are_listed_with_every_key_of_one_interface_or_of_all(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            for name in ("eth0", "eth1"):
                manager.add(name, {"filter": [FILTER]})
                manager.connections_of[name] = [connection(number, name) for number in range(4)]
            expected = [one.as_plain() for one in manager.connections_of["eth1"]]
            assert await caller.result("ListConnections", "s", ["eth1"]) == expected
            assert set(expected[0]) == set(names.CONNECTION_SIGNATURES)
            everything = await caller.result("ListConnections", "s", [""])
            assert [one["interface"] for one in everything] == ["eth0"] * 4 + ["eth1"] * 4

    run(scene())


def test_an_interface_without_connections_lists_none(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            manager.add("eth0", {"filter": [FILTER]})
            assert await caller.result("ListConnections", "s", ["eth0"]) == []

    run(scene())


def test_describe_is_everything_in_json(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            empty = json.loads(await caller.result("Describe"))
            assert (empty["interfaces"], empty["connections"]) == ([], [])
            manager.add("eth0", {"filter": [FILTER]})
            manager.connections_of["eth0"] = [connection(number) for number in range(450)]
            facts = json.loads(await caller.result("Describe"))
            assert facts["version"] == "1.2.3"
            assert facts["interfaces"] == [plain_view(view) for view in manager.interfaces()]
            assert facts["connections"] == [
                one.as_plain() for one in manager.connections_of["eth0"]
            ]

    run(scene())


def test_describe_part_by_part_is_everything_once(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:

            async def part(number: int, parts: int) -> Any:
                return json.loads(await caller.result("DescribePart", "uu", [number, parts]))

            manager.add("eth0", {"filter": [FILTER]})
            few = [connection(number) for number in range(3)]
            manager.connections_of["eth0"] = few
            facts = await part(0, 1)
            assert facts["connections"] == [one.as_plain() for one in few]
            assert (facts["parts"], facts["version"]) == (1, "1.2.3")
            assert len(facts["interfaces"]) == 1
            manager.connections_of["eth0"] = [connection(number) for number in range(20_000)]
            facts = await part(0, 1)
            assert (facts["parts"], facts["connections"]) == (3, [])
            parts = [await part(number, 3) for number in range(3)]
            remotes = [one["remote"] for one_part in parts for one in one_part["connections"]]
            assert len(remotes) == len(set(remotes)) == 20_000
            name, text = await caller.fault("DescribePart", "uu", [3, 3])
            assert (name, text) == (names.INVALID_ARGS, "of 3 parts there is no number 3")

    run(scene())


def test_properties_of_the_manager_and_of_an_interface_are_read(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            manager.add("eth0", {"filter": [FILTER]})
            (view,) = manager.interfaces()
            properties = {"interface": names.PROPERTIES}
            assert (
                await caller.result("Get", "ss", [names.MANAGER, "Version"], **properties)
                == "1.2.3"
            )
            assert await caller.result("GetAll", "s", [names.MANAGER], **properties) == {
                "Version": "1.2.3",
                "Interfaces": [ETH0],
            }
            found = await caller.result("GetAll", "s", [names.INTERFACE], path=ETH0, **properties)
            assert found == {
                "Name": "eth0",
                "Ifindex": 7,
                "LinkType": "eth",
                "XdpMode": "native",
                "State": "running",
                "Filters": [FILTER],
                "Settings": view.settings,
                "MaxPayload": 1460,
                "StartedAt": view.started_at,
                "Counters": view.counters,
            }
            managed = await caller.result("GetManagedObjects", interface=names.OBJECT_MANAGER)
            assert managed == {ETH0: {names.INTERFACE: found}}

    run(scene())


def test_an_interface_whose_name_no_path_could_hold_is_served(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (_, _), Caller.on(bus) as caller:
            path = await caller.result("Run", "sa{sv}", ["wg-0.7@ü", OPTIONS])
            assert path == f"{names.INTERFACES_PATH}/wg_2d0_2e7_40_c3_bc"
            name = await caller.result(
                "Get", "ss", [names.INTERFACE, "Name"], path=path, interface=names.PROPERTIES
            )
            assert name == "wg-0.7@ü"

    run(scene())


def test_signals_tell_of_interfaces_connections_and_log_lines(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            await caller.follow()
            manager.add("eth0", {"filter": [FILTER]})
            manager.change(connection(3))
            manager.say("eth0", 4, "ACK seq=1\0")
            manager.remove("eth0")
            assert await caller.until_heard("InterfaceRemoved") == [["eth0", ETH0]]
            assert caller.heard("InterfaceAdded") == [["eth0", ETH0]]
            assert caller.heard("ConnectionChanged") == [["eth0", connection(3).as_plain()]]
            assert caller.heard("Log") == [["eth0", 4, "ACK seq=1?"]]
            (added,) = caller.heard("InterfacesAdded")
            assert added[0] == ETH0
            assert added[1][names.INTERFACE]["Filters"] == [FILTER]
            assert caller.heard("InterfacesRemoved") == [[ETH0, [names.INTERFACE]]]
            changes = await caller.until_heard("PropertiesChanged", 2)
            assert changes == [
                [names.MANAGER, {"Interfaces": [ETH0]}, []],
                [names.MANAGER, {"Interfaces": []}, []],
            ]

    run(scene())


def test_a_reload_is_told_as_the_properties_that_changed(bus: PrivateBus) -> None:
    async def scene() -> None:
        manager = FakeManager()
        manager.add("eth0", {"filter": [FILTER]})
        async with serving(bus, manager), Caller.on(bus) as caller:
            await caller.follow()
            other = "local=192.0.2.1:6000"
            await caller.result(
                "Reload", "sa{sv}", ["eth0", {"filter": Variant("as", [FILTER, other])}]
            )
            assert await caller.until_heard("PropertiesChanged") == [
                [names.INTERFACE, {"Filters": [FILTER, other]}, []]
            ]
            assert caller.heard("InterfaceAdded") == []

    run(scene())


def test_an_error_of_the_manager_has_its_name_one_sentence_and_a_hint(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            assert await caller.fault("Run", "sa{sv}", [MISSING_INTERFACE, OPTIONS]) == (
                "org.mimicd1.Error.NoSuchInterface",
                f"there is no interface {MISSING_INTERFACE}\nsee ip link",
            )
            manager.fault = AlreadyRunningError("eth0 is running already")
            assert await caller.fault("Run", "sa{sv}", ["eth0", OPTIONS]) == (
                "org.mimicd1.Error.AlreadyRunning",
                "eth0 is running already",
            )
            manager.fault = InvalidConfigError.of([Problem("a is bad"), Problem("b is bad")])
            assert await caller.fault("Run", "sa{sv}", ["eth0", OPTIONS]) == (
                "org.mimicd1.Error.InvalidConfig",
                "a is bad\nb is bad\n",
            )
            assert (await caller.fault("ListConnections", "s", ["eth9"]))[0] == (
                "org.mimicd1.Error.NotRunning"
            )

    run(scene())


def test_a_fault_of_the_daemon_is_logged_and_answered_without_a_traceback(
    bus: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> tuple[str, str]:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            manager.fault = ZeroDivisionError("secret detail")
            fault = await caller.fault("Run", "sa{sv}", ["eth0", OPTIONS])
            assert await caller.result("ListInterfaces") == []
            return fault

    with caplog.at_level(logging.ERROR):
        name, text = run(scene())
    assert name == "org.mimicd1.Error.Failed"
    assert text == "Run failed by a fault of mimicd, its log has the details"
    assert "ZeroDivisionError: secret detail" in caplog.text


def test_an_error_text_that_the_bus_could_not_carry_is_cleaned(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            manager.fault = AlreadyRunningError("a\0b\udc80c")
            _, text = await caller.fault("Run", "sa{sv}", ["eth0", OPTIONS])
            assert text == "a\ufffdb?c"
            assert await caller.result("ListInterfaces") == []

    run(scene())


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("Stop", "s", ["eth0"]), {"path": "/org/mimicd1/nothing"}, names.UNKNOWN_OBJECT),
        (("Stop", "s", ["eth0"]), {"path": "/"}, names.UNKNOWN_INTERFACE),
        (("Introspect",), {"path": "/com", "interface": names.INTROSPECTABLE}, "UnknownObject"),
        (("Stop", "s", ["eth0"]), {"interface": "org.mimicd1.Other"}, names.UNKNOWN_INTERFACE),
        (("Explode",), {}, names.UNKNOWN_METHOD),
        (("Explode",), {"interface": None}, names.UNKNOWN_METHOD),
        (("Run", "s", ["eth0"]), {}, names.INVALID_ARGS),
        (("Run", "sa{ss}", ["eth0", {"filter": FILTER}]), {}, names.INVALID_ARGS),
        (("Run", "sa{sv}", ["eth0", {"padding": Variant("u", 7)}]), {}, names.INVALID_ARGS),
        (
            ("Run", "sa{sv}", ["eth0", {names.OPTION_BIND_TO_CALLER: Variant("s", "yes")}]),
            {},
            names.INVALID_ARGS,
        ),
        (("ListInterfaces", "s", ["eth0"]), {}, names.INVALID_ARGS),
        (
            ("Get", "ss", [names.MANAGER, "Colour"]),
            {"interface": names.PROPERTIES},
            names.UNKNOWN_PROPERTY,
        ),
        (
            ("GetAll", "s", ["org.mimicd1.Other"]),
            {"interface": names.PROPERTIES},
            names.UNKNOWN_INTERFACE,
        ),
        (
            ("Set", "ssv", [names.MANAGER, "Version", Variant("s", "9")]),
            {"interface": names.PROPERTIES},
            names.PROPERTY_READ_ONLY,
        ),
        (
            ("Set", "ssv", [names.MANAGER, "Colour", Variant("s", "9")]),
            {"interface": names.PROPERTIES},
            names.UNKNOWN_PROPERTY,
        ),
    ],
    ids=str,
)
def test_a_call_that_makes_no_sense_gets_the_standard_error(
    bus: PrivateBus, arguments: tuple[Any, ...], options: dict[str, Any], error: str
) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            name, text = await caller.fault(*arguments, **options)
            assert name.removeprefix(names.STANDARD_ERROR_PREFIX) == error.removeprefix(
                names.STANDARD_ERROR_PREFIX
            )
            assert text
            assert "\n" not in text
            assert manager.calls == []

    run(scene())


def test_a_method_is_found_without_naming_its_interface(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (_, _), Caller.on(bus) as caller:
            assert await caller.result("ListInterfaces", interface=None) == []
            assert await caller.result("Ping", interface=names.PEER) is None
            machine = await caller.result("GetMachineId", interface=names.PEER)
            assert len(machine) == 32

    run(scene())


def interfaces_of(xml: str) -> dict[str, Any]:
    """Interface name -> everything it has, apart from comments, spaces and order of members."""

    def members(interface: ET.Element) -> set[tuple[object, ...]]:
        found: set[tuple[object, ...]] = set()
        for member in interface:
            arguments = tuple(
                (one.get("name"), one.get("type"), one.get("direction"))
                for one in member.findall("arg")
            )
            annotations = tuple(
                (one.get("name"), one.get("value")) for one in member.findall("annotation")
            )
            shape = (member.tag, member.get("name"), member.get("type"), member.get("access"))
            found.add((*shape, arguments, annotations))
        return found

    return {str(one.get("name")): members(one) for one in ET.fromstring(xml).findall("interface")}


def test_live_introspection_is_what_the_contract_files_say(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            manager.add("eth0", {"filter": [FILTER]})
            for path, name in ((names.ROOT_PATH, names.MANAGER), (ETH0, names.INTERFACE)):
                xml = await caller.result("Introspect", path=path, interface=names.INTROSPECTABLE)
                live = interfaces_of(xml)
                file = interfaces_of((ROOT / "dbus" / f"{name}.xml").read_text())
                assert list(file) == [name]
                assert live[name] == file[name]
                assert {names.PROPERTIES, names.INTROSPECTABLE, names.PEER} <= set(live)

    run(scene())


def test_the_tree_is_walked_from_the_root_to_every_interface(bus: PrivateBus) -> None:
    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            manager.add("eth0", {"filter": [FILTER]})
            manager.add("wg-0", {"filter": [FILTER]})
            found, waiting = [], ["/"]
            while waiting:
                path = waiting.pop()
                xml = await caller.result("Introspect", path=path, interface=names.INTROSPECTABLE)
                children = [one.get("name") for one in ET.fromstring(xml).findall("node")]
                waiting += [f"{path.rstrip('/')}/{child}" for child in children]
                found.append(path)
            parents = ["/", "/org", names.ROOT_PATH, names.INTERFACES_PATH]
            assert sorted(found) == sorted([*parents, ETH0, names.interface_path("wg-0")])

    run(scene())


def test_a_caller_that_wants_no_reply_gets_none(bus: PrivateBus) -> None:
    from dbus_next.constants import MessageFlag, MessageType
    from dbus_next.message import Message

    async def scene() -> None:
        async with serving(bus) as (manager, _), Caller.on(bus) as caller:
            heard: list[Message] = []
            caller.connection.add_message_handler(heard.append)
            await caller.connection.send(
                Message(
                    destination=names.BUS_NAME,
                    path=names.ROOT_PATH,
                    interface=names.MANAGER,
                    member="Run",
                    signature="sa{sv}",
                    body=["eth0", OPTIONS],
                    flags=MessageFlag.NO_REPLY_EXPECTED,
                )
            )
            await until(lambda: manager.interfaces(), "eth0 runs")
            await caller.result("ListInterfaces")
            returns = [one for one in heard if one.message_type is MessageType.METHOD_RETURN]
            assert len(returns) == 1

    run(scene())
