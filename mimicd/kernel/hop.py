# SPDX-License-Identifier: GPL-2.0-only
"""The hop: a veth pair beside an interface, through which superpackets become segments.

A sender may hand over one buffer for many datagrams (UDP_SEGMENT), or an inner packet whose
checksum is still open. The egress program sends those into the near end, which has no offloads:
so the kernel itself cuts them and finishes them. The same program waits at the far end.

  eth0 egress --superpacket--> <name>-hop0 ==veth== <name>-hop1 --segments--> eth0
"""

from mimicd.kernel import ethtool
from mimicd.kernel.netlink import Netlink

MTU_BYTES = 65535
_NAME_BYTES = 15
_ALIAS = "mimicd: cuts superpackets of interface {}"


def hop_names(interface: str) -> tuple[str, str]:
    """Near and far end, named after the interface as far as 15 characters go."""
    stem = interface[: _NAME_BYTES - len("-hop0")]
    return f"{stem}-hop0", f"{stem}-hop1"


async def make_hop(net: Netlink, interface: str, ifindex: int) -> tuple[int, int]:
    """Both ends' ifindex; an old pair of ours is replaced. Raises OSError or AttachError."""
    alias = _ALIAS.format(ifindex)
    await net.remove_links_with_alias(alias)
    near, far = hop_names(interface)
    if {near, far} & set(await net.names()):
        # of two long names that begin alike, or that an interface had before
        near, far = hop_names(f"m{ifindex}")
    ends = await net.make_veth(near, far, MTU_BYTES, alias)
    try:
        ethtool.switch_cutting_off(near)
        await net.set_up(ends)
    except BaseException:
        await net.remove_link(ends[0])
        raise
    return ends


async def remove_leftover(net: Netlink, ifindex: int) -> None:
    """Remove the pair that a process left which is gone; the interface may be gone too."""
    await net.remove_links_with_alias(_ALIAS.format(ifindex))
