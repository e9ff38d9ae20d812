# SPDX-License-Identifier: GPL-2.0-only
"""A caller without manners, as a process: python -m tests.bus.raw_caller SOCKET WHAT [COUNT].

list         calls ListConnections of everything; prints seconds and bytes of the reply
flood COUNT  sends this many calls without reading one reply, prints "sent", waits for its end
greedy COUNT the same with ListConnections
leave        calls ListConnections and leaves without waiting for the reply
"""

import os
import socket
import sys
import time

import mimicd.bus  # noqa: F401 - before dbus_next, which would load GLib
from mimicd.bus import names
from mimicd.bus.frames import FrameBuffer

from dbus_next.message import Message  # isort: skip

HUGE_BYTES = 1 << 27


def connect(path: str) -> socket.socket:
    """Authenticate and say Hello (serial 1)."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
    assert sock.recv(4096).startswith(b"OK")
    sock.sendall(b"BEGIN\r\n")
    hello = Message(
        destination=names.DRIVER_NAME,
        path=names.DRIVER_PATH,
        interface=names.DRIVER,
        member="Hello",
        serial=1,
    )
    sock.sendall(bytes(hello._marshall()))  # type: ignore[no-untyped-call]
    return sock


def packed(member: str, serial: int, signature: str = "", *body: object) -> bytes:
    message = Message(
        destination=names.BUS_NAME,
        path=names.ROOT_PATH,
        interface=names.MANAGER,
        member=member,
        signature=signature,
        body=list(body),
        serial=serial,
    )
    return bytes(message._marshall())  # type: ignore[no-untyped-call]


def largest_reply(sock: socket.socket) -> int:
    """Read until a message of more than 64 KiB has come; its bytes."""
    frames = FrameBuffer(HUGE_BYTES)
    while True:
        data = sock.recv(1 << 20)
        assert data, "the bus hung up"
        frames.feed(data)
        while (frame := frames.next_frame()) is not None:
            if len(frame.data) > 1 << 16:
                return len(frame.data)


def main() -> None:
    path, what, *rest = sys.argv[1:]
    count = int(rest[0]) if rest else 1
    with connect(path) as sock:
        match what:
            case "list":
                begun = time.perf_counter()
                sock.sendall(packed("ListConnections", 2, "s", ""))
                size = largest_reply(sock)
                print(time.perf_counter() - begun, size)
            case "leave":
                sock.sendall(packed("ListConnections", 2, "s", ""))
            case "flood" | "greedy":
                for serial in range(2, count + 2):
                    if what == "flood":
                        sock.sendall(packed("ListInterfaces", serial))
                    else:
                        sock.sendall(packed("ListConnections", serial, "s", ""))
                print("sent", flush=True)
                sys.stdin.read()


if __name__ == "__main__":
    main()
