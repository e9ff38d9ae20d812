# SPDX-License-Identifier: GPL-2.0-only
"""The real programs that the tunnel has to work with, as tests/peers/fetch.sh unpacks them."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from pathlib import Path

import pytest

from tests.kaminari.rig import PROJECT, Process, Rig, is_listening, wait_for

TREE = Path(os.environ.get("KAMINARI_PEERS", PROJECT / "tests" / "peers" / ".tree"))
# Chromium's command is a script that looks for the real one below /.
FOLDERS = ("usr/lib/chromium", "usr/bin", "usr/sbin", "bin", "sbin")
LIBRARIES = ("usr/lib/*-linux-gnu*", "usr/lib/*-linux-gnu*/pulseaudio", "lib/*-linux-gnu*")


def find_peer(name: str) -> str:
    """The path of a program; skips the test, saying what is missing, if there is none."""
    for folder in FOLDERS:
        path = TREE / folder / name
        if path.exists():
            return str(path)
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing: run tests/peers/fetch.sh")
    return found


def peer_environment() -> dict[str, str]:
    """What lets an unpacked program find the libraries unpacked beside it."""
    folders = [str(path) for pattern in LIBRARIES for path in TREE.glob(pattern)]
    return {"LD_LIBRARY_PATH": ":".join(folders)}


def start_peer(rig: Rig, name: str, *arguments: str, **environment: str) -> Process:
    return rig.start([find_peer(name), *arguments], {**peer_environment(), **environment})


def wait_for_port(process: Process, port: int) -> None:
    def listening() -> bool:
        assert process.popen.poll() is None, f"{process.argv} ended:\n{process.log}"
        return is_listening(port)

    wait_for(listening, f"listener on port {port}")


class EchoService:
    """Sends everything back, and its end behind it."""

    def __init__(self, rig: Rig, host: str = "127.0.0.1") -> None:
        self.listener = rig.listen(host)
        self.listener.settimeout(None)
        self.port = int(self.listener.getsockname()[1])
        self.serve(self.listener)

    @classmethod
    def serve(cls, listener: socket.socket) -> None:
        threading.Thread(target=cls._accept, args=(listener,), daemon=True).start()

    @classmethod
    def _accept(cls, listener: socket.socket) -> None:
        while True:
            try:
                sock = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=cls._echo, args=(sock,), daemon=True).start()

    @staticmethod
    def _echo(sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass


def assert_echoes(sock: socket.socket, data: bytes, half_close: bool = True) -> None:
    """`data` comes back whole; the two directions run at once.

    `half_close` sends the end behind the data; some peers take that for the end of everything.
    """
    failures: list[BaseException] = []

    def send() -> None:
        try:
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            failures.append(error)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    received = bytearray()
    while len(received) < len(data) and (piece := sock.recv(65536)):
        received += piece
    sender.join(30)
    assert not failures
    assert received == data


def write_plugin(folder: Path, role: str, python: str) -> str:
    """An executable kaminaric or kaminaris, as an installation would have it."""
    name = {"client": "kaminaric", "server": "kaminaris"}[role]
    path = folder / name
    path.write_text(
        f"#!/bin/sh\nexport PYTHONPATH='{PROJECT}' LD_LIBRARY_PATH=\n"
        f"exec '{python}' -m kaminari.command {role} \"$@\"\n"
    )
    path.chmod(0o755)
    return str(path)
