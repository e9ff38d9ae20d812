# SPDX-License-Identifier: GPL-2.0-only
"""Two channels joined: what one receives the other sends, each direction on its own.

A direction that has ended is passed on as a half-close; a reset of one side, or bytes that break
its protocol, reset the other. A direction reads only while its sink takes what it has read.
"""

from __future__ import annotations

import asyncio
import errno
import os

from kaminari.channel import Channel
from kaminari.errors import ProtocolFault
from kaminari.mask import Buffer
from kaminari.pipes import POOL

RAW_WORTHWHILE_BYTES = 1 << 15
"""Below this, the system calls of splice cost more than the copy they spare."""
SMALL_MOVE_BYTES = 1 << 13
SMALL_MOVES_TO_LEAVE_BULK = 4


class Flow:
    """One direction of a relay.

    It copies until a read shows that bulk is under way, then splices what is payload as it
    stands and reads the frame headers between exactly, so that no payload is read with them.
    """

    __slots__ = ("_bulk", "_end_passed", "_relay", "_small_moves", "done", "sink", "source")

    def __init__(self, source: Channel, sink: Channel, relay: Relay) -> None:
        self.source = source
        self.sink = sink
        self._relay = relay
        self._bulk = False
        self._small_moves = 0
        self._end_passed = False
        self.done = False

    def start(self, first: list[Buffer]) -> None:
        """Begin with payload that came before the relay did."""
        self.sink.on_writable(self._resume, self._sink_failed)
        try:
            if first:
                self.sink.write(first)
            self._resume()
        except (OSError, ProtocolFault) as error:
            self._sink_failed(error)

    def _resume(self) -> None:
        """The sink has room: read on, or pass on the end that came meanwhile."""
        self._relay.note_traffic()
        if self.sink.blocked or self.done:
            return
        if self.source.ended:
            self._pass_end()
        else:
            self.source.watch(self._on_readable)

    def _on_readable(self) -> None:
        self._relay.note_traffic()
        if self._bulk and self._move_raw():
            return
        source = self.source
        try:
            payload = (
                source.receive(source.codec.header_need()) if self._bulk else (source.receive())
            )
        except (OSError, ProtocolFault) as error:
            self._relay.fail(source, error)
            return
        try:
            if payload:
                self.sink.write(payload)
            self._choose_mode(payload)
            self._after_move()
        except (OSError, ProtocolFault) as error:
            self._sink_failed(error)
            return
        if self._bulk and not self.sink.blocked and not self._relay.ended.done():
            self._move_raw()  # what a header announced is mostly there already

    def _move_raw(self) -> bool:
        """Splice once; False if the next bytes have to be read instead."""
        source = self.source
        limit = source.codec.raw_incoming()
        if not limit:
            return False
        pipe = POOL.borrow()
        if pipe is None:
            self._bulk = False
            return False
        try:
            count = POOL.fill(source.fd, pipe, limit)
        except BlockingIOError:
            POOL.give_back(pipe)
            return True
        except NotImplementedError:
            POOL.give_back(pipe)
            self._bulk = False
            return False
        except OSError as error:
            POOL.give_back(pipe)
            self._relay.fail(source, error)
            return True
        if not count:
            POOL.give_back(pipe)
            self._bulk = False
            return False  # reading meets the end in the ordinary way
        source.codec.skip_raw(count)
        source.payload_in += count
        self._small_moves = self._small_moves + 1 if count < SMALL_MOVE_BYTES else 0
        if self._small_moves > SMALL_MOVES_TO_LEAVE_BULK:
            self._bulk = False
        try:
            self.sink.write_piped(pipe, count)
            self._after_move()
        except (OSError, ProtocolFault) as error:
            self._sink_failed(error)
        return True

    def _choose_mode(self, payload: list[Buffer]) -> None:
        codec = self.source.codec
        if self._bulk:
            # Header bytes were read. Go on by splicing only if they began a long raw frame; a
            # header that is still incomplete, or a control frame, says nothing yet.
            if codec.raw_incoming() < RAW_WORTHWHILE_BYTES:
                self._small_moves += 1
                if codec.header_need() == 1 or self._small_moves > SMALL_MOVES_TO_LEAVE_BULK:
                    self._bulk = False
        elif (
            self.sink.codec.raw_out
            and codec.raw_incoming() >= RAW_WORTHWHILE_BYTES
            and sum(map(len, payload)) >= RAW_WORTHWHILE_BYTES
            and POOL.usable
        ):
            self._bulk = True
            self._small_moves = 0

    def _after_move(self) -> None:
        if self.sink.blocked:
            self.source.watch(None)
        elif self.source.ended:
            self._pass_end()

    def _pass_end(self) -> None:
        self.source.watch(None)
        if not self._end_passed:
            self._end_passed = True
            self.sink.end()
            if self.sink.blocked:
                return
        self.done = True
        self._relay.flow_done()

    def _sink_failed(self, error: Exception) -> None:
        self._relay.fail(self.sink, error)


class Relay:
    """`near` and `far` until both directions have ended; `ended` then holds the reason."""

    def __init__(self, loop: asyncio.AbstractEventLoop, near: Channel, far: Channel) -> None:
        self._loop = loop
        self.near = near
        self.far = far
        self._outward = Flow(near, far, self)
        self._inward = Flow(far, near, self)
        self.ended: asyncio.Future[str] = loop.create_future()
        self.last_traffic_s = loop.time()
        """Loop time of the last event on either side, for the idle timeout."""

    def start(self, tunnel: Channel, waiting: memoryview) -> None:
        """`waiting` is what came with the handshakes of `tunnel`, one of the two channels."""
        try:
            first = tunnel.decode_waiting(waiting)
        except ProtocolFault as fault:
            self.fail(tunnel, fault)
            return
        for flow in (self._outward, self._inward):
            if not self.ended.done():
                flow.start(first if flow.source is tunnel else [])

    def note_traffic(self) -> None:
        self.last_traffic_s = self._loop.time()

    def flow_done(self) -> None:
        if self._outward.done and self._inward.done and not self.ended.done():
            self.near.finish()
            self.far.finish()
            self.ended.set_result("both sides closed")

    def fail(self, channel: Channel, error: Exception) -> None:
        """`channel` failed: the other side gets a reset, and a peer at fault is told why."""
        if self.ended.done():
            return
        side = "near" if channel is self.near else "far"
        other = self.far if channel is self.near else self.near
        other.abort()
        if isinstance(error, ProtocolFault):
            channel.say_farewell(error)
        else:
            channel.abort()
        self.ended.set_result(f"{side} side: {describe_failure(error)}")

    def abort(self, reason: str) -> None:
        if not self.ended.done():
            self.near.abort()
            self.far.abort()
            self.ended.set_result(reason)


def describe_failure(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in (errno.ECONNRESET, errno.EPIPE):
            return "reset by the peer"
        return os.strerror(error.errno).lower()
    return str(error)
