# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel may lack or refuse, by its nearest cause that can be had here.

The paths taken then carry every sender in tests/matrix, where a variable of the environment forces
them. Refusals are real: of a capability that was dropped, of a driver that has no XDP.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.rig.attachments import attachments
from tests.rig.daemon import ROOT, Daemon, Foreground, command_path
from tests.rig.foreign import foreign_xdp
from tests.rig.network import Host, direct

WITHOUT_PERFMON = ("capsh", "--drop=cap_sys_admin,cap_perfmon", "--shell=/usr/bin/env", "--")
FILTER = ("-f", "remote=192.0.2.9:5000")
ASK = """
import json
from mimicd.kernel import bpf, compiler
print(json.dumps([bpf.reads_kernel(), compiler.checksum_defines()]))
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """With a TAP, whose driver has XDP, and a bridge, which has none."""
    with direct() as network:
        host = network.a
        lines = (
            *("tuntap add tap0 mode tap", "link set tap0 up"),
            *("link add br0 type bridge", "link set br0 up"),
        )
        host.namespace.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        yield host


def asked(host: Host, *wrapper: str) -> tuple[bool, dict[str, int]]:
    """Whether programs may read the kernel, and what egress is compiled with."""
    done = host.namespace.run(*wrapper, sys.executable, "-c", ASK)
    reads, defines = json.loads(done.stdout)
    return reads, defines


def test_where_the_kernel_may_not_be_read_no_program_tries_to(host: Host) -> None:
    reads, defines = asked(host)
    assert reads
    assert "SKB_IP_SUMMED_AT" in defines
    # as lockdown for confidentiality does, the lack of the capability takes the helper away
    assert asked(host, *WITHOUT_PERFMON) == (False, {})


def test_a_lack_of_perfmon_is_named(host: Host) -> None:
    before = attachments(host)
    argv = (*WITHOUT_PERFMON, command_path("mimicd"))
    done = host.namespace.run(*argv, "run", *FILTER, "eth0", check=False)
    assert done.returncode == 1
    assert "CAP_PERFMON" in done.stderr
    assert "Traceback" not in done.stderr
    done = host.namespace.run(*argv, "check", *FILTER, "eth0", check=False)
    assert done.returncode == 1
    rows = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert "CAP_PERFMON missing" in rows["privileges"]
    assert attachments(host) == before


def test_bpf_that_seccomp_refuses_is_named(host: Host) -> None:
    before = attachments(host)
    argv = (sys.executable, str(ROOT / "tests/rig/without_bpf.py"), command_path("mimicd"))
    for word in ("run", "guard"):
        done = host.namespace.run(*argv, word, *FILTER, "eth0", check=False)
        assert done.returncode == 1
        assert "the kernel refuses bpf(2): Operation not permitted" in done.stderr
        assert "Traceback" not in done.stderr
    done = host.namespace.run(*argv, "check", *FILTER, "eth0", check=False)
    assert done.returncode == 1
    assert "bpf(2) is refused (Operation not permitted)" in done.stdout
    assert attachments(host) == before


@pytest.mark.parametrize(
    ("interface", "mode", "words"),
    [
        ("tap0", "native", ""),
        ("br0", "none", "received on TC, without XDP: "),
        ("eth0", "none", ""),
    ],
    ids=["a driver with XDP", "a driver without", "veth"],
)
def test_the_mode_is_chosen_and_said(host: Host, interface: str, mode: str, words: str) -> None:
    with Foreground(replace(host, interface=interface), "run", *FILTER, interface) as program:
        program.await_words(f"attached (XDP {mode}, ")
        if words:
            program.await_words(words)


def test_where_the_kernel_lacks_what_the_xdp_program_calls_tc_receives(host: Host) -> None:
    before = attachments(host)
    argv = [sys.executable, "-m", "tests.rig.without_xdp_bytes", "run", *FILTER, "tap0"]
    with Foreground(replace(host, interface="tap0"), argv=argv) as program:
        program.await_words("attached (XDP none, ")
        program.await_words("received on TC, without XDP: the kernel refuses the BPF programs")
    assert attachments(host) == before


def test_xdp_of_somebody_else_is_left_alone_and_tc_receives(host: Host) -> None:
    tap = replace(host, interface="tap0")
    with foreign_xdp(tap), Daemon(tap) as daemon:
        before = attachments(tap).xdp
        daemon.ctl("run", "--detach", *FILTER, "tap0", check=True)
        daemon.await_words("received on TC, without XDP: an XDP program of somebody else")
        shown = daemon.ctl("show", "--json", "tap0", check=True).stdout
        assert '"xdp-mode": "none"' in shown
        assert attachments(tap).xdp == before


def test_a_forced_mode_that_the_driver_lacks_is_refused(host: Host) -> None:
    argv = (command_path("mimicd"), "run", "-x", "native", *FILTER, "br0")
    done = host.namespace.run(*argv, check=False)
    assert done.returncode == 1
    assert "br0" in done.stderr
    assert "Traceback" not in done.stderr
