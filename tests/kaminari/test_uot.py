# SPDX-License-Identifier: GPL-2.0-only
"""UDP over TCP: datagrams come out as they went in, or are dropped whole and counted."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaminari.uot import DatagramQueue, DatagramReader, encode_datagram
from tests.kaminari.rig import STREAM_LAYERS, Layers, Rig, Tunnel, wait_for

UOT_LAYERS = [
    Layers(f"uot-{row.name}", f"uot;{row.client}", f"uot;{row.server}") for row in STREAM_LAYERS
]
SIZES = [1, 2, 3, 100, 1200, 1472, 8191, 8192, 8193, 16384, 65507]


def drops_of(text: str) -> int:
    return sum(int(number) for number in re.findall(r"(\d+) dropped", text))


@given(st.lists(st.binary(max_size=300)), st.data())
def test_any_split_gives_the_same_datagrams(datagrams: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(map(encode_datagram, datagrams))
    reader = DatagramReader()
    received = []
    position = 0
    while position < len(wire):
        count = data.draw(st.integers(1, 100))
        middle = position + count // 2
        pieces: list[bytes | bytearray | memoryview] = [
            wire[position:middle],
            memoryview(wire)[middle : position + count],
        ]
        received += reader.feed(pieces)
        position += count
    assert received == [datagram for datagram in datagrams if datagram]
    assert reader.empty == len(datagrams) - len(received)
    assert not reader.mid_datagram


def test_a_datagram_is_its_length_in_network_order_and_itself() -> None:
    assert encode_datagram(b"abc") == b"\x00\x03abc"
    assert encode_datagram(b"a" * 65507)[:2] == b"\xff\xe3"


def test_a_full_queue_drops_its_oldest_and_counts_it() -> None:
    queue = DatagramQueue(limit_bytes=100)
    for number in range(20):
        queue.append(bytes((number,)) * 10)
    assert queue.dropped == 10
    assert [piece[0] for piece in queue.take(35)] == [10, 11, 12]
    assert [piece[0] for piece in queue.take(1)] == [13]
    assert len(queue) == 6


@pytest.mark.parametrize("layers", UOT_LAYERS, ids=lambda layers: layers.name)
def test_below_capacity_every_datagram_arrives_whole_and_in_order_both_ways(
    rig: Rig, layers: Layers
) -> None:
    service = rig.udp()
    tunnel = rig.tunnel(layers, service.getsockname()[1])
    near = rig.udp()
    near.connect(("127.0.0.1", tunnel.entry))
    for round_number in range(30):
        sent = [struct.pack("!H", round_number) + os.urandom(size) for size in SIZES[:-1]]
        sent += [os.urandom(65507)]
        for datagram in sent:
            near.send(datagram)
        for datagram in sent:
            got, source = service.recvfrom(65536)
            assert got == datagram
        for datagram in reversed(sent):
            service.sendto(datagram, source)
        for datagram in reversed(sent):
            assert near.recv(65536) == datagram
    tunnel.client.stop()
    tunnel.server.stop()
    assert drops_of(tunnel.client.log + tunnel.server.log) == 0


def test_datagrams_pass_over_ipv6(rig: Rig) -> None:
    service = rig.udp("::1")
    tunnel = rig.tunnel(UOT_LAYERS[7], service.getsockname()[1], host="::1")
    near = rig.udp("::1")
    near.connect(("::1", tunnel.entry))
    near.send(b"out")
    data, source = service.recvfrom(100)
    assert data == b"out"
    service.sendto(b"back", source)
    assert near.recv(100) == b"back"


def test_each_source_has_a_stream_of_its_own(rig: Rig) -> None:
    service = rig.udp()
    tunnel = rig.tunnel(UOT_LAYERS[1], service.getsockname()[1])
    sources = [rig.udp() for _ in range(20)]
    for number, source in enumerate(sources):
        source.sendto(b"from %d" % number, ("127.0.0.1", tunnel.entry))
    seen = {}
    for _ in sources:
        data, address = service.recvfrom(100)
        seen[data] = address
    assert len(set(seen.values())) == len(sources)
    for data, address in seen.items():
        service.sendto(b"to " + data, address)
    for number, source in enumerate(sources):
        assert source.recv(100) == b"to from %d" % number


@pytest.mark.parametrize(
    "layers", [UOT_LAYERS[0], UOT_LAYERS[4], UOT_LAYERS[7]], ids=lambda layers: layers.name
)
def test_above_capacity_datagrams_are_dropped_whole_and_counted(rig: Rig, layers: Layers) -> None:
    service = rig.udp()
    tunnel = rig.tunnel(layers, service.getsockname()[1], log="debug")
    near = rig.udp()
    near.connect(("127.0.0.1", tunnel.entry))
    near.send(b"first")
    assert service.recv(100) == b"first"
    os.kill(tunnel.server.popen.pid, signal.SIGSTOP)  # the far end takes nothing
    filler = os.urandom(1400)
    for number in range(20000):
        near.send(struct.pack("!I", number) + filler)
    wait_for_idle(tunnel)
    os.kill(tunnel.server.popen.pid, signal.SIGCONT)
    arrived = []
    service.settimeout(1.0)
    try:
        while True:
            data = service.recv(65536)
            assert data[4:] == filler
            arrived.append(struct.unpack("!I", data[:4])[0])
    except TimeoutError:
        pass
    assert arrived == sorted(set(arrived))
    assert 0 < len(arrived) < 20000
    tunnel.client.stop()
    tunnel.server.stop()
    dropped = drops_of(tunnel.client.log)
    assert dropped > 0
    by_kernel = re.findall(r"datagrams dropped: (\d+) by the kernel", tunnel.client.log)
    # What is not counted was dropped by this test's own receiving socket.
    assert len(arrived) + dropped + sum(map(int, by_kernel)) <= 20000


def wait_for_idle(tunnel: Tunnel) -> None:
    """Until the client has taken what was sent: its CPU time stands still."""
    samples: list[str] = []

    def settled() -> bool:
        with open(f"/proc/{tunnel.client.popen.pid}/stat") as file:
            samples.append(" ".join(file.read().rsplit(")", 1)[1].split()[11:13]))
        return len(samples) > 30 and len(set(samples[-30:])) == 1

    wait_for(settled, "rest of the client")


def test_memory_does_not_grow_behind_a_stalled_stream(rig: Rig) -> None:
    service = rig.udp()
    tunnel = rig.tunnel(UOT_LAYERS[0], service.getsockname()[1])
    near = rig.udp()
    near.connect(("127.0.0.1", tunnel.entry))
    near.send(b"first")
    assert service.recv(100) == b"first"
    before = tunnel.client.resident_bytes()
    os.kill(tunnel.server.popen.pid, signal.SIGSTOP)
    for _ in range(3000):
        near.send(bytes(60000))
    wait_for_idle(tunnel)
    assert tunnel.client.resident_bytes() - before < 16 << 20
    os.kill(tunnel.server.popen.pid, signal.SIGCONT)


def test_an_idle_source_loses_its_stream_and_gets_a_new_one(rig: Rig) -> None:
    service = rig.udp()
    layers = Layers("idle", "uot;idle-timeout=0.3", "uot")
    tunnel = rig.tunnel(layers, service.getsockname()[1], log="debug")
    near = rig.udp()
    near.connect(("127.0.0.1", tunnel.entry))
    near.send(b"one")
    assert service.recv(100) == b"one"
    assert "idle for 0.3 s" in tunnel.client.wait_for_line("closed (")
    assert "the peer closed" in tunnel.server.wait_for_line("closed (")
    near.send(b"two")
    assert service.recv(100) == b"two"


def test_sources_beyond_the_limit_are_dropped_and_counted(rig: Rig) -> None:
    service = rig.udp()
    layers = Layers("limit", "uot;max-connections=2", "uot")
    tunnel = rig.tunnel(layers, service.getsockname()[1])
    sources = [rig.udp() for _ in range(3)]
    for source in sources[:2]:
        source.sendto(b"in", ("127.0.0.1", tunnel.entry))
        assert service.recv(100) == b"in"
    sources[2].sendto(b"out", ("127.0.0.1", tunnel.entry))
    sources[0].sendto(b"still in", ("127.0.0.1", tunnel.entry))
    assert service.recv(100) == b"still in"
    assert tunnel.client.stop() == 0
    assert "1 from sources beyond max-connections" in tunnel.client.log


def test_an_empty_datagram_is_dropped_and_counted(rig: Rig) -> None:
    service = rig.udp()
    tunnel = rig.tunnel(UOT_LAYERS[1], service.getsockname()[1])
    near = rig.udp()
    near.connect(("127.0.0.1", tunnel.entry))
    near.send(b"")
    near.send(b"full")
    assert service.recv(100) == b"full"
    assert tunnel.client.stop() == 0
    assert "1 empty" in tunnel.client.log


def test_a_service_that_is_away_for_a_while_is_found_again(rig: Rig) -> None:
    service = rig.udp()
    port = service.getsockname()[1]
    tunnel = rig.tunnel(UOT_LAYERS[0], port)
    near = rig.udp()
    near.connect(("127.0.0.1", tunnel.entry))
    near.send(b"one")
    assert service.recv(100) == b"one"
    service.close()
    for _ in range(5):
        near.send(b"lost")
    back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with back:
        back.bind(("127.0.0.1", port))
        back.settimeout(0.2)
        received = []

        def heard() -> bool:
            near.send(b"two")
            try:
                received.append(back.recv(100))
            except TimeoutError:
                return False
            return b"two" in received

        wait_for(heard, "datagram at the new service")
