# SPDX-License-Identifier: GPL-2.0-only
"""Waits until an interface is there and up, as one that is plugged in or set up at boot will be.

The kernel tells of each change (rtnetlink(7)); after each the flags are read anew, so that none
of its messages has to be understood and a lost one does no harm. Needs no privilege.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct

_RTMGRP_LINK = 1
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 1
_IFREQ = struct.Struct("16sH22x")
_NAME_BYTES_MAX = 15
_READ_BYTES = 65536


def is_up(interface: str) -> bool:
    """Whether it exists and is up, in the network namespace of this process."""
    name = interface.encode(errors="replace")
    if len(name) > _NAME_BYTES_MAX or b"\0" in name:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        try:
            answer = fcntl.ioctl(control, _SIOCGIFFLAGS, _IFREQ.pack(name, 0))
        except OSError:
            return False
    flags: int = _IFREQ.unpack(answer)[1]
    return bool(flags & _IFF_UP)


async def wait_until_up(interface: str) -> None:
    """Return once it is up."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as changes:
        # Listening before looking: no change is missed.
        changes.bind((0, _RTMGRP_LINK))
        while not is_up(interface):
            try:
                await asyncio.get_running_loop().sock_recv(changes, _READ_BYTES)
            except OSError:
                continue  # messages were lost: look again
