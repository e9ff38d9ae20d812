# SPDX-License-Identifier: GPL-2.0-only
"""A cable in user space between two interfaces, which can lose, delay and swap chosen frames.

`Lane` is the plan of one direction, pure: frames and the time in, frames to send out. `Wire` moves
frames between packet sockets in a thread. The virtio header (packet(7), PACKET_VNET_HDR) goes
along with each frame, so unfinished checksums and superpackets cross as they would on a veth.
"""

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

from tests.rig.namespace import Namespace

ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_STATISTICS = 6
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
SO_RCVBUFFORCE = 33
VNET_HEADER_BYTES = 10
VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
MAX_FRAME_BYTES = VNET_HEADER_BYTES + 18 + 65536
RECEIVE_BUFFER_BYTES = 32 << 20
BATCH_FRAMES = 64
MAX_HOLD_S = 1.0

Match = Callable[[bytes], bool]
"""Says of an Ethernet frame (no virtio header) whether a fault counts it."""


def is_transport(frame: bytes) -> bool:
    """TCP or UDP directly on IPv4 or IPv6."""
    kind = frame[12:14]
    if kind == b"\x08\x00":
        return frame[23] in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
    return kind == b"\x86\xdd" and frame[20] in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)


@dataclass
class Fault:
    """One chosen disturbance of a lane; `hits` counts the frames it has disturbed.

    Ordinals number the matching frames from 0. A held frame goes on after `hold_frames` more
    matching frames have passed, or after `hold_s` seconds, whichever comes first.
    """

    ordinals: frozenset[int]
    match: Match
    lose: bool
    hold_frames: int = 0
    hold_s: float = MAX_HOLD_S
    hits: int = 0
    seen: int = 0


@dataclass
class _Held:
    data: bytes
    fault: Fault
    frames_left: int
    deadline_s: float


@dataclass
class Lane:
    """One direction of a wire. Thread-safe; what it holds is bounded by its faults' ordinals."""

    faults: list[Fault] = field(default_factory=list)
    passed: int = 0
    _held: list[_Held] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def drop(self, ordinals: Iterable[int], match: Match = is_transport) -> Fault:
        """Lose exactly these matching frames."""
        return self._add(Fault(frozenset(ordinals), match, lose=True))

    def swap(self, ordinals: Iterable[int], match: Match = is_transport) -> Fault:
        """Exchange each of these matching frames with the matching frame after it."""
        return self._add(Fault(frozenset(ordinals), match, lose=False, hold_frames=1))

    def delay(
        self,
        ordinals: Iterable[int],
        match: Match = is_transport,
        by_frames: int = 1 << 30,
        by_s: float = MAX_HOLD_S,
    ) -> Fault:
        """Hold these matching frames until `by_frames` more have passed or `by_s` is over."""
        if not 0 <= by_s <= MAX_HOLD_S:
            raise ValueError(f"a frame is held for at most {MAX_HOLD_S:g} s, not {by_s:g} s")
        return self._add(Fault(frozenset(ordinals), match, False, by_frames, by_s))

    def clear(self) -> None:
        """Forget the faults; what is held still goes on at its deadline."""
        with self._lock:
            self.faults.clear()

    def step(self, data: bytes, header_bytes: int, now_s: float) -> list[bytes]:
        """What to send when `data` (virtio header and frame) has come in."""
        frame = data[header_bytes:]
        with self._lock:
            verdict: Fault | None = None
            counted: list[Fault] = []
            for fault in self.faults:
                if fault.match(frame):
                    counted.append(fault)
                    if verdict is None and fault.seen in fault.ordinals:
                        verdict = fault
                        fault.hits += 1
                    fault.seen += 1
            out = [] if verdict else [data]
            if verdict is None or verdict.lose:
                out += self._count_down(counted)
            if verdict and not verdict.lose:
                deadline_s = now_s + verdict.hold_s
                self._held.append(_Held(data, verdict, verdict.hold_frames, deadline_s))
            self.passed += len(out)
            return out

    def release(self, now_s: float) -> list[bytes]:
        """Held frames whose time is over."""
        with self._lock:
            due = [held for held in self._held if held.deadline_s <= now_s]
            self._held = [held for held in self._held if held.deadline_s > now_s]
            self.passed += len(due)
            return [held.data for held in due]

    def next_deadline_s(self) -> float | None:
        with self._lock:
            return min((held.deadline_s for held in self._held), default=None)

    def _add(self, fault: Fault) -> Fault:
        with self._lock:
            self.faults.append(fault)
        return fault

    def _count_down(self, counted: list[Fault]) -> list[bytes]:
        out = []
        for held in list(self._held):
            if any(held.fault is fault for fault in counted):
                held.frames_left -= 1
                if held.frames_left <= 0:
                    self._held.remove(held)
                    out.append(held.data)
        return out


class Wire:
    """Forwards every frame between two interfaces of one namespace while its context is open."""

    def __init__(self, namespace: Namespace, left: str, right: str) -> None:
        self.namespace = namespace
        self.to_b = Lane()
        self.to_a = Lane()
        self._left = _open(namespace, left)
        self._right = _open(namespace, right)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._forward, name="wire", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._left.close()
        self._right.close()

    def lost(self) -> int:
        """Frames that came faster than the wire could take them, since the last call."""
        return sum(_kernel_drops(packet) for packet in (self._left, self._right))

    def _forward(self) -> None:
        lanes = {
            self._left.fileno(): (self._left, self._right, self.to_b),
            self._right.fileno(): (self._right, self._left, self.to_a),
        }
        poller = select.poll()
        for descriptor in lanes:
            poller.register(descriptor, select.POLLIN)
        while not self._stop.is_set():
            for descriptor, _events in poller.poll(
                _patience_ms(lane for _, _, lane in lanes.values())
            ):
                source, target, lane = lanes[descriptor]
                for data in _receive(source):
                    for outgoing in lane.step(data, VNET_HEADER_BYTES, time.monotonic()):
                        _send(target, outgoing)
            for _source, target, lane in lanes.values():
                for outgoing in lane.release(time.monotonic()):
                    _send(target, outgoing)


def _patience_ms(lanes: Iterable[Lane]) -> float:
    deadlines = [at_s for lane in lanes if (at_s := lane.next_deadline_s()) is not None]
    wait_s = min(deadlines) - time.monotonic() if deadlines else 0.05
    return max(0.0, min(wait_s, 0.05)) * 1000


def _open(namespace: Namespace, interface: str) -> socket.socket:
    def open_in_namespace() -> socket.socket:
        packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        packet.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        packet.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        packet.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        # Bound last: until the options are set no frame may come in.
        packet.bind((interface, ETH_P_ALL))
        packet.setblocking(False)
        return packet

    return namespace.call(open_in_namespace)


def _receive(packet: socket.socket) -> list[bytes]:
    batch: list[bytes] = []
    # BlockingIOError: no more frames. Any other error: the link went down.
    with contextlib.suppress(OSError):
        while len(batch) < BATCH_FRAMES:
            batch.append(_sendable(packet.recv(MAX_FRAME_BYTES)))
    return batch


def _sendable(data: bytes) -> bytes:
    """Only "needs a checksum" of the header's flags means something to a sender."""
    return bytes([data[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM]) + data[1:]


def _send(packet: socket.socket, data: bytes) -> None:
    # The link is down or its queue is full: a cable loses the frame and says nothing.
    with contextlib.suppress(OSError):
        packet.send(data)


def _kernel_drops(packet: socket.socket) -> int:
    _received, dropped = struct.unpack("II", packet.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return int(dropped)
