# SPDX-License-Identifier: GPL-2.0-only
"""Many connections at once, and memory that does not grow with what passes."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
from collections.abc import Iterator

import pytest

from tests.kaminari.bulk import Side, exchange
from tests.kaminari.rig import DEADLINE_S, STREAM_LAYERS, Layers, Rig

MIB = 1 << 20
CONNECTIONS = 5000


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3 * CONNECTIONS:
        pytest.skip(f"only {hard} open files are allowed, {3 * CONNECTIONS} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def accept_all(
    listener: socket.socket, stack: contextlib.ExitStack, count: int
) -> list[socket.socket]:
    return [stack.enter_context(listener.accept()[0]) for _ in range(count)]


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(
    "layers", [STREAM_LAYERS[0], STREAM_LAYERS[1]], ids=lambda layers: layers.name
)
def test_five_thousand_connections_are_open_and_alive_at_once(rig: Rig, layers: Layers) -> None:
    service = rig.listen()
    tunnel = rig.tunnel(layers, service.getsockname()[1])
    with contextlib.ExitStack() as stack:
        near: list[socket.socket] = []
        far: list[socket.socket] = []
        while len(near) < CONNECTIONS:  # in groups: a listening queue has its bounds too
            group = [
                stack.enter_context(
                    socket.create_connection(("127.0.0.1", tunnel.entry), DEADLINE_S)
                )
                for _ in range(250)
            ]
            far += accept_all(service, stack, len(group))
            near += group
        for number, sock in enumerate(near):
            sock.sendall(b"%04d" % number)
        answered = answer_all(far)
        assert answered == CONNECTIONS
        for number, sock in enumerate(near):
            assert sock.recv(8) == b"%04d" % number
        for process in (tunnel.client, tunnel.server):
            assert process.resident_bytes() < 200 * MIB


def answer_all(socks: list[socket.socket]) -> int:
    """Echo four bytes on each; how many were."""
    answered = 0
    by_file = {sock.fileno(): sock for sock in socks}
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        while answered < len(socks):
            ready = selector.select(DEADLINE_S)
            if not ready:
                break
            for key, _ in ready:
                sock = by_file[key.fd]
                data = sock.recv(4)
                assert len(data) == 4
                sock.sendall(data)
                selector.unregister(sock)
                answered += 1
    return answered


@pytest.mark.parametrize("layers", STREAM_LAYERS, ids=lambda layers: layers.name)
def test_readers_that_never_read_hold_a_bounded_amount_of_memory(rig: Rig, layers: Layers) -> None:
    service = rig.listen()
    tunnel = rig.tunnel(layers, service.getsockname()[1])
    warm = rig.connect(tunnel.entry)
    warm.sendall(bytes(MIB))
    rig.accept(service)
    before = [process.resident_bytes() for process in (tunnel.client, tunnel.server)]
    for _ in range(20):
        sock = rig.connect(tunnel.entry)
        sock.sendall(b"x")
        rig.accept(service)
        sock.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            while True:
                sock.sendall(bytes(MIB))
    for process, start in zip((tunnel.client, tunnel.server), before, strict=True):
        # A read, its encrypted form, and libssl's buffers for each of them.
        assert process.resident_bytes() - start < 20 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("layers", STREAM_LAYERS, ids=lambda layers: layers.name)
def test_a_gigabyte_leaves_memory_as_it_was(rig: Rig, layers: Layers) -> None:
    service = rig.listen()
    tunnel = rig.tunnel(layers, service.getsockname()[1])

    def pass_through(size: int) -> None:
        near = Side(rig.connect(tunnel.entry), size)
        exchange(near, Side(rig.accept(service), size))

    pass_through(50 * MIB)
    before = [process.resident_bytes() for process in (tunnel.client, tunnel.server)]
    pass_through(1000 * MIB)
    for process, start in zip((tunnel.client, tunnel.server), before, strict=True):
        assert process.resident_bytes() - start < 8 * MIB
