# SPDX-License-Identifier: GPL-2.0-only
"""Kinds of senders: each hands the kernel datagrams in another way, and tells what it sent."""

import mmap
import os
import random
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

UDP_SEGMENT = 103
SO_NO_CHECK, UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX = 11, 101, 102
# RFC 791 section 3.1, RFC 8200 section 4.2
IP_OPTIONS, IPV6_DSTOPTS, NO_OPERATION, PAD_N, OPTION_BYTES = 4, 59, 1, 1, 8
SO_ZEROCOPY, MSG_ZEROCOPY, MSG_ERRQUEUE = 60, 0x4000000, 0x2000

Send = Callable[[socket.socket, int, random.Random], list[bytes]]
"""(connected socket, largest datagram, randomness) -> the datagrams that were sent."""


@dataclass(frozen=True)
class Sender:
    """One kind; `send` makes it so, from a host itself or from one that it forwards for."""

    send: Send
    forwarded: bool = False
    masqueraded: bool = False
    redirected: bool = False
    """Sent to the forwarding host, which hands it on (DNAT)."""


def sizes_up_to(largest: int) -> list[int]:
    """Those at which something ends: headers, what moves to the end, checksum pieces, the MTU."""
    near = [0, 1, 2, 7, 8, 11, 12, 13, 20, 33, 63, 64, 65, 500, 511, 512, 513, 1023, 1024, 1025]
    return [size for size in (*near, 1200, largest // 2) if size < largest] + [largest - 1, largest]


def plain(udp: socket.socket, largest: int, chance: random.Random) -> list[bytes]:
    datagrams = [chance.randbytes(size) for size in sizes_up_to(largest)]
    for one in datagrams:
        udp.send(one)
    return datagrams


def segmented(udp: socket.socket, largest: int, chance: random.Random) -> list[bytes]:
    """UDP_SEGMENT: several sizes, each with a short last datagram, and one that is even."""
    return _segmented(udp, largest, chance, 0)


def _segmented(udp: socket.socket, largest: int, chance: random.Random, flags: int) -> list[bytes]:
    sent = []
    for size in (1, 12, 13, 32, 500, 1201, largest):
        for last in (1, size // 2, size):
            count = max(2, min(7, 60_000 // size))
            payload = chance.randbytes(size * (count - 1) + max(1, last))
            ancillary = [(socket.SOL_UDP, UDP_SEGMENT, size.to_bytes(2, "little"))]
            udp.sendmsg([payload], ancillary, flags)
            sent += [payload[at : at + size] for at in range(0, len(payload), size)]
            # what follows a superpacket at once must not overtake it
            follower = chance.randbytes(9)
            udp.send(follower)
            sent.append(follower)
    return sent


def from_file(udp: socket.socket, largest: int, chance: random.Random) -> list[bytes]:
    """sendfile(2): the payload lies in pages that belong to a file."""
    sent = []
    with tempfile.TemporaryFile() as file:
        for size in (1, 12, 700, largest):
            payload = chance.randbytes(size)
            file.truncate(0)
            file.seek(0)
            file.write(payload)
            file.flush()
            if os.sendfile(udp.fileno(), file.fileno(), 0, size) != size:
                raise OSError(f"sendfile did not send {size} bytes")
            sent.append(payload)
    return sent


def zerocopy(udp: socket.socket, largest: int, chance: random.Random) -> list[bytes]:
    """MSG_ZEROCOPY, one by one and segmented: the payload lies in the sender's own memory."""
    udp.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    sent = []
    with mmap.mmap(-1, 1 << 16) as memory:
        for size in (1, 13, 700, largest):
            payload = chance.randbytes(size)
            memory[:size] = payload
            with memoryview(memory)[:size] as view:
                udp.send(view, MSG_ZEROCOPY)
            _await_copied(udp)
            sent.append(payload)
        payload = chance.randbytes(3 * 1000 + 17)
        memory[: len(payload)] = payload
        ancillary = [(socket.SOL_UDP, UDP_SEGMENT, (1000).to_bytes(2, "little"))]
        with memoryview(memory)[: len(payload)] as view:
            udp.sendmsg([view], ancillary, MSG_ZEROCOPY)
        _await_copied(udp)
        sent += [payload[at : at + 1000] for at in range(0, len(payload), 1000)]
    return sent


def _await_copied(udp: socket.socket) -> None:
    """The kernel tells on the error queue when the memory may be written again."""
    import select

    poller = select.poll()
    poller.register(udp.fileno(), 0)  # POLLERR is always reported
    while poller.poll(3000):
        try:
            udp.recvmsg(0, 512, MSG_ERRQUEUE)
            return
        except BlockingIOError:
            continue
    raise TimeoutError("no notification of MSG_ZEROCOPY")


def in_parts(udp: socket.socket, largest: int, chance: random.Random) -> list[bytes]:
    """MSG_MORE: one datagram out of several calls."""
    sent = []
    for sizes in ((1, 1), (5, 0, 9), (600, 1, 300), (1, largest - 2, 1)):
        parts = [chance.randbytes(size) for size in sizes]
        for part in parts[:-1]:
            udp.send(part, socket.MSG_MORE)
        udp.send(parts[-1])
        sent.append(b"".join(parts))
    return sent


def without_checksum(udp: socket.socket, largest: int, chance: random.Random) -> list[bytes]:
    """UDP checksum 0 (RFC 768; RFC 6936 for IPv6)."""
    if udp.family == socket.AF_INET:
        udp.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    else:
        udp.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)
    return plain(udp, largest, chance)


def with_options(udp: socket.socket, largest: int, chance: random.Random) -> list[bytes]:
    """IPv4 options, or IPv6 destination options, in front of the UDP header."""
    if udp.family == socket.AF_INET:
        udp.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, bytes([NO_OPERATION] * OPTION_BYTES))
    else:
        # next header and length, which the kernel fills in, then PadN of four bytes
        udp.setsockopt(socket.IPPROTO_IPV6, IPV6_DSTOPTS, bytes([0, 0, PAD_N, 4, 0, 0, 0, 0]))
    return mixed(udp, largest - OPTION_BYTES, chance)


def mixed(udp: socket.socket, largest: int, chance: random.Random) -> list[bytes]:
    return plain(udp, largest, chance) + segmented(udp, largest, chance)


SENDERS = {
    "plain": Sender(plain),
    "UDP_SEGMENT": Sender(segmented),
    "sendfile": Sender(from_file),
    "MSG_ZEROCOPY": Sender(zerocopy),
    "MSG_MORE": Sender(in_parts),
    "no checksum": Sender(without_checksum),
    "forwarded": Sender(mixed, forwarded=True),
    "masqueraded": Sender(mixed, forwarded=True, masqueraded=True),
    "redirected": Sender(mixed, forwarded=True, redirected=True),
    "IP options": Sender(with_options),
}
