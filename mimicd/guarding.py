# SPDX-License-Identifier: GPL-2.0-only
"""`mimicd guard`: the guard of one interface, put on or taken off by hand."""

import logging
import os

from mimicd.audience import Audience
from mimicd.core.errors import FailedError
from mimicd.core.manager import Options
from mimicd.core.model import InterfaceConfig
from mimicd.core.settings import build_config
from mimicd.core.sources import Known
from mimicd.core.wireguard import Tunnel
from mimicd.follower import Follower
from mimicd.kernel.guard import attach_guard, remove_guard
from mimicd.kernel.netlink import Netlink

log = logging.getLogger(__name__)


async def guard(interface: str, options: Options, on: bool) -> None:
    """Put it on, in place of what is there, or take it off. Raises MimicError."""
    config = build_config(options) if on else InterfaceConfig()
    net = Netlink()
    await net.open()
    try:
        link = await net.link(interface)
        if not on:
            await remove_guard(net, link)
            return
        follower = Follower(net, interface, Audience(lambda _: None), Known())
        await follower.read_tunnels(config)
        filters = follower.guarded(config)
        for name in config.wireguard if filters else ():
            if not follower.known.tunnels.get(name, Tunnel()).listen_port:
                log.warning(
                    "%s tells no port, so what it sends is not guarded; give its ListenPort as"
                    " a filter too, local=0.0.0.0:PORT and local=[::]:PORT",
                    name,
                )
        if not filters:
            raise FailedError(
                f"nothing can be guarded on {interface}: no WireGuard interface tells its port",
                "give a filter for its port, such as local=0.0.0.0:51820",
            )
        counters = await attach_guard(net, link, filters, config.link_type)
        os.close(counters.fd)
    finally:
        await net.close()
