# SPDX-License-Identifier: GPL-2.0-only
"""Processes and ports for the tests: what is started here ends with the test, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0
WS = "ws;host=tunnel.example;path=/chat"
TLS_CLIENT = "tls;sni=tunnel.example;insecure"
TLS_SERVER = "tls;servername=tunnel.example"


@dataclass(frozen=True)
class Layers:
    """Options of both ends for one way to nest the layers."""

    name: str
    client: str
    server: str


def _layers() -> tuple[Layers, ...]:
    rows = [Layers("tcp", "", "")]
    rows += [Layers(f"ws-{m}", f"{WS};mask={m}", WS) for m in ("skip", "fixed", "standard")]
    rows += [Layers("tls", TLS_CLIENT, TLS_SERVER)]
    rows += [
        Layers(f"wss-{row.name[3:]}", f"{row.client};{TLS_CLIENT}", f"{WS};{TLS_SERVER}")
        for row in rows[1:4]
    ]
    return tuple(rows)


STREAM_LAYERS = _layers()


def wait_for(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition` holds; fail with `what` when it does not in time."""
    ends = time.monotonic() + deadline_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < ends, f"no {what} within {deadline_s:g} s"
        pause.wait(0.01)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, host: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether any TCP socket listens on a port; looked up, so that nothing is connected to."""
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] == "0A":
                return True
    return False


class Process:
    """A child whose stderr is kept, line by line."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.argv = list(argv)
        self.popen = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(PROJECT), **(environment or {})},
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_for_line(self, text: str, count: int = 1, deadline_s: float = DEADLINE_S) -> str:
        """The `count`th line that holds `text`."""

        def found() -> list[str]:
            return [line for line in list(self.lines) if text in line]

        def settled() -> bool:
            return len(found()) >= count or not self._reader.is_alive()

        wait_for(settled, f"line with {text!r} in:\n{self.log}\n", deadline_s)
        assert len(found()) >= count, f"no line with {text!r} from {self.argv}:\n{self.log}"
        return found()[count - 1]

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        code = self.popen.wait(deadline_s)
        self._reader.join(deadline_s)
        return code

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.wait()

    def end(self) -> None:
        """Whatever state it is in, with the children it may have."""
        if self.popen.poll() is None:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        assert self.popen.stdout is not None
        self.popen.stdout.close()

    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


def command(role: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "kaminari.command", role, *arguments]


class Rig:
    """Starts tunnels and other processes, and ends them all."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack

    def start(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        process = Process(argv, environment)
        self._stack.callback(process.end)
        return process

    def client(self, local: str, remote: str, options: str, log: str = "info") -> Process:
        process = self.start(command("client", local, remote, with_log(options, log)))
        process.wait_for_line("listening on")
        return process

    def server(self, local: str, remote: str, options: str, log: str = "info") -> Process:
        process = self.start(command("server", local, remote, with_log(options, log)))
        process.wait_for_line("listening on")
        return process

    def tunnel(self, layers: Layers, target: int, host: str = "127.0.0.1", **log: str) -> Tunnel:
        """Both ends on loopback, to the service at port `target`."""
        text = f"[{host}]" if ":" in host else host
        udp = "uot" in layers.client.split(";")
        entry = free_port(socket.SOCK_DGRAM if udp else socket.SOCK_STREAM, host)
        middle = free_port(host=host)
        server = self.server(f"{text}:{middle}", f"{text}:{target}", layers.server, **log)
        client = self.client(f"{text}:{entry}", f"{text}:{middle}", layers.client, **log)
        return Tunnel(entry, middle, client, server)

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = self._stack.enter_context(socket.socket(family))
        sock.bind((host, port))
        sock.listen(512)
        sock.settimeout(DEADLINE_S)
        return sock

    def connect(self, port: int, host: str = "127.0.0.1") -> socket.socket:
        return self._stack.enter_context(socket.create_connection((host, port), timeout=DEADLINE_S))

    def accept(self, listener: socket.socket) -> socket.socket:
        sock = self._stack.enter_context(listener.accept()[0])
        sock.settimeout(DEADLINE_S)
        return sock

    def udp(self, host: str = "127.0.0.1") -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = self._stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind((host, 0))
        sock.settimeout(DEADLINE_S)
        return sock


@dataclass
class Tunnel:
    entry: int
    """Port that the client listens on."""
    middle: int
    """Port that the server listens on."""
    client: Process
    server: Process


def with_log(options: str, log: str) -> str:
    return f"{options};log={log}" if options else f"log={log}"


def receive(sock: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes, or fewer if the stream ends before."""
    received = bytearray()
    while len(received) < count and (piece := sock.recv(count - len(received))):
        received += piece
    return bytes(received)


def read_until_reset(sock: socket.socket) -> bytes:
    """Everything that arrives before a reset; fails if the stream ends in another way."""
    arrived = bytearray()
    try:
        while piece := sock.recv(65536):
            arrived += piece
    except ConnectionResetError:
        return bytes(arrived)
    raise AssertionError(f"the stream ended without a reset after {len(arrived)} bytes")


def reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def open_rig() -> Iterator[Rig]:
    with contextlib.ExitStack() as stack:
        yield Rig(stack)
