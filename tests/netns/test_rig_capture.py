# SPDX-License-Identifier: GPL-2.0-only
"""Captures are whole, and what is wrong on the wire is noticed."""

from pathlib import Path

import pytest

from tests.rig.capture import Capture
from tests.rig.endpoint import RawEndpoint
from tests.rig.namespace import (
    RigError,
)
from tests.rig.network import Network
from tests.rig.peer import Peer
from tests.rig.segment import ACK, PSH, RST, SYN
from tests.rig.traffic import exchange, flow


def test_a_capture_has_every_packet_from_first_to_last(
    routed_network: Network, tmp_path: Path
) -> None:
    net = routed_network
    with Capture(net.router.namespace, "to-a", tmp_path / "all.pcap") as capture:
        with flow(net.a, net.b, 6) as (a, b):
            exchange(a, b, count=2000, largest_bytes=1400)
            ends = a.text, b.text
        analysis = capture.analysis(payloads=True)
    report = analysis.flow(*ends)
    assert (report.udp, report.tcp) == (4000, 0)
    assert {packet.length_bytes for packet in report.packets} == set(range(1401))
    assert all(len(packet.payload) == packet.length_bytes for packet in report.packets)


def test_a_capture_of_fake_tcp_shows_flags_numbers_and_no_fault(
    routed_network: Network, tmp_path: Path
) -> None:
    net = routed_network
    with (
        Capture(net.router.namespace, "to-b", tmp_path / "tcp.pcap", "tcp") as capture,
        Peer(net.a, 6000, (net.b.address(), 6000)) as a,
        Peer(net.b, 6000, (net.a.address(), 6000)) as b,
    ):
        a.connect(b"hello", isn=0xFFFFFFF0)
        assert b.next_datagram() == b"hello"
        b.send(b"answer, longer than twelve bytes")
        assert a.next_datagram() == b"answer, longer than twelve bytes"
        analysis = capture.analysis(payloads=True)
        report = analysis.flow(str(a.local), str(b.local))
    assert report.flag_sequence[:3] == ["S", "SA", "A"]
    assert report.flag_sequence.count("PA") == 2
    assert report.faults() == []
    assert (report.resets, report.udp) == (0, 0)
    assert not report.bad_checksums
    assert not report.warnings
    assert report.packets[0].seq == 0xFFFFFFF0
    answers = analysis.direction(str(b.local), str(a.local)).packets
    (pushed,) = (packet for packet in answers if packet.flag_letters == "PA")
    assert pushed.payload == b"er than twelve bytes" + b"answer, long"


def test_a_capture_notices_what_is_wrong(direct_network: Network, tmp_path: Path) -> None:
    net = direct_network
    with (
        Capture(net.b.namespace, "eth0", tmp_path / "bad.pcap", "tcp") as capture,
        RawEndpoint(net.a, 6001, (net.b.address(), 6001)) as a,
        RawEndpoint(net.b, 6001, (net.a.address(), 6001)) as b,
    ):
        a.send_segment(SYN, 100, window=0xFFFF)
        b.expect(lambda s: s.has(SYN))
        b.send_segment(SYN | ACK, 500, 101, 0xFFFF)
        a.expect(lambda s: s.has(SYN))
        a.send_segment(ACK, 101, 501, 0xFFFF)
        a.send_segment(ACK | PSH, 101, 501, 0xFFFF, b"one", wrong_checksum=True)
        a.send_segment(ACK | PSH, 104, 501, 0xFFFF, b"two")
        a.send_segment(ACK | PSH, 207, 501, 0xFFFF, b"after a gap")
        a.send_segment(ACK | PSH, 107, 501, 0, b"out of order")
        b.expect(lambda s: s.payload == b"out of order")
        b.send_segment(ACK, 501, 9000, 0xFFFF)
        a.expect(lambda s: s.ack == 9000)
        a.send_segment(ACK, 217, 501, 0xFFFF)
        a.send_segment(RST, 218)
        b.expect(lambda s: s.has(RST))
        report = capture.analysis().flow(str(a.local), str(b.local))
    assert report.bad_checksums == {"tcp": 1}
    assert report.resets == 1
    assert report.warnings["lost_segment"] == 1
    assert report.warnings["out_of_order"] + report.warnings["retransmission"] == 1
    assert report.warnings["ack_lost_segment"] == 1
    assert report.warnings["zero_window"] == 1
    assert report.notes["keep_alive"] == 1
    # The out of order one says zero window too.
    assert len(report.faults()) == 5


def test_a_capture_on_an_unknown_interface_says_so(direct_network: Network, tmp_path: Path) -> None:
    with pytest.raises(RigError, match="No such device"):
        Capture(direct_network.a.namespace, "eth7", tmp_path / "none.pcap")
