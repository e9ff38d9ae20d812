# SPDX-License-Identifier: GPL-2.0-only
"""What a process that is gone left on an interface: to go on with, or to be cleared away."""

import logging
from pathlib import Path

from mimicd.audience import Audience
from mimicd.core.errors import AttachError, MimicError, NoSuchInterfaceError
from mimicd.core.rules import RuleBook
from mimicd.core.settings import build_config
from mimicd.instance import Instance
from mimicd.kernel.dataplane import DataPlane, remove_leftovers
from mimicd.kernel.hop import remove_leftover
from mimicd.kernel.netlink import EGRESS_PARENT, INGRESS_PARENT, Netlink
from mimicd.state import SavedInterface
from mimicd.tunnel_mtu import TunnelMtus

log = logging.getLogger(__name__)


async def adopt(
    net: Netlink, root: Path | None, saved: SavedInterface, tell: Audience
) -> Instance | None:
    """Go on with it; None where that cannot be, which is logged. `root`: where pins live."""
    plane: DataPlane | None = None
    try:
        if root is None:
            raise AttachError("without a bpffs nothing of it is left to this process")
        link = await net.link_by_index(saved.ifindex)
        config = build_config(saved.options)
        book = RuleBook.from_saved(saved.rules, saved.hosts, config.flow)
        plane = DataPlane.adopt(net, link, saved.link_type, saved.xdp_mode, saved.made_clsact, root)
        instance = await Instance.adopt(net, link, plane, config, book, tell)
    except NoSuchInterfaceError:
        log.warning("%s: the interface has gone while no mimicd ran", saved.name)
        return None
    except (MimicError, OSError, ValueError) as error:
        log.warning(
            "%s: cannot take over what is attached, so it is replaced and its connections begin"
            " anew: %s",
            saved.name,
            error,
        )
        if plane is not None:
            plane.leave()
        return None
    instance.started_at = saved.started_at
    return instance


async def clear_away(
    net: Netlink, root: Path | None, saved: SavedInterface, tell: Audience
) -> None:
    """Detach all of it, wherever its process stopped."""
    await TunnelMtus(
        net, lambda level, text: tell.log(saved.name, level, text), saved.mtus
    ).restore()
    await clear_leftovers(net, root, saved.ifindex)
    if saved.made_clsact and await net.exists(saved.ifindex):
        await net.remove_clsact(saved.ifindex)


async def clear_leftovers(net: Netlink, root: Path | None, ifindex: int) -> None:
    """Detach what bears our marks; the interface may be gone."""
    for parent in (EGRESS_PARENT, INGRESS_PARENT):
        await net.remove_filter(ifindex, parent)
    await remove_leftover(net, ifindex)
    if root is not None:
        remove_leftovers(root, ifindex)
