# SPDX-License-Identifier: GPL-2.0-only
"""Frames of our own onto an interface: AF_PACKET, through its TC egress.

Raw IP sockets would pass the host's own netfilter, and could not send for a foreign source.
"""

import socket

_SEND_BUFFER_BYTES = 4 << 20


class PacketSocket:
    """Sends whole frames with one skb mark. Protocol 0: it receives nothing."""

    def __init__(self, ifindex: int, mark: int) -> None:
        """Raises OSError, PermissionError without CAP_NET_RAW."""
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_PACKET, kind, 0)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            self._socket.bind((socket.if_indextoname(ifindex), 0))
        except OSError:
            self._socket.close()
            raise

    def send(self, frame: bytes) -> None:
        """Raises OSError: ENOBUFS, ENETDOWN, ENXIO (the interface is gone)."""
        self._socket.send(frame)

    def close(self) -> None:
        """Close it."""
        self._socket.close()
