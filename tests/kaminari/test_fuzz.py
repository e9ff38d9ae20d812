# SPDX-License-Identifier: GPL-2.0-only
"""Runs of broken and of well-formed traffic against live tunnels."""

from __future__ import annotations

import contextlib
import os
import random
import socket

import pytest

from kaminari.pipes import MAX_IDLE_PIPES
from tests.kaminari.peers import EchoService, assert_echoes
from tests.kaminari.rig import (
    STREAM_LAYERS,
    TLS_CLIENT,
    TLS_SERVER,
    WS,
    Layers,
    Process,
    Rig,
    free_port,
    reset,
    wait_for,
)
from tests.kaminari.test_bad_input import GOOD, frame, read_head

FAULT = "fault of the program"


def mutate(wire: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, dropped, doubled, or made up."""
    mutated = bytearray(wire)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(mutated) + 1)
        match chance.randrange(4):
            case 0:
                mutated[place : place + 1] = bytes((chance.randrange(256),))
            case 1:
                del mutated[place : place + chance.randrange(1, 9)]
            case 2:
                mutated[place:place] = mutated[place : place + chance.randrange(1, 9)]
            case _:
                mutated[place:place] = chance.randbytes(chance.randrange(1, 9))
    return bytes(mutated)


def assault(port: int, wire: bytes, chance: random.Random) -> None:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as sock:
        position = 0
        while position < len(wire):
            count = chance.randrange(1, 2000)
            sock.sendall(wire[position : position + count])
            position += count
        if chance.random() < 0.3:
            reset(sock)
        else:
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass


def assert_well(process: Process, before_bytes: int) -> None:
    assert process.popen.poll() is None, process.log
    assert FAULT not in process.log, process.log
    assert process.resident_bytes() - before_bytes < 32 << 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["handshake", "frames", "tls"])
def test_mutated_traffic_harms_nobody_else(rig: Rig, kind: str, seed: int) -> None:
    chance = random.Random(seed)
    echo, port = EchoService(rig), free_port()
    options = TLS_SERVER if kind == "tls" else WS
    server = rig.server(
        f"127.0.0.1:{port}", f"127.0.0.1:{echo.port}", f"{options};handshake-timeout=1"
    )
    if kind == "tls":
        entry = free_port()
        rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{port}", TLS_CLIENT)
        bystander = rig.connect(entry)
    else:
        bystander = rig.connect(port)
        bystander.sendall(GOOD)
        read_head(bystander)
    before = server.resident_bytes()
    frames = b"".join(
        frame(os.urandom(chance.randrange(200)), chance.choice((2, 9, 10))) for _ in range(20)
    )
    hello = b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03" + os.urandom(242)
    for _ in range(300):
        wire = {
            "handshake": lambda: mutate(GOOD, chance) + frames,
            "frames": lambda: GOOD + mutate(frames, chance),
            "tls": lambda: mutate(hello, chance),
        }[kind]()
        assault(port, wire, chance)
    ping = b"still here" if kind == "tls" else frame(b"still here")
    bystander.sendall(ping)
    assert bystander.recv(100)
    assert_well(server, before)


@pytest.mark.parametrize("layers", STREAM_LAYERS, ids=lambda layers: layers.name)
def test_many_connections_of_every_temper_leave_nothing_behind(rig: Rig, layers: Layers) -> None:
    chance = random.Random(layers.name)
    echo = EchoService(rig)
    tunnel = rig.tunnel(layers, echo.port)
    assert_echoes(rig.connect(tunnel.entry), bytes(1 << 20))
    processes = (tunnel.client, tunnel.server)
    files = [len(os.listdir(f"/proc/{process.popen.pid}/fd")) for process in processes]
    before = [process.resident_bytes() for process in processes]
    for _ in range(200):
        size = chance.choice((0, 1, 100, 70000, 300000))
        with socket.create_connection(("127.0.0.1", tunnel.entry), 30) as sock:
            temper = chance.randrange(4)
            if temper == 0:
                assert_echoes(sock, os.urandom(size))
                continue
            sock.settimeout(0.05)
            with contextlib.suppress(TimeoutError, OSError):
                sock.sendall(bytes(size))
                if temper == 1:
                    sock.recv(1000)
            if temper == 2:
                reset(sock)
    for process, start in zip(processes, before, strict=True):
        assert_well(process, start)
    assert_echoes(rig.connect(tunnel.entry), bytes(1 << 20))

    def closed() -> bool:
        # A few pipes stay open for the next that need one.
        return all(
            len(os.listdir(f"/proc/{process.popen.pid}/fd")) <= start + 2 * MAX_IDLE_PIPES
            for process, start in zip(processes, files, strict=True)
        )

    wait_for(closed, "end of every descriptor")
