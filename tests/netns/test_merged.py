# SPDX-License-Identifier: GPL-2.0-only
"""Receiving on TC ingress: what GRO merged becomes the datagrams again that it was.

A peer that does not set PSH lets the receiving kernel merge its segments. The nearest cause that
can be had at will is a segment that its sender left to be cut: it arrives merged all the same.
"""

import secrets
import socket
import struct

import pytest

from tests.rig.daemon import Daemon
from tests.rig.network import Host, Network
from tests.rig.peer import Peer
from tests.rig.segment import ACK, Segment, checksum, encode_datagram, encode_packet

PORT, PEER_PORT = 5200, 51820
COUNT, DATAGRAM_BYTES = 12, 1000

# linux/if_packet.h and linux/virtio_net.h
SOL_PACKET, PACKET_VNET_HDR = 263, 15
VNET_HDR = struct.Struct("<BBHHHH")  # flags gso_type hdr_len gso_size csum_start csum_offset
NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6 = 1, 1, 4
LINK_BYTES, TCP_BYTES, CHECKSUM_AT = 14, 20, 16


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def send_merged(host: Host, segment: Segment, part_bytes: int) -> None:
    """One frame that carries several segments of `part_bytes` payload each."""
    packet = bytearray(encode_packet(segment))
    ip_bytes = 20 if segment.source.version == 4 else 40
    start = LINK_BYTES + ip_bytes
    # what is left to be finished starts with the sum of the pseudo-header
    at = ip_bytes + CHECKSUM_AT
    ends = segment.source.address.packed + segment.target.address.packed
    pseudo = ends + struct.pack("!II", len(packet) - ip_bytes, socket.IPPROTO_TCP)
    packet[at : at + 2] = (~checksum(pseudo) & 0xFFFF).to_bytes(2, "big")
    kind = GSO_TCPV4 if ip_bytes == 20 else GSO_TCPV6
    header = VNET_HDR.pack(NEEDS_CSUM, kind, start + TCP_BYTES, part_bytes, start, CHECKSUM_AT)
    protocol = 0x0800 if ip_bytes == 20 else 0x86DD
    link = bytes.fromhex((host.next_hop_mac + host.mac).replace(":", ""))
    raw = host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with raw:
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        raw.bind((host.interface, protocol))
        raw.send(header + link + protocol.to_bytes(2, "big") + packet)


def test_merged_segments_are_split_into_their_datagrams(
    direct_network: Network, family: int
) -> None:
    net = direct_network
    address = str(net.a.address(family))
    end = f"{address}:{PORT}" if family == 4 else f"[{address}]:{PORT}"
    sent = [secrets.token_bytes(DATAGRAM_BYTES) for _ in range(COUNT)]
    with (
        Daemon(net.a) as daemon,
        Peer(net.b, PEER_PORT, (address, PORT)) as peer,
        net.a.namespace.socket(
            socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM
        ) as receiver,
    ):
        daemon.ctl("run", "--detach", "-x", "none", "-f", f"local={end}", "eth0", check=True)
        receiver.bind((address, PORT))
        receiver.settimeout(5)
        peer.connect(b"first")
        assert receiver.recv(100) == b"first"
        whole = b"".join(encode_datagram(one, 0, 0, 0) for one in sent)
        tcp = peer.tcp
        segment = Segment(peer.local, peer.remote, ACK, tcp.seq, tcp.ack, 0x3400, whole)
        send_merged(net.b, segment, DATAGRAM_BYTES)
        assert [receiver.recv(65535) for _ in sent] == sent
        shown = daemon.ctl("show", "eth0", check=True).stdout
        assert "hop 1 " in " ".join(shown.split())
        assert f"rx-data {COUNT + 1}" in " ".join(shown.split())
