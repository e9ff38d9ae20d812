# SPDX-License-Identifier: GPL-2.0-only
"""However the wire is cut, down to single bytes, the same stream comes out."""

from __future__ import annotations

import random
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaminari.codec import Codec, PlainCodec, TlsCodec, WebSocketCodec, WebSocketOverTls
from kaminari.options import MaskMode, TlsOptions
from kaminari.tls_context import make_client_factory, make_server_factory
from kaminari.tls_engine import TlsEngine
from tests.kaminari.bulk import BLOCK, Side, assert_equal_hashes, exchange
from tests.kaminari.rig import STREAM_LAYERS, Layers, Rig, free_port

DATA = BLOCK[: 1 << 18]
SERVER_TLS = {
    early: make_server_factory(TlsOptions(servername="a.example", early_data=early))
    for early in (False, True)
}
CLIENT_TLS = {
    early: make_client_factory(TlsOptions(sni="a.example", insecure=True, early_data=early))
    for early in (False, True)
}


def shake_hands(libssl: bool) -> tuple[TlsEngine, TlsEngine]:
    """A client's and a server's engine, past the handshake."""
    client, server = CLIENT_TLS[libssl].make_engine(), SERVER_TLS[libssl].make_engine()
    client.start()
    server.start()
    while not (client.established and server.established):
        server.receive(client.take_outgoing())
        client.receive(server.take_outgoing())
    return client, server


def build(name: str) -> tuple[Codec, Codec]:
    mask = MaskMode(name.split("-")[1]) if "-" in name else MaskMode.SKIP
    if name == "tcp":
        return PlainCodec(), PlainCodec()
    if name.startswith("ws-"):
        return WebSocketCodec(mask), WebSocketCodec(None)
    client, server = (TlsCodec(engine) for engine in shake_hands(name.startswith("libssl")))
    if name.startswith("wss-"):
        return (
            WebSocketOverTls(WebSocketCodec(mask), client),
            WebSocketOverTls(WebSocketCodec(None), server),
        )
    return client, server


def carry(sender: Codec, receiver: Codec, writes: list[int], cuts: list[int]) -> None:
    """Send DATA in pieces of the sizes `writes` in turn, cut on the wire by `cuts` in turn."""
    wire = bytearray()
    position = turn = 0
    while position < len(DATA):
        piece = DATA[position : position + writes[turn % len(writes)]]
        for part in sender.encode([piece]):
            wire += part
        position += len(piece)
        turn += 1
    for part in sender.encode_end():
        wire += part
    received = bytearray()
    position = turn = 0
    while position < len(wire):
        cut = wire[position : position + cuts[turn % len(cuts)]]
        for part in receiver.decode(memoryview(bytes(cut))):
            received += part
        position += len(cut)
        turn += 1
    if not receiver.ended:
        receiver.decode_end()
    assert receiver.ended
    assert received == DATA


NAMES = [*(layers.name for layers in STREAM_LAYERS), "libssl"]
sizes = st.lists(st.integers(1, 40000) | st.integers(1, 20), min_size=1, max_size=12).filter(
    lambda cuts: sum(cuts) >= 8 * len(cuts)  # one cut of 1 byte a time has its own test
)


@pytest.mark.parametrize("name", NAMES)
@given(writes=sizes, cuts=sizes, upward=st.booleans())
@settings(max_examples=12)
def test_any_split_of_the_wire_gives_the_same_stream(
    name: str, writes: list[int], cuts: list[int], upward: bool
) -> None:
    client, server = build(name)
    carry(*((client, server) if upward else (server, client)), writes, cuts)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("upward", [True, False], ids=["upward", "downward"])
def test_a_wire_that_brings_single_bytes_gives_the_same_stream(name: str, upward: bool) -> None:
    client, server = build(name)
    carry(*((client, server) if upward else (server, client)), [8192], [1])


@pytest.mark.parametrize("layers", STREAM_LAYERS, ids=lambda layers: layers.name)
def test_a_path_that_cuts_at_random_carries_handshake_and_data(rig: Rig, layers: Layers) -> None:
    """A proxy between the two ends passes on pieces of 1 to 700 bytes, each in a segment."""
    service = rig.listen()
    cutter = rig.listen()
    entry, middle = free_port(), free_port()
    rig.server(f"127.0.0.1:{middle}", f"127.0.0.1:{service.getsockname()[1]}", layers.server)
    rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{cutter.getsockname()[1]}", layers.client)
    near_socket = rig.connect(entry)
    inner = rig.accept(cutter)
    outer = rig.connect(middle)
    chance = random.Random(layers.name)
    threads = [
        threading.Thread(target=pass_on_cut, args=(*ends, chance.random()), daemon=True)
        for ends in ((inner, outer), (outer, inner))
    ]
    for thread in threads:
        thread.start()
    near = Side(near_socket, 1 << 18)
    far = Side(rig.accept(service), 1 << 18)
    exchange(near, far)
    assert_equal_hashes(near, far)
    for thread in threads:
        thread.join(30)


def pass_on_cut(source: socket.socket, sink: socket.socket, seed: float) -> None:
    chance = random.Random(seed)
    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    passed = 0
    while data := source.recv(65536):
        position = 0
        while position < len(data):
            # Single bytes while the handshakes run, and now and then later.
            small = passed < 2000 or chance.random() < 0.2
            count = 1 if small else chance.randrange(1, 700)
            sink.sendall(data[position : position + count])
            position += count
            passed += count
    sink.shutdown(socket.SHUT_WR)
