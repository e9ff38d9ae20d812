# SPDX-License-Identifier: GPL-2.0-only
"""QUIC as one more real sender: its own acknowledgements, pacing and losses, over TCP segments."""

import os
import sys
from pathlib import Path

import pytest

from tests.kaminari.certificates import make_authority, make_certificate
from tests.netns.disguise import data_segments, disguised, remote_and_local, wire_capture
from tests.rig.daemon import ROOT, Foreground
from tests.rig.network import Network

PORT, STREAM_BYTES, LEAST_SEGMENTS = 4433, 1 << 20, 1000
WITHIN_S = 90.0
PEER = (sys.executable, str(Path(__file__).with_name("quic_peer.py")))
LIBRARY = ROOT / ".venv" / "quic"


@pytest.mark.parametrize("family", [4, 6])
def test_a_quic_stream_crosses_both_ways_as_tcp(
    routed_network: Network, tmp_path: Path, family: int
) -> None:
    net = routed_network
    env = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    address = str(net.b.address(family))
    certificate, key = make_certificate(make_authority()).write(tmp_path, "quic")
    server_argv = [*PEER, "server", address, str(PORT), str(certificate), str(key)]
    invalid = net.router.firewall.invalid()
    remote, local = remote_and_local(net, family, PORT)
    with (
        disguised(net, [remote], [local]),
        Foreground(net.b, argv=server_argv, env=env) as server,
        wire_capture(net, tmp_path / "wire.pcap") as capture,
    ):
        server.await_words("listening")
        client = (*PEER, "client", address, str(PORT), str(STREAM_BYTES))
        done = net.a.namespace.run(*client, check=False, timeout_s=WITHIN_S, env=env)
        assert done.returncode == 0, done.stderr
        capture.stop()
    report = capture.analysis().everything()
    assert report.udp == 0
    assert not report.bad_checksums
    assert data_segments(report) > LEAST_SEGMENTS
    assert net.router.firewall.invalid() == invalid
