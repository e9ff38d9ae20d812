# SPDX-License-Identifier: GPL-2.0-only
"""The hop: a veth pair beside an interface, through which superpackets become segments.

A sender may hand over one buffer for many datagrams (UDP_SEGMENT), or an inner packet whose
checksum is still open. The egress program sends those into the near end, which has no offloads:
so the kernel itself cuts them and finishes them. The same program waits at the far end.

  eth0 egress --superpacket--> <name>-hop0 ==veth== <name>-hop1 --segments--> eth0
"""

import ctypes
import fcntl
import socket
import struct

from mimicd.kernel.netlink import Netlink

MTU_BYTES = 65535
_NAME_BYTES = 15
_ALIAS = "mimicd: cuts superpackets of interface {}"

# linux/sockios.h, linux/ethtool.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_OFF = (0x17, 0x19, 0x1F, 0x24)  # STXCSUM, SSG, STSO, SGSO
_IFREQ = struct.Struct("16sP16x")
_ETHTOOL_VALUE = struct.Struct("=II")


def hop_names(interface: str) -> tuple[str, str]:
    """Near and far end, named after the interface as far as 15 characters go."""
    stem = interface[: _NAME_BYTES - len("-hop0")]
    return f"{stem}-hop0", f"{stem}-hop1"


async def make_hop(net: Netlink, interface: str, ifindex: int) -> tuple[int, int]:
    """Both ends' ifindex; an old pair of ours is replaced. Raises OSError or AttachError."""
    near, far = hop_names(interface)
    alias = _ALIAS.format(ifindex)
    await net.remove_link_with_alias(near, alias)
    ends = await net.make_veth(near, far, MTU_BYTES, alias)
    try:
        _switch_offloads_off(near)
        await net.set_up(ends)
    except BaseException:
        await net.remove_link(ends[0])
        raise
    return ends


async def remove_leftover(net: Netlink, ifindex: int) -> None:
    """Remove the pair that a process left which is gone; the interface may be gone too."""
    await net.remove_links_with_alias(_ALIAS.format(ifindex))


def _switch_offloads_off(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _ETHTOOL_OFF:
            value = bytearray(_ETHTOOL_VALUE.pack(command, 0))
            pointer = (ctypes.c_char * len(value)).from_buffer(value)
            request = _IFREQ.pack(name.encode(), ctypes.addressof(pointer))
            fcntl.ioctl(control, _SIOCETHTOOL, request)
