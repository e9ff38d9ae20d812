# SPDX-License-Identifier: GPL-2.0-only
"""Sends and expects single TCP segments of one connection; the host's own TCP stays silent.

`RawEndpoint` does nothing by itself: it is for hostile tests. `peer.Peer` answers as well.
"""

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from tests.rig.namespace import RigError
from tests.rig.network import Host
from tests.rig.segment import Segment, decode_packet, encode_packet, end

ETHERTYPES = {4: 0x0800, 6: 0x86DD}
SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER_BYTES = 32 << 20
MAX_PACKET_BYTES = 65536


class RawEndpoint:
    """One end of a TCP connection made of packets, at a host, towards one other end."""

    def __init__(self, host: Host, port: int, remote: tuple[str, int]) -> None:
        """`remote` is (address, port); its IP version decides the connection's."""
        self.host = host
        self.remote = end(*remote)
        self.local = end(host.address(self.remote.version), port)
        self.received: list[Segment] = []
        self.sent: list[Segment] = []
        self.changed = threading.Condition()
        self._cursor = 0
        self._stop = os.eventfd(0)
        self._table = f"peer_{self.remote.version}_{port}_{self.remote.port}"
        self._link = (
            host.interface,
            ETHERTYPES[self.remote.version],
            0,
            0,
            bytes.fromhex(host.next_hop_mac.replace(":", "")),
        )
        self._silence_kernel()
        self._packet = self._open()
        self._thread = threading.Thread(target=self._listen, name=f"peer {self.local}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._packet.close()
        os.close(self._stop)
        self.host.namespace.run("nft", "delete", "table", "inet", self._table, check=False)

    def send_segment(
        self,
        flags: int,
        seq: int,
        ack: int = 0,
        window: int = 0,
        payload: bytes = b"",
        options: bytes = b"",
        wrong_checksum: bool = False,
    ) -> Segment:
        """Send any segment from this end to the other."""
        segment = Segment(self.local, self.remote, flags, seq, ack, window, payload, options)
        self.send_packet(encode_packet(segment, wrong_checksum))
        self.sent.append(segment)
        return segment

    def send_packet(self, packet: bytes) -> None:
        """Send any IP packet to the other end's side of the link; lost where the link is down."""
        try:
            self._packet.sendto(packet, self._link)
        except OSError as exc:
            if exc.errno not in (errno.ENETDOWN, errno.ENOBUFS):
                raise

    def expect(
        self, match: Callable[[Segment], bool], within_s: float = 3.0, what: str = "the segment"
    ) -> Segment:
        """The first segment that matches after the one expected last; waits for it."""
        deadline_s = time.monotonic() + within_s
        with self.changed:
            while True:
                for index in range(self._cursor, len(self.received)):
                    if match(self.received[index]):
                        self._cursor = index + 1
                        return self.received[index]
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise RigError(f"{what} did not come in {within_s:g} s{self._came_instead()}")
                self.changed.wait(left_s)

    def expect_none(
        self, match: Callable[[Segment], bool], for_s: float, what: str = "a segment"
    ) -> None:
        """RigError if a segment that matches comes within this time."""
        try:
            unwanted = self.expect(match, for_s)
        except RigError:
            return
        raise RigError(f"{what} came though it should not: {unwanted}")

    def skip(self) -> None:
        """Expect only what comes from now on."""
        with self.changed:
            self._cursor = len(self.received)

    def wrong_checksums(self) -> list[Segment]:
        with self.changed:
            return [segment for segment in self.received if not segment.checksum_right]

    def on_segment(self, segment: Segment) -> None:
        """For subclasses: called in the listening thread for each segment with a right checksum."""

    def _listen(self) -> None:
        poller = select.poll()
        poller.register(self._packet, select.POLLIN)
        poller.register(self._stop, select.POLLIN)
        while self._stop not in [descriptor for descriptor, _events in poller.poll()]:
            try:
                packet = self._packet.recv(MAX_PACKET_BYTES)
            except OSError:
                # The link went down, which is told once; it may come up again.
                continue
            segment = decode_packet(packet)
            if segment is None or (segment.source, segment.target) != (self.remote, self.local):
                continue
            with self.changed:
                self.received.append(segment)
                if segment.checksum_right:
                    self.on_segment(segment)
                self.changed.notify_all()

    def _came_instead(self) -> str:
        unexpected = self.received[self._cursor :]
        if not unexpected:
            return "; nothing else came either"
        return "; instead: " + "; ".join(str(segment) for segment in unexpected[:5])

    def _silence_kernel(self) -> None:
        """The host's own TCP neither sees these segments nor answers them."""
        protocol = "ip" if self.remote.version == 4 else "ip6"
        ours = f"{protocol} saddr {self.remote.address} tcp dport {self.local.port}"
        answers = f"{protocol} daddr {self.remote.address} tcp sport {self.local.port}"
        rules = (
            f"table inet {self._table} {{\n"
            f"chain in {{ type filter hook input priority 0; policy accept; {ours} drop\n}}\n"
            f"chain out {{ type filter hook output priority 0; policy accept; {answers} drop\n}}\n"
            "}\n"
        )
        self.host.namespace.run("nft", "-f", "-", stdin=rules)

    def _open(self) -> socket.socket:
        def open_in_namespace() -> socket.socket:
            packet = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            packet.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            packet.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
            packet.bind((self.host.interface, ETHERTYPES[self.remote.version]))
            packet.setblocking(False)
            return packet

        return self.host.namespace.call(open_in_namespace)
