# SPDX-License-Identifier: GPL-2.0-only
"""A name server at a host, and a mount namespace whose programs ask it and nobody else.

It answers for A and AAAA from a table that the test changes while it runs (RFC 1035; only what
the C library's resolver sends is understood).
"""

import contextlib
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

from tests.rig.bpffs import MountNamespace
from tests.rig.namespace import Namespace, RigError, scratch_folder

_HEADER = struct.Struct("!6H")  # id, flags, counts of questions, answers, authorities, additional
_ANSWER = struct.Struct("!HHHIH")  # name, type, class, time to live, length of what follows
_QUESTION_AT = 12
_RESPONSE, _NO_SUCH_NAME = 0x8180, 3
_POINTER_TO_QUESTION = 0xC00C
_TYPES = {1: 4, 28: 6}

_MOUNT = """
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/resolv.conf "$(readlink -f /etc/resolv.conf)"
mount --bind {folder}/nsswitch.conf /etc/nsswitch.conf
mount -t bpf bpf /sys/fs/bpf && echo mounted && exec sleep infinity
"""


class NameServer:
    """At 127.0.0.1 of one network namespace."""

    def __init__(self, server: socket.socket) -> None:
        self._socket = server
        self._table: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self.is_silent = False
        self.asked = 0
        """Questions so far."""

    def set(self, name: str, addresses: Sequence[str]) -> None:
        """What a name has from now on; nothing: there is no such name."""
        with self._lock:
            self._table[name] = list(addresses)

    def serve(self) -> None:
        """Until the socket is shut down."""
        while True:
            question, sender = self._socket.recvfrom(4096)
            if not question:
                return
            self.asked += 1
            if not self.is_silent:
                self._socket.sendto(self._answer(question), sender)

    def _answer(self, question: bytes) -> bytes:
        number = _HEADER.unpack_from(question)[0]
        labels, at = [], _QUESTION_AT
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode().lower())
            at += 1 + question[at]
        (kind,) = struct.unpack_from("!H", question, at + 1)
        with self._lock:
            addresses = [ip_address(text) for text in self._table.get(".".join(labels), [])]
        wanted = [one for one in addresses if one.version == _TYPES.get(kind)]
        flags = _RESPONSE | (0 if addresses else _NO_SUCH_NAME)
        body = _HEADER.pack(number, flags, 1, len(wanted), 0, 0) + question[_QUESTION_AT : at + 5]
        for one in wanted:
            body += _ANSWER.pack(_POINTER_TO_QUESTION, kind, 1, 1, len(one.packed)) + one.packed
        return body


@contextlib.contextmanager
def name_server(namespace: Namespace) -> Iterator[tuple[NameServer, MountNamespace]]:
    """The server, and the mount namespace to run programs in; it has a bpffs too."""
    server = namespace.socket()
    server.bind(("127.0.0.1", 53))
    running = NameServer(server)
    thread = threading.Thread(target=running.serve, name="name server", daemon=True)
    thread.start()
    try:
        with scratch_folder() as folder, _mounted(namespace, folder) as mounts:
            yield running, mounts
    finally:
        # an empty datagram ends it
        with namespace.socket() as last:
            last.sendto(b"", server.getsockname())
        thread.join()
        server.close()


@contextlib.contextmanager
def _mounted(namespace: Namespace, folder: Path) -> Iterator[MountNamespace]:
    (folder / "hosts").write_text("127.0.0.1 localhost\n")
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:1\n")
    (folder / "nsswitch.conf").write_text("hosts: files dns\n")
    script = "set -e" + _MOUNT.format(folder=folder)
    argv = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
    process = namespace.start(*argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if line != b"mounted\n":
            raise RigError(f"files cannot be replaced in a mount namespace: {line.decode()}")
        yield MountNamespace(process.pid)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
