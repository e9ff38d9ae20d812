# SPDX-License-Identifier: GPL-2.0-only
"""A UDP echo server in a thread, and clients that ask it: one flow or a thousand."""

import secrets
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Self

from tests.rig.network import Host
from tests.rig.traffic import MAX_DATAGRAM_BYTES, Endpoint, open_udp


class EchoServer:
    """Sends every datagram back to where it came from while its context is open."""

    def __init__(self, host: Host, port: int, family: int = 4) -> None:
        self.host = host
        self.port = port
        self.family = family
        self.echoed = 0
        self._stop = threading.Event()
        self._socket = open_udp(host.namespace, family)
        self._socket.bind((host.address(family), port))
        self._thread = threading.Thread(target=self._serve, name="echo", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.host, self.family, self._socket)

    def _serve(self) -> None:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        while not self._stop.is_set():
            for _descriptor, _events in poller.poll(50):
                self._echo_all()

    def _echo_all(self) -> None:
        while not self._stop.is_set():
            try:
                data, sender = self._socket.recvfrom(MAX_DATAGRAM_BYTES)
                self._socket.sendto(data, sender)
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error of an earlier answer: the asker sees that its answer is missing.
                continue
            self.echoed += 1


def ask(client: Endpoint, server: Endpoint, data: bytes = b"echo?", within_s: float = 3.0) -> bool:
    """Send one datagram and wait for the same bytes; whether they came in time."""
    return ask_all([client], server, len(data), within_s, data) == 1


def ask_all(
    clients: Sequence[Endpoint],
    server: Endpoint,
    datagram_bytes: int = 64,
    within_s: float = 10.0,
    data: bytes | None = None,
    window: int = 64,
) -> int:
    """Each client, which may be a flow of its own, asks once; how many got their own bytes back.

    At most `window` questions are under way; a question unanswered at the end stays unanswered.
    """
    target = (server.host.address(server.family), server.port)
    waiting: dict[int, tuple[socket.socket, bytes]] = {}
    poller = select.poll()
    deadline_s = time.monotonic() + within_s
    unasked = list(reversed(clients))
    answered = 0
    while (unasked or waiting) and (left_s := deadline_s - time.monotonic()) > 0:
        while unasked and len(waiting) < window:
            client = unasked.pop()
            question = data if data is not None else secrets.token_bytes(datagram_bytes)
            client.socket.sendto(question, target)
            waiting[client.socket.fileno()] = (client.socket, question)
            poller.register(client.socket, select.POLLIN)
        for descriptor, _events in poller.poll(left_s * 1000):
            udp, question = waiting[descriptor]
            try:
                answer = udp.recv(MAX_DATAGRAM_BYTES)
            except OSError:
                continue
            if answer == question:
                answered += 1
                poller.unregister(descriptor)
                del waiting[descriptor]
    return answered
