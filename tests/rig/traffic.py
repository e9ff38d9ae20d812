# SPDX-License-Identifier: GPL-2.0-only
"""UDP traffic between two hosts of a rig network, judged by the receiver.

Sender and receiver share this process, so a sender goes on when the receiver has taken what was
under way: nothing overflows a socket buffer, and no time is spent sleeping.
"""

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from tests.rig.datagrams import Stream, Verdict, seeded_sizes
from tests.rig.namespace import Namespace
from tests.rig.network import Host

SO_NO_CHECK = 11
UDP_NO_CHECK6_TX = 101
UDP_NO_CHECK6_RX = 102
SO_RCVBUFFORCE = 33
SO_SNDBUFFORCE = 32
SOCKET_BUFFER_BYTES = 8 << 20
MAX_DATAGRAM_BYTES = 65535
DEFAULT_WINDOW = 64
BATCH_DATAGRAMS = 256
_MANY_PORTS = 10_000  # of some 28,000 that the kernel chooses from

_taken: WeakKeyDictionary[Namespace, set[tuple[int, int]]] = WeakKeyDictionary()
"""Family and port of every endpoint that there was."""


@dataclass(frozen=True)
class Endpoint:
    """A UDP socket of one host."""

    host: Host
    family: int
    socket: socket.socket

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    @property
    def text(self) -> str:
        """The address as filters and tables word it: "192.0.2.1:7" or "[2001:db8::1]:7"."""
        address = self.host.address(self.family)
        return f"{address}:{self.port}" if self.family == 4 else f"[{address}]:{self.port}"

    def connect(self, other: "Endpoint") -> None:
        self.socket.connect((other.host.address(self.family), other.port))


@contextlib.contextmanager
def endpoint(
    host: Host, family: int = 4, port: int = 0, no_checksum: bool = False
) -> Iterator[Endpoint]:
    """An open UDP socket bound to the host's own address; port 0 takes one that was never taken:
    what an earlier flow of the same ports left behind is no cold connection.

    `no_checksum` sends a UDP checksum of 0 (SO_NO_CHECK; for IPv6 RFC 6936).
    """
    with _bound(host, family, port) as udp:
        if no_checksum:
            _send_without_checksum(udp, family)
        yield Endpoint(host, family, udp)


def _bound(host: Host, family: int, port: int) -> socket.socket:
    taken = _taken.setdefault(host.namespace, set())
    while True:
        udp = open_udp(host.namespace, family)
        try:
            udp.bind((host.address(family), port))
        except OSError:
            udp.close()
            raise
        found = (family, udp.getsockname()[1])
        if port or found not in taken or len(taken) > _MANY_PORTS:
            taken.add(found)
            return udp
        udp.close()


@contextlib.contextmanager
def flow(
    a: Host, b: Host, family: int = 4, port_a: int = 0, port_b: int = 0, no_checksum: bool = False
) -> Iterator[tuple[Endpoint, Endpoint]]:
    """Two endpoints connected with each other: one UDP flow."""
    with (
        endpoint(a, family, port_a, no_checksum) as end_a,
        endpoint(b, family, port_b, no_checksum) as end_b,
    ):
        end_a.connect(end_b)
        end_b.connect(end_a)
        yield end_a, end_b


def open_udp(namespace: Namespace, family: int = 4) -> socket.socket:
    """A UDP socket with large buffers in a namespace, not bound, non-blocking."""
    udp = namespace.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER_BYTES)
    udp.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER_BYTES)
    udp.setblocking(False)
    return udp


def exchange(
    end_a: Endpoint,
    end_b: Endpoint,
    sizes: list[int] | None = None,
    *,
    count: int = 10_000,
    largest_bytes: int = 1400,
    seed: int = 1,
    window: int = DEFAULT_WINDOW,
    patience_s: float = 3.0,
    both: bool = True,
) -> tuple[Verdict, Verdict]:
    """Send seeded datagrams both ways at once over connected endpoints: (a to b, b to a).

    Without `sizes` there are `count`, of every size from 0 to `largest_bytes`, each way in its own
    order. At most `window` of a direction are under way. When nothing arrives for `patience_s`,
    what is under way is given up as missing and the rest is sent.
    """
    sizes_a = sizes if sizes is not None else seeded_sizes(count, largest_bytes, seed)
    sizes_b = sizes if sizes is not None else seeded_sizes(count, largest_bytes, seed + 1)
    lanes = [
        _Lane(end_a.socket, end_b.socket, Stream(sizes_a, seed)),
        _Lane(end_b.socket, end_a.socket, Stream(sizes_b if both else [], seed + 1)),
    ]
    _run(lanes, window, patience_s)
    to_b, to_a = (lane.stream.verdict() for lane in lanes)
    return to_b, to_a


def bulk(
    source: Endpoint,
    target: Endpoint,
    total_bytes: int,
    *,
    datagram_bytes: int = 1400,
    window: int = DEFAULT_WINDOW,
    patience_s: float = 3.0,
) -> Verdict:
    """Send `total_bytes` one way in equal datagrams; the target never sends anything."""
    count = -(-total_bytes // datagram_bytes)
    lane = _Lane(source.socket, target.socket, Stream([datagram_bytes] * count, seed=count))
    _run([lane], window, patience_s)
    return lane.stream.verdict()


def burst(
    source: Endpoint,
    target: Endpoint,
    count: int = 32,
    *,
    datagram_bytes: int = 200,
    seed: int = 1,
    patience_s: float = 3.0,
) -> Verdict:
    """Send `count` datagrams back to back, without looking whether any has arrived."""
    lane = _Lane(source.socket, target.socket, Stream([datagram_bytes] * count, seed))
    _run([lane], count, patience_s)
    return lane.stream.verdict()


@dataclass
class _Lane:
    source: socket.socket
    target: socket.socket
    stream: Stream
    next_ordinal: int = 0
    given_up: int = 0

    @property
    def done(self) -> bool:
        return self.next_ordinal == len(self.stream.sizes) and self.under_way <= 0

    @property
    def under_way(self) -> int:
        return self.stream.outstanding - self.given_up

    def fill(self, window: int) -> None:
        """Send until the window is full or nothing is left."""
        while self.next_ordinal < len(self.stream.sizes) and self.under_way < window:
            try:
                self.source.send(self.stream.datagram(self.next_ordinal))
            except BlockingIOError:
                return
            except OSError as exc:
                # An earlier datagram's ICMP error, or this one's own: either way it was not sent.
                self.stream.note_refused(str(exc))
            else:
                self.stream.note_sent(self.next_ordinal)
            self.next_ordinal += 1

    def drain(self) -> int:
        """Take what has arrived; how many."""
        taken = 0
        while taken < BATCH_DATAGRAMS:
            try:
                self.stream.note_received(self.target.recv(MAX_DATAGRAM_BYTES))
            except BlockingIOError:
                break
            except OSError as exc:
                self.stream.note_refused(str(exc))
            taken += 1
        return taken

    def give_up(self) -> None:
        """Count what is under way as missing, so that the window opens again."""
        self.given_up += max(0, self.under_way)


def _run(lanes: list[_Lane], window: int, patience_s: float) -> None:
    poller = select.poll()
    by_descriptor = {lane.target.fileno(): lane for lane in lanes}
    for descriptor in by_descriptor:
        poller.register(descriptor, select.POLLIN)
    last_arrival_s = time.monotonic()
    while not all(lane.done for lane in lanes):
        for lane in lanes:
            lane.fill(window)
        ready = poller.poll(100)
        taken = sum(by_descriptor[descriptor].drain() for descriptor, _events in ready)
        now_s = time.monotonic()
        if taken:
            last_arrival_s = now_s
        elif now_s - last_arrival_s > patience_s:
            for lane in lanes:
                lane.give_up()
            last_arrival_s = now_s
    for lane in lanes:
        # A datagram too many would have come right behind the last one.
        lane.drain()


def _send_without_checksum(udp: socket.socket, family: int) -> None:
    if family == 4:
        udp.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    else:
        udp.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)
        udp.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
