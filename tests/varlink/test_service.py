# SPDX-License-Identifier: GPL-2.0-only
"""The manager over varlink: asked by the client of PyPI, and by callers without manners."""

import asyncio
import json
import os
import socket
import subprocess
import time
from typing import Any

import pytest
import varlink

import mimicd.bus  # noqa: F401 - before dbus_next, which would load GLib
from mimicd.core import errors
from mimicd.varlink import names
from mimicd.varlink.server import PEERS, PEERS_OF_ONE_USER
from mimicd.varlink.service import VarlinkService
from tests.bus.caller import run, until, until_answers
from tests.bus.fake_manager import FakeManager, connection
from tests.bus.standin import beat
from tests.rig.nobody import AS_NOBODY
from tests.varlink.caller import FILTER, OPTIONS, Served, Wire, ask, serving

MANY = 10_000
STALL_LIMIT_S = 0.05


# --- asked by the client of PyPI ---


def test_it_says_what_it_is_and_its_description_is_understood() -> None:
    async def scene() -> None:
        async with serving() as served:
            info = await ask(served, lambda client: client.GetInfo(), names.SERVICE)
            assert info["product"] == "mimicd"
            assert info["version"] == served.manager.version
            assert info["interfaces"] == [names.SERVICE, names.INTERFACE]

            def describe(client: Any) -> Any:
                return client.GetInterfaceDescription(names.INTERFACE)["description"]

            text = await ask(served, describe, names.SERVICE)
            interface = varlink.Interface(text)
            assert interface.name == names.INTERFACE
            # Every error of the daemon is declared, but for those that only a client meets.
            declared = {error_name(line) for line in text.splitlines() if line[:6] == "error "}
            raised = {one.error_name for one in errors._subclasses(errors.MimicError)}
            assert raised - {"Bus", "Usage"} <= declared

    run(scene())


def error_name(line: str) -> str:
    return line.removeprefix("error ").partition(" ")[0]


def test_an_interface_is_run_changed_listed_and_stopped() -> None:
    async def scene() -> None:
        async with serving() as served:
            manager = served.manager
            await ask(served, lambda client: client.Run("eth0", OPTIONS, None))
            assert manager.calls == [("run", "eth0", {"filter": [FILTER]})]
            more = {**OPTIONS, "padding": ["5"]}
            await ask(served, lambda client: client.Reload("eth0", more, None))
            assert manager.calls[1] == ("reload", "eth0", {"filter": [FILTER], "padding": "5"})
            (listed,) = (await ask(served, lambda client: client.ListInterfaces()))["interfaces"]
            assert (listed["name"], listed["filters"]) == ("eth0", [FILTER])
            assert listed["settings"]["padding"] == "5"
            described = await ask(served, lambda client: client.Describe())
            assert described["version"] == manager.version
            assert described["pid"] == os.getpid()
            await ask(served, lambda client: client.Stop("eth0"))
            assert await ask(served, lambda client: client.ListInterfaces()) == {"interfaces": []}

    run(scene())


def test_connections_are_listed_at_once_or_in_portions() -> None:
    async def scene() -> None:
        async with serving() as served:
            for name in ("eth0", "eth1"):
                served.manager.add(name, OPTIONS)
                served.manager.connections_of[name] = [connection(n, name) for n in range(450)]

            def all_of(client: Any) -> Any:
                return client.ListConnections("eth1")["connections"]

            def portions(client: Any) -> Any:
                return [one["connections"] for one in client.ListConnections(_more=True)]

            listed = await ask(served, all_of)
            assert [one["remote"] for one in listed] == [f"203.0.113.5:{n}" for n in range(450)]
            expected = connection(1, "eth1").as_plain()
            for key, value in expected.items():
                assert listed[1][key.replace("-", "_")] in (value, 2**63 - 1)
            parts = await ask(served, portions)
            assert [len(one) for one in parts] == [200, 200, 50, 200, 200, 50, 0]

    run(scene())


def test_what_happens_is_told() -> None:
    async def scene() -> None:
        async with serving() as served, Wire.to(served) as wire:
            ready = await wire.call("Monitor", more=True, interface="eth0")
            assert ready == {
                "parameters": {"event": {"kind": "ready", "interface": ""}},
                "continues": True,
            }
            manager = served.manager
            manager.add("eth0", OPTIONS)
            manager.add("eth1", OPTIONS)
            manager.say("eth0", 2, "hello")
            manager.change(connection(7))
            manager.rename("eth0", "wan0")
            manager.remove("wan0")
            events = [(await wire.receive())["parameters"]["event"] for _ in range(5)]
            assert [event["kind"] for event in events] == [
                *("interface_added", "log", "connection"),
                *("interface_renamed", "interface_removed"),
            ]
            assert (events[1]["level"], events[1]["text"]) == (2, "hello")
            assert events[2]["connection"]["remote"] == "203.0.113.5:7"
            assert events[3]["text"] == events[4]["interface"] == "wan0"

    run(scene())


def test_events_that_come_faster_than_they_are_taken_are_counted_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mimicd.varlink.service._EVENTS_AHEAD", 10)

    async def scene() -> None:
        async with serving() as served, Wire.to(served) as wire:
            await wire.call("Monitor", more=True, interface="eth0")
            for number in range(100):
                served.manager.say("eth0", 2, f"line {number}")
            events = [(await wire.receive())["parameters"]["event"] for _ in range(11)]
            assert [one["text"] for one in events[:10]] == [f"line {n}" for n in range(10)]
            assert (events[10]["kind"], events[10]["level"]) == ("missed", 90)
            served.manager.say("eth0", 2, "what comes later is told again")
            assert (await wire.receive())["parameters"]["event"]["kind"] == "log"

    run(scene())


def test_an_error_has_its_name_one_sentence_and_a_hint() -> None:
    async def scene() -> None:
        async with serving() as served:
            with pytest.raises(varlink.VarlinkError) as caught:
                await ask(served, lambda client: client.Stop("eth0"))
            assert caught.value.error() == "org.mimicd1.NotRunning"
            assert caught.value.parameters() == {
                "message": "eth0 is not running",
                "hint": "see mimicctl list",
            }

    run(scene())


NONSENSE = [
    ("org.mimicd1.Nothing", {}, "MethodNotFound", {"method": "org.mimicd1.Nothing"}),
    ("org.other.Run", {}, "InterfaceNotFound", {"interface": "org.other"}),
    ("Run", {}, "InterfaceNotFound", {"interface": ""}),
    ("org.mimicd1.Stop", {}, "InvalidParameter", {"parameter": "interface"}),
    ("org.mimicd1.Stop", {"interface": 7}, "InvalidParameter", {"parameter": "interface"}),
    ("org.mimicd1.Stop", {"interface": "a", "b": 1}, "InvalidParameter", {"parameter": "b"}),
    (
        "org.mimicd1.Run",
        {"interface": "eth0", "options": {"filter": FILTER}},
        "InvalidParameter",
        {"parameter": "options"},
    ),
    (
        "org.mimicd1.Run",
        {"interface": "eth0", "options": {"padding": ["1", "2"]}},
        "InvalidParameter",
        {"parameter": "options"},
    ),
]


@pytest.mark.parametrize(("method", "parameters", "error", "told"), NONSENSE)
def test_a_call_that_makes_no_sense_gets_the_standard_error(
    method: str, parameters: dict[str, Any], error: str, told: dict[str, str]
) -> None:
    async def scene() -> None:
        async with serving() as served, Wire.to(served) as wire:
            wire.send(method, **parameters)
            expected = {"parameters": told, "error": f"org.varlink.service.{error}"}
            assert await wire.receive() == expected
            assert served.manager.calls == []
            # The connection goes on.
            assert await wire.call("ListInterfaces") == {"parameters": {"interfaces": []}}

    run(scene())


def test_a_monitor_without_more_is_told_what_is_missing() -> None:
    async def scene() -> None:
        async with serving() as served, Wire.to(served) as wire:
            assert (await wire.call("Monitor"))["error"] == "org.mimicd1.ExpectedMore"
            assert served.manager.listeners == []

    run(scene())


def test_a_fault_of_the_daemon_is_logged_and_answered_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        async with serving() as served, Wire.to(served) as wire:
            served.manager.fault = RuntimeError("secret")
            reply = await wire.call("Run", interface="eth0", options=OPTIONS)
            assert reply["error"] == "org.mimicd1.Failed"
            assert "secret" not in json.dumps(reply)
            assert "RuntimeError: secret" in caplog.text

    run(scene())


# --- who may ---

_AS_NOBODY = """
import json, socket, sys
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(sys.argv[1])
except PermissionError:
    print("not let in")
    sys.exit()
for method in ("ListInterfaces", "Stop"):
    parameters = {"interface": "eth0"} if method == "Stop" else {}
    sock.sendall(json.dumps({"method": "org.mimicd1." + method, "parameters": parameters}).encode()
                 + bytes(1))
    print(json.loads(sock.recv(100000)[:-1]).get("error", "answered"))
"""


def as_nobody(served: Served) -> list[str]:
    done = subprocess.run(
        [*AS_NOBODY, "/usr/bin/python3", "-c", _AS_NOBODY, str(served.path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.splitlines()


@pytest.mark.root
def test_root_alone_is_let_in_and_root_alone_may_change_anything() -> None:
    async def scene() -> None:
        async with serving() as served:
            assert served.path.stat().st_mode & 0o777 == 0o600
            assert await asyncio.to_thread(as_nobody, served) == ["not let in"]
        async with serving(mode=0o666) as served:
            served.manager.add("eth0", OPTIONS)
            words = await asyncio.to_thread(as_nobody, served)
            assert words == ["answered", "org.mimicd1.NotAuthorized"]
            assert served.manager.calls == []

    run(scene())


# --- who holds what ---


def test_a_bound_interface_ends_with_the_connection() -> None:
    async def scene() -> None:
        async with serving() as served:
            async with Wire.to(served) as wire:
                await wire.call("Run", interface="eth0", options=OPTIONS, bind_to_caller=True)
                await wire.call("Run", interface="eth1", options=OPTIONS)
            await until(lambda: served.manager.called("stop"), "it is stopped")
            assert [view.name for view in served.manager.interfaces()] == ["eth1"]

    run(scene())


def test_a_caller_that_leaves_while_its_interface_is_attached_takes_it_along() -> None:
    async def scene() -> None:
        async with serving() as served:
            served.manager.gate.clear()
            async with Wire.to(served) as wire:
                wire.send("org.mimicd1.Run", interface="eth0", options=OPTIONS, bind_to_caller=True)
                await until(lambda: served.manager.calls, "it is being attached")
            served.manager.gate.set()
            await until(lambda: served.manager.called("stop"), "it is stopped")
            assert served.manager.interfaces() == []

    run(scene())


def test_another_caller_can_take_an_interface_over() -> None:
    async def scene() -> None:
        async with serving() as served, Wire.to(served) as second:
            async with Wire.to(served) as first:
                await first.call("Run", interface="eth0", options=OPTIONS, bind_to_caller=True)
                await second.call("Reload", interface="eth0", options=OPTIONS, bind_to_caller=True)
            async with Wire.to(served) as third:
                assert (await third.call("ListInterfaces"))["parameters"]["interfaces"]
            assert served.manager.called("stop") == []

    run(scene())


def test_what_a_predecessor_had_bound_is_stopped_unless_somebody_takes_it() -> None:
    async def scene() -> None:
        manager = FakeManager()
        for name in ("eth0", "eth1"):
            manager.add(name, OPTIONS)
            manager.set_holder(name, "varlink 1 2")
        bound = ["eth0", "eth1"]
        async with (
            serving(manager=manager, bound=bound, grace_s=0.5) as served,
            Wire.to(served) as wire,
        ):
            await wire.call("Reload", interface="eth0", options=OPTIONS, bind_to_caller=True)
            await until(lambda: manager.called("stop"), "the other one is stopped")
            assert manager.called("stop") == [("stop", "eth1")]

    run(scene())


def test_leaving_the_socket_leaves_what_is_bound() -> None:
    """For the next process, to which its caller comes back."""

    async def scene() -> None:
        manager = FakeManager()
        async with serving(manager=manager) as served, Wire.to(served) as wire:
            await wire.call("Run", interface="eth0", options=OPTIONS, bind_to_caller=True)
            await served.service.close()
            assert await wire.hung_up()
        assert [view.name for view in manager.interfaces()] == ["eth0"]
        assert manager.holder_of("eth0").startswith("varlink ")

    run(scene())


# --- the socket ---


def test_a_socket_that_is_served_is_left_alone_and_a_dead_one_replaced() -> None:
    async def scene() -> None:
        async with serving() as served:
            other = VarlinkService(FakeManager())
            assert not other.open(served.path)
            assert await ask(served, lambda client: client.ListInterfaces())
        served.path.parent.mkdir()
        # What a process leaves that was killed.
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(served.path))
        assert other.open(served.path)
        assert served.path.is_socket()
        await other.close()
        assert not served.path.exists()

    run(scene())


# --- callers without manners ---


@pytest.mark.parametrize(
    "raw",
    [b"\0", b"GET / HTTP/1.1\r\n\r\n\0", b"[]\0", b"{" * 50_000 + b"\0", b"x" * 300_000],
    ids=["nothing", "HTTP", "a list", "deep", "too long"],
)
def test_who_sends_no_messages_is_left_and_others_are_served(raw: bytes) -> None:
    async def scene() -> None:
        async with serving() as served, Wire.to(served) as rude, Wire.to(served) as other:
            rude.writer.write(raw)
            assert await rude.hung_up()
            assert await other.call("ListInterfaces") == {"parameters": {"interfaces": []}}

    run(scene())


def test_half_a_message_and_a_hang_up_harm_nobody() -> None:
    async def scene() -> None:
        async with serving() as served:
            async with Wire.to(served) as wire:
                wire.writer.write(b'{"method":"org.mimicd1.St')
            async with Wire.to(served) as wire:
                # A call and the end of what is sent: it is answered all the same.
                wire.send("org.mimicd1.ListInterfaces")
                wire.writer.write_eof()
                assert await wire.receive() == {"parameters": {"interfaces": []}}

    run(scene())


def test_more_callers_than_are_served_are_hung_up_on() -> None:
    assert PEERS_OF_ONE_USER < PEERS

    async def scene() -> None:
        async with serving() as served:
            limit = PEERS if os.geteuid() == 0 else PEERS_OF_ONE_USER
            wires = [Wire(*await asyncio.open_unix_connection(served.path)) for _ in range(limit)]
            assert await wires[-1].call("ListInterfaces")
            async with Wire.to(served) as one_more:
                assert await one_more.hung_up()
            wires[0].writer.close()
            del wires[0]

            async def served_again() -> bool:
                async with Wire.to(served) as again:
                    again.send("org.mimicd1.ListInterfaces")
                    return await again.reader.read(1) == b"{"

            await until_answers(served_again, "there is room for another one")
            for wire in wires:
                wire.writer.close()

    run(scene())


def test_events_that_nobody_takes_are_dropped_and_counted() -> None:
    async def scene() -> None:
        async with serving() as served, Wire.to(served) as wire:
            served.manager.add("eth0", OPTIONS)
            await wire.call("Monitor", more=True)
            for _ in range(5000):
                served.manager.say("eth0", 2, "x" * 1000)
            told = 0
            while True:
                event = (await wire.receive())["parameters"]["event"]
                if event["kind"] == "missed":
                    break
                told += 1
            assert told + event["level"] == 5000

    run(scene())


def test_ten_thousand_connections_hold_up_nobody() -> None:
    async def scene() -> None:
        async with serving() as served, Wire.to(served) as wire:
            served.manager.add("eth0", OPTIONS)
            served.manager.connections_of["eth0"] = [connection(n) for n in range(MANY)]
            stalls_s = [0.0]
            heart = asyncio.ensure_future(beat(stalls_s))
            begun_s = time.monotonic()
            wire.send("org.mimicd1.ListConnections", more=True)
            received = 0
            while b'"continues"' in (raw := await wire.reader.readuntil(b"\0")):
                received += len(raw)
            heart.cancel()
            print(f"{received} bytes in {time.monotonic() - begun_s:.2f} s")
            assert received > MANY * 300
            assert stalls_s[0] < STALL_LIMIT_S
            # All of them in one reply, while that is possible.
            assert len((await wire.call("ListConnections"))["parameters"]["connections"]) == MANY

    run(scene())
