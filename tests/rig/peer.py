# SPDX-License-Identifier: GPL-2.0-only
"""A scripted fake-TCP peer at a host: answers by itself, with the quirks the script wants.

with Peer(net.b, 51820, (net.a.address(), 51820), padding=7, quirks=MIMIC) as peer:
    peer.connect(b"first")                  # as initiator; or wait for the other's SYN
    peer.await_state(State.ESTABLISHED)
    peer.send(b"second")
    assert peer.next_datagram() == b"answer"
"""

import random
import time
from dataclasses import replace

from tests.rig.endpoint import RawEndpoint
from tests.rig.fake_tcp import MIMIC, PLAIN, FakeTcp, Quirks, State
from tests.rig.namespace import RigError
from tests.rig.network import Host
from tests.rig.segment import RANDOM_PADDING, Segment, encode_packet

__all__ = ["MIMIC", "PLAIN", "RANDOM_PADDING", "Peer", "Quirks", "State"]


class Peer(RawEndpoint):
    """A `FakeTcp` on the wire. All methods may be called from any thread."""

    def __init__(
        self,
        host: Host,
        port: int,
        remote: tuple[str, int],
        *,
        padding: int = 0,
        quirks: Quirks = PLAIN,
        max_window: bool = False,
        resets_unknown: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(host, port, remote)
        self.tcp = FakeTcp(
            self.local,
            self.remote,
            padding=padding,
            quirks=quirks,
            max_window=max_window,
            resets_unknown=resets_unknown,
            chance=random.Random(seed),
        )
        self._deaf = False
        self._taken = 0

    @property
    def state(self) -> State:
        return self.tcp.state

    @property
    def quirks(self) -> Quirks:
        return self.tcp.quirks

    def set_quirks(self, **changes: bool) -> None:
        """Change single quirks while it runs."""
        with self.changed:
            self.tcp.quirks = replace(self.tcp.quirks, **changes)

    def connect(self, *datagrams: bytes, isn: int | None = None) -> None:
        """Send a SYN; the datagrams follow when it is answered."""
        with self.changed:
            self._transmit(self.tcp.connect(datagrams, isn))

    def repeat_syn(self) -> None:
        """Send the SYN of the present connection again."""
        with self.changed:
            self._transmit([self.tcp.syn()])

    def send(self, *datagrams: bytes) -> None:
        """Send datagrams; the first one connects when there is no connection."""
        with self.changed:
            for datagram in datagrams:
                self._transmit(self.tcp.send(datagram, time.monotonic()))

    def probe(self) -> None:
        """Send a window probe."""
        with self.changed:
            self._transmit([self.tcp.probe(time.monotonic())])

    def keepalive(self) -> None:
        """Send a keepalive."""
        with self.changed:
            self._transmit([self.tcp.keepalive()])

    def reset(self) -> None:
        """Send RST and forget the connection."""
        with self.changed:
            self._transmit([self.tcp.reset()])

    def forget(self) -> None:
        """Lose the connection without a word, as a restarted program does."""
        with self.changed:
            self.tcp.forget()
            self.changed.notify_all()

    def deafen(self, deaf: bool = True) -> None:
        """Gone: segments are recorded but no longer acted upon."""
        with self.changed:
            self._deaf = deaf

    def next_datagram(self, within_s: float = 3.0) -> bytes:
        """The next datagram that came in, waiting for it."""
        return self.next_datagrams(1, within_s)[0]

    def next_datagrams(self, count: int, within_s: float = 10.0) -> list[bytes]:
        """The next `count` datagrams that came in, waiting for them."""
        with self.changed:
            enough = self.changed.wait_for(
                lambda: len(self.tcp.delivered) - self._taken >= count, within_s
            )
            came = self.tcp.delivered[self._taken : self._taken + count]
            if not enough:
                sizes = [len(datagram) for datagram in came[-5:]]
                raise RigError(
                    f"{self.local} got {len(came)} of {count} datagrams in {within_s:g} s, "
                    f"the last of {sizes} bytes; it is {self.tcp.state.value}"
                )
            self._taken += count
            return came

    def await_state(self, state: State, within_s: float = 3.0) -> None:
        """Wait until the connection is in this state."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.tcp.state is state, within_s):
                now = self.tcp.state.value
                raise RigError(f"{self.local} is {now}, not {state.value}, after {within_s:g} s")

    def on_segment(self, segment: Segment) -> None:
        if not self._deaf:
            self._transmit(self.tcp.receive(segment, time.monotonic()))

    def _transmit(self, segments: list[Segment]) -> None:
        for segment in segments:
            self.send_packet(encode_packet(segment))
            self.sent.append(segment)
        self.changed.notify_all()
