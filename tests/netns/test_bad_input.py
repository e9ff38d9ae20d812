# SPDX-License-Identifier: GPL-2.0-only
"""What cannot work is refused in one clear sentence, with the right exit code; nothing changes."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from dbus_next.signature import Variant

from tests.bus.caller import Caller, run
from tests.bus.dbus_daemon import PrivateBus
from tests.rig.attachments import attachments
from tests.rig.daemon import Answer, Daemon, command_path
from tests.rig.foreign import foreign_xdp
from tests.rig.namespace import scratch_folder
from tests.rig.network import Host, direct
from tests.rig.nobody import AS_NOBODY

GOOD = "remote=192.0.2.9:5000"

# arguments of `run`, exit code, tail of the D-Bus error name, what the sentence says
REFUSED = {
    "unknown interface": (["-f", GOOD, "nope0"], 1, "NoSuchInterface", "no interface nope0"),
    "interface down": (["-f", GOOD, "down0"], 1, "InterfaceDown", "interface down0 is down"),
    "no port": (["-f", "remote=192.0.2.9", "eth0"], 2, "InvalidConfig", "has no port"),
    "bare IPv6": (["-f", "remote=2001:db8::1:5000", "eth0"], 2, "InvalidConfig", "needs brackets"),
    "port 0": (["-f", "remote=192.0.2.9:0", "eth0"], 2, "InvalidConfig", "1 to 65535"),
    "port 65536": (["-f", "remote=192.0.2.9:65536", "eth0"], 2, "InvalidConfig", "1 to 65535"),
    "unknown name": (["-f", "remote=a.invalid:5000", "eth0"], 2, "NameResolution", "a.invalid"),
    "no filter": (["eth0"], 2, "InvalidConfig", "no filter"),
    "zero remote": (["-f", "remote=0.0.0.0:5000", "eth0"], 2, "InvalidConfig", "0.0.0.0"),
    "bad padding": (["-f", GOOD, "-p", "17", "eth0"], 2, "InvalidConfig", "17"),
}

WITHOUT_BPF = ("capsh", "--drop=cap_bpf,cap_sys_admin,cap_perfmon", "--shell=/usr/bin/env", "--")

cases = pytest.mark.parametrize(
    ("arguments", "exit_code", "error_name", "words"), REFUSED.values(), ids=REFUSED.keys()
)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with direct() as network:
        network.a.namespace.run("ip", "link", "add", "down0", "type", "veth", "peer", "name", "d1")
        yield network.a


@pytest.fixture(scope="module")
def daemon(host: Host) -> Iterator[Daemon]:
    with Daemon(host) as daemon:
        yield daemon


def bare(host: Host, *arguments: str, wrapper: tuple[str, ...] = ()) -> Answer:
    """`mimicd run` without a bus; nothing is left of its state."""
    argv = (*wrapper, command_path("mimicd"), "run", *arguments)
    with scratch_folder() as folder:
        env = {**os.environ, "RUNTIME_DIRECTORY": str(folder)}
        done = host.namespace.run(*argv, check=False, env=env)
        assert list(folder.iterdir()) == []
    return Answer(done.returncode, done.stdout, done.stderr)


def assert_refused(answer: Answer, program: str, exit_code: int, words: str) -> None:
    assert answer.exit_code == exit_code, answer
    assert answer.stdout == ""
    sentence, *rest = answer.stderr.strip().splitlines()
    assert sentence.startswith(f"{program}: ")
    assert words in sentence
    assert len(rest) == 1, answer.stderr
    assert rest[0].startswith("hint: ")
    assert "Traceback" not in answer.stderr


@cases
def test_mimicd_run_refuses(
    host: Host, arguments: list[str], exit_code: int, error_name: str, words: str
) -> None:
    before = attachments(host)
    assert_refused(bare(host, *arguments), "mimicd", exit_code, words)
    assert attachments(host) == before


@cases
@pytest.mark.parametrize("how", [["--detach"], []], ids=["detached", "in the foreground"])
def test_mimicctl_run_refuses(
    host: Host,
    daemon: Daemon,
    how: list[str],
    arguments: list[str],
    exit_code: int,
    error_name: str,
    words: str,
) -> None:
    before = attachments(host)
    answer = daemon.ctl("run", *how, *arguments)
    assert_refused(answer, "mimicctl", exit_code, words)
    assert "Traceback" not in daemon.log
    assert attachments(host) == before


@cases
def test_the_bus_names_the_error(
    host: Host,
    daemon: Daemon,
    arguments: list[str],
    exit_code: int,
    error_name: str,
    words: str,
) -> None:
    options: dict[str, Variant] = {}
    pairs = list(pairwise(arguments))
    if filters := [text for flag, text in pairs if flag == "-f"]:
        options["filter"] = Variant("as", filters)
    for text in (text for flag, text in pairs if flag == "-p"):
        options["padding"] = Variant("s", text)

    name, message = fault_of_run(daemon, arguments[-1], options)
    assert name == f"org.mimicd1.Error.{error_name}"
    assert words in message
    assert "Traceback" not in message


def fault_of_run(daemon: Daemon, interface: str, options: dict[str, Variant]) -> tuple[str, str]:
    """Name and message of the D-Bus error that Run answers."""

    async def fault() -> tuple[str, str]:
        # PrivateBus is only the address here: the daemon's own bus lies in that folder
        async with Caller.on(PrivateBus(daemon.folder)) as caller:
            return await caller.fault("Run", "sa{sv}", [interface, options])

    return run(fault())


def good_options(**others: str) -> dict[str, Variant]:
    texts = {key: Variant("s", text) for key, text in others.items()}
    return {"filter": Variant("as", [GOOD]), **texts}


def test_an_interface_that_runs_is_not_run_again(host: Host, daemon: Daemon) -> None:
    daemon.ctl("run", "--detach", "-f", GOOD, "eth0", check=True)
    running = attachments(host)
    answer = daemon.ctl("run", "--detach", "-f", "remote=192.0.2.8:5000", "eth0")
    assert_refused(answer, "mimicctl", 1, "eth0 is running already")
    name, _message = fault_of_run(daemon, "eth0", good_options())
    assert name == "org.mimicd1.Error.AlreadyRunning"
    assert attachments(host) == running
    daemon.ctl("stop", "eth0", check=True)
    assert_refused(daemon.ctl("stop", "eth0"), "mimicctl", 1, "eth0 is not running")
    assert_refused(daemon.ctl("show", "eth0"), "mimicctl", 1, "eth0 is not running")


@pytest.mark.parametrize("mode", ["native", "skb"])
def test_somebody_elses_xdp_stays_and_is_named(host: Host, daemon: Daemon, mode: str) -> None:
    words = "XDP program of somebody else: somebody_xdp (id "
    arguments = ("-x", mode, "-f", GOOD, "eth0")
    with foreign_xdp(host):
        before = attachments(host)
        assert before.xdp
        assert_refused(bare(host, *arguments), "mimicd", 1, words)
        assert_refused(daemon.ctl("run", "--detach", *arguments), "mimicctl", 1, words)
        name, message = fault_of_run(daemon, "eth0", good_options(xdp_mode=mode))
        assert name == "org.mimicd1.Error.XdpBusy"
        assert words in message
        assert attachments(host) == before


def test_without_root_mimicd_says_what_it_needs(host: Host) -> None:
    assert_refused(bare(host, "-f", GOOD, "eth0", wrapper=AS_NOBODY), "mimicd", 1, "as this user")


def test_without_root_mimicctl_may_look_but_change_nothing(host: Host, daemon: Daemon) -> None:
    before = attachments(host)
    # so that anybody gets at the bus, as at the system's
    daemon.folder.chmod(0o711)
    control = (*AS_NOBODY, command_path("mimicctl"), "--address", daemon.bus.address)

    def ask(*arguments: str) -> Answer:
        done = host.namespace.run(*control, *arguments, check=False)
        return Answer(done.returncode, done.stdout, done.stderr)

    assert ask("list") == Answer(0, "", "")
    for arguments in (("run", "--detach", "-f", GOOD, "eth0"), ("stop", "eth0")):
        assert_refused(ask(*arguments), "mimicctl", 4, "needs root, the caller is user 65534")
    assert attachments(host) == before


def test_a_refused_bpf_call_is_named(host: Host) -> None:
    # the empty folder for pins goes with whichever daemon leaves, if another is to have one
    before = replace(attachments(host), pins=())
    words = "the kernel refuses bpf(2): Operation not permitted"
    answer = bare(host, "-f", GOOD, "eth0", wrapper=WITHOUT_BPF)
    assert_refused(answer, "mimicd", 1, words)
    with Daemon(host, program=[*WITHOUT_BPF, command_path("mimicd")]) as daemon:
        answer = daemon.ctl("run", "--detach", "-f", GOOD, "eth0")
        assert_refused(answer, "mimicctl", 1, words)
        name, _message = fault_of_run(daemon, "eth0", good_options())
        assert name == "org.mimicd1.Error.AttachFailed"
    found = attachments(host)
    assert replace(found, pins=()) == before
    assert len(found.pins) <= 1


def test_a_bus_that_refuses_the_name_is_told(host: Host) -> None:
    with Daemon(host, may_own=False, wait=False) as daemon:
        assert daemon.wait() == 3
        sentence, hint = daemon.log.strip().splitlines()
        assert re.match(r"mimicd: .*org\.mimicd1", sentence), sentence
        assert hint.startswith("hint: ")


def test_a_daemon_that_is_not_there_is_told(host: Host, tmp_path: Path) -> None:
    address = f"unix:path={tmp_path / 'nothing'}"
    done = host.namespace.run(
        *(command_path("mimicctl"), "--address", address, "show", "eth0"), check=False
    )
    answer = Answer(done.returncode, done.stdout, done.stderr)
    assert_refused(answer, "mimicctl", 3, "cannot be reached")


def test_a_bus_without_the_daemon_is_told(host: Host) -> None:
    with Daemon(host) as daemon:
        daemon.terminate()
        answer = daemon.ctl("show", "eth0")
        assert_refused(answer, "mimicctl", 3, "mimicd")
