# SPDX-License-Identifier: GPL-2.0-only
"""SYNs from addresses that nobody has, as fast as one thread can send them: sendmmsg(2).

Each comes from another address with another ISN. What one of its fields gains another one loses,
so that the checksums of the first frame are right in all of them.
"""

import ctypes
import errno
import os
import socket
import struct
import threading
from ipaddress import IPv4Address
from typing import Self

from tests.rig.network import Host
from tests.rig.segment import SYN, End, Segment, encode_packet, encode_syn_options, end

SOL_PACKET = 263
PACKET_QDISC_BYPASS = 20
ETH_P_IPV4 = 0x0800
BATCH = 256
FIRST_SOURCE = int(IPv4Address("10.0.0.0"))
SOURCE_PORT = 4000
_SOURCES = 1 << 16  # that share their upper half, and with it the checksums
_LINK_BYTES = 14
_ID_AT, _SOURCE_LOW_AT, _SEQ_LOW_AT = _LINK_BYTES + 4, _LINK_BYTES + 14, _LINK_BYTES + 26


class _Message(ctypes.Structure):
    """struct mmsghdr, and in it struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent_bytes", ctypes.c_uint32),
    )


class SynFlood:
    """Sends while its context is open, at least `count`; a thread of its own."""

    def __init__(self, host: Host, target: tuple[str, int], count: int) -> None:
        self.sent = 0
        self.refused = 0
        """Frames that the receiver's queue did not take; they are sent again."""
        self._count = count
        self._target = end(*target)
        self._link_header = bytes.fromhex(f"{host.next_hop_mac}{host.mac}".replace(":", ""))
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._packet = host.namespace.call(lambda: _open(host.interface))
        self._thread = threading.Thread(target=self._send, name="flood", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._packet.close()
        if self._failure is not None:
            raise self._failure

    @property
    def goes_on(self) -> bool:
        """Whether it has not yet sent what it has to."""
        return self.sent < self._count and self._thread.is_alive()

    def _send(self) -> None:
        try:
            while not self._stop.is_set() or self.sent < self._count:
                self._send_from(FIRST_SOURCE + self.sent // _SOURCES % 256 * _SOURCES)
        except BaseException as exc:  # raised in the caller's thread
            self._failure = exc

    def _send_from(self, first_source: int) -> None:
        """One SYN from each of so many addresses, or until it is over."""
        frame = self._frame(first_source)
        buffer = bytearray(frame * BATCH)
        messages = _messages(buffer, len(frame))
        libc = ctypes.CDLL(None, use_errno=True)
        for at in range(0, _SOURCES, BATCH):
            for number in range(BATCH):
                low, begin = at + number, number * len(frame)
                struct.pack_into("!H", buffer, begin + _ID_AT, 0xFFFF - low)
                struct.pack_into("!H", buffer, begin + _SOURCE_LOW_AT, low)
                struct.pack_into("!H", buffer, begin + _SEQ_LOW_AT, 0xFFFF - low)
            done = 0
            while done < BATCH:
                rest = ctypes.byref(messages, done * ctypes.sizeof(_Message))
                count = libc.sendmmsg(self._packet.fileno(), rest, BATCH - done, 0)
                if count < 0:
                    if ctypes.get_errno() != errno.ENOBUFS:
                        code = ctypes.get_errno()
                        raise OSError(code, os.strerror(code), "sendmmsg")
                    self.refused += 1
                    os.sched_yield()  # the receiver's queue is full
                done += max(count, 0)
            self.sent += BATCH
            if self._stop.is_set() and self.sent >= self._count:
                return

    def _frame(self, first_source: int) -> bytes:
        source = End(IPv4Address(first_source), SOURCE_PORT)
        options = encode_syn_options(1460, 7)
        segment = Segment(source, self._target, SYN, 0x1234FFFF, 0, 65535, b"", options)
        packet = bytearray(encode_packet(segment))
        packet[4:6] = b"\xff\xff"  # the identification, 0 before: as one's complement the same
        return self._link_header + ETH_P_IPV4.to_bytes(2, "big") + bytes(packet)


def _messages(buffer: bytearray, frame_bytes: int) -> "ctypes.Array[_Message]":
    begin = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    vectors = (ctypes.c_size_t * (2 * BATCH))()
    messages = (_Message * BATCH)()
    for number in range(BATCH):
        vectors[2 * number] = begin + number * frame_bytes
        vectors[2 * number + 1] = frame_bytes
        messages[number].vectors = ctypes.addressof(vectors) + 2 * number * ctypes.sizeof(
            ctypes.c_size_t
        )
        messages[number].vector_count = 1
    messages.keep = vectors  # type: ignore[attr-defined]
    return messages


def _open(interface: str) -> socket.socket:
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    packet.bind((interface, 0))
    return packet
