# SPDX-License-Identifier: GPL-2.0-only
"""Frames of our own onto an interface: AF_PACKET, through its TC egress.

Raw IP sockets would pass the host's own netfilter, and could not send for a foreign source.
"""

import socket

_SEND_BUFFER_BYTES = 4 << 20
_SO_SNDBUFFORCE = 32  # asm-generic; Python does not name it
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD


class PacketSocket:
    """Sends whole frames with one skb mark. Protocol 0: it receives nothing."""

    def __init__(self, ifindex: int, mark: int, has_link_header: bool = True) -> None:
        """Raises OSError, PermissionError without CAP_NET_RAW.

        A frame without a link header says nothing of its protocol, which PPP wants to know.
        """
        self._ifindex = ifindex
        self._has_link_header = has_link_header
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_PACKET, kind, 0)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            self._widen()
            self._socket.bind((socket.if_indextoname(ifindex), 0))
        except OSError:
            self._socket.close()
            raise

    def _widen(self) -> None:
        """Also beyond net.core.wmem_max, which the held datagrams of a few connections fill."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER_BYTES)
        except OSError:  # in a user namespace
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def send(self, frame: bytes) -> None:
        """Raises OSError: ENOBUFS, ENETDOWN, ENXIO (the interface is gone)."""
        if self._has_link_header or not frame:
            self._socket.send(frame)
        else:
            protocol = _ETH_P_IPV6 if frame[0] >> 4 == 6 else _ETH_P_IP
            self._socket.sendto(frame, (socket.if_indextoname(self._ifindex), protocol))

    def close(self) -> None:
        """Close it."""
        self._socket.close()
