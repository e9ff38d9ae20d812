# SPDX-License-Identifier: GPL-2.0-only
"""What goes into the tunnel comes out of it, through every nesting of layers."""

from __future__ import annotations

import contextlib
import random
import socket

import pytest

from tests.kaminari.bulk import BLOCK, Side, assert_equal_hashes, exchange
from tests.kaminari.rig import STREAM_LAYERS, Layers, Rig, read_until_reset, receive, reset

MIB = 1 << 20


@pytest.mark.parametrize("layers", STREAM_LAYERS, ids=lambda layers: layers.name)
def test_a_hundred_mebibytes_both_ways_arrive_unchanged_past_readers_that_stall(
    rig: Rig, layers: Layers
) -> None:
    service = rig.listen()
    tunnel = rig.tunnel(layers, service.getsockname()[1])
    near = Side(rig.connect(tunnel.entry), 100 * MIB, stall_after_bytes=10 * MIB)
    far = Side(rig.accept(service), 100 * MIB, stall_after_bytes=30 * MIB)
    exchange(near, far)
    assert_equal_hashes(near, far)
    for side in (near, far):
        assert side.backlog > 0  # the stall took place
    for process in (tunnel.client, tunnel.server):
        # What the stall held up waited in the kernel's buffers, and then at the writer.
        assert process.resident_bytes() < 64 * MIB


@pytest.mark.parametrize("layers", STREAM_LAYERS, ids=lambda layers: layers.name)
def test_a_mebibyte_arrives_over_ipv6(rig: Rig, layers: Layers) -> None:
    service = rig.listen("::1")
    tunnel = rig.tunnel(layers, service.getsockname()[1], host="::1")
    near = Side(rig.connect(tunnel.entry, "::1"), MIB)
    far = Side(rig.accept(service), MIB)
    exchange(near, far)
    assert_equal_hashes(near, far)


@pytest.mark.parametrize("layers", STREAM_LAYERS, ids=lambda layers: layers.name)
def test_a_mebibyte_arrives_over_names(rig: Rig, layers: Layers) -> None:
    service = rig.listen()
    tunnel = rig.tunnel(layers, service.getsockname()[1], host="localhost")
    near = Side(rig.connect(tunnel.entry, "localhost"), MIB)
    far = Side(rig.accept(service), MIB)
    exchange(near, far)
    assert_equal_hashes(near, far)


@pytest.mark.parametrize("layers", STREAM_LAYERS, ids=lambda layers: layers.name)
@pytest.mark.parametrize("closer", ["near", "far"])
def test_a_half_close_passes_and_the_other_direction_goes_on(
    rig: Rig, layers: Layers, closer: str
) -> None:
    service = rig.listen()
    tunnel = rig.tunnel(layers, service.getsockname()[1], log="debug")
    near = rig.connect(tunnel.entry)
    near.sendall(b"hello")
    far = rig.accept(service)
    assert far.recv(100) == b"hello"
    closing, open_still = (near, far) if closer == "near" else (far, near)
    closing.shutdown(socket.SHUT_WR)
    assert open_still.recv(100) == b""
    for _ in range(20):  # the open direction is used in turns, not just drained
        open_still.sendall(BLOCK[:1000])
        assert receive(closing, 1000) == BLOCK[:1000]
    open_still.shutdown(socket.SHUT_WR)
    assert closing.recv(100) == b""
    assert "both sides closed" in tunnel.client.wait_for_line("closed (")
    assert "both sides closed" in tunnel.server.wait_for_line("closed (")


@pytest.mark.parametrize("layers", STREAM_LAYERS, ids=lambda layers: layers.name)
@pytest.mark.parametrize("resetter", ["near", "far"])
def test_what_arrives_before_a_reset_is_a_prefix_and_the_reset_passes(
    rig: Rig, layers: Layers, resetter: str
) -> None:
    service = rig.listen()
    tunnel = rig.tunnel(layers, service.getsockname()[1])
    chance = random.Random(layers.name + resetter)
    for _ in range(6):
        near = rig.connect(tunnel.entry)
        near.sendall(b"!")
        far = rig.accept(service)
        assert far.recv(1) == b"!"
        writer, reader = (near, far) if resetter == "near" else (far, near)
        data = BLOCK[: chance.randrange(1, MIB)]
        writer.settimeout(0.2)  # the path may be full: nobody reads yet
        with contextlib.suppress(TimeoutError):
            writer.sendall(data)
        reset(writer)
        assert data.startswith(read_until_reset(reader))
