# SPDX-License-Identifier: GPL-2.0-only
"""The newest releases of the libraries do as well as Debian's: a smoke test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns.disguise import remote_and_local
from tests.rig.capture import Capture
from tests.rig.daemon import Daemon
from tests.rig.network import Network
from tests.rig.traffic import exchange, flow

LIBRARIES = ("dbus-next", "pyroute2", "uvloop")
PORT = 51820


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds them, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("newest")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder))
    # constraints that somebody set for other work say nothing here
    env = {**os.environ, "PIP_CONSTRAINT": os.devnull}
    done = subprocess.run((*pip, *LIBRARIES), capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip()[-200:]}")
    return folder


def test_datagrams_cross_with_the_newest_releases(
    newest: Path, routed_network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = routed_network
    monkeypatch.setenv("PYTHONPATH", str(newest))
    at_a, at_b = remote_and_local(net, 4, PORT)
    with Daemon(net.a) as a, Daemon(net.b) as b:
        for daemon in (a, b):
            mapped = Path(f"/proc/{daemon.pid}/maps").read_text()
            assert str(newest / "uvloop") in mapped, "another uvloop is loaded"
        a.ctl("run", "--detach", "-f", at_a, "eth0", check=True)
        b.ctl("run", "--detach", "-f", at_b, "eth0", check=True)
        with flow(net.a, net.b, family=4, port_b=PORT) as (end_a, end_b):
            with Capture(net.router.namespace, "to-a", tmp_path / "wire.pcap") as capture:
                verdicts = exchange(end_a, end_b, count=2000, largest_bytes=1400, seed=4)
            report = capture.analysis().flow(end_a.text, end_b.text)
        assert all(verdict.clean for verdict in verdicts)
        assert report.tcp >= 4000
        assert report.faults() == []
        assert "established" in a.ctl("show", "eth0", check=True).stdout
