# SPDX-License-Identifier: GPL-2.0-only
"""How an interface begins to be served, and what is told of it then.

In this order, for a process may die at each step: what is strict is guarded, then what cannot work
is refused, then it is written down that something is being attached, then it is.
"""

from functools import partial

from mimicd.audience import Audience
from mimicd.core.errors import (
    InterfaceDownError,
    InvalidConfigError,
    MimicError,
    NoSuchInterfaceError,
)
from mimicd.core.model import InterfaceConfig
from mimicd.core.preflight import WIREGUARD_BYTES
from mimicd.core.rules import RuleBook
from mimicd.core.settings import config_texts
from mimicd.core.sources import Known, strict_filters
from mimicd.core.terminal import counted
from mimicd.follower import Follower
from mimicd.instance import Instance
from mimicd.kernel import bpffs
from mimicd.kernel.bpffs import Pins
from mimicd.kernel.netlink import Link, Netlink
from mimicd.ledger import Ledger
from mimicd.logs import ERROR, INFO, WARNING
from mimicd.predecessor import clear_leftovers
from mimicd.records import Records
from mimicd.roster import Served
from mimicd.state import Phase, SavedInterface
from mimicd.strict import StrictGuards
from mimicd.upkeep import Upkeep
from mimicd.waiting import Waiting


class Attaching:
    """Changes that come while it attaches are told to nobody: whoever calls looks for them then."""

    def __init__(
        self,
        net: Netlink,
        pins: Pins,
        ledger: Ledger,
        records: Records,
        guards: StrictGuards,
        upkeep: Upkeep,
        tell: Audience,
    ) -> None:
        self._net = net
        self._pins = pins
        self._ledger = ledger
        self._records = records
        self._guards = guards
        self._upkeep = upkeep
        self._tell = tell

    async def attach(
        self, name: str, config: InterfaceConfig, started_at: float, known: Known | None = None
    ) -> None:
        """Raises MimicError, and then nothing is left attached.

        `known`: it is run again; what its names stand for may be found out only through it.
        """
        link = await self._net.link(name)
        follower = Follower(self._net, name, self._tell, known or Known())
        key = str(link.ifindex)
        self._records.claim(name, key)
        try:
            makes_clsact = not await self._net.has_clsact(link.ifindex)
            makes_clsact = makes_clsact or await self._guards.is_on(link)
            # whatever comes of it, from here on nothing strict leaves as it is
            await self._guards.cover(link, config, follower.guarded(config))
            _check_link(link, config)
            filters = await follower.prepare(config, strict=known is None)
            book = RuleBook({}).renumbered(filters)
            await self._guards.cover(link, config, follower.guarded(config))
            # Another process that left may have taken the empty folders with it.
            root = self._pins.make()
            if root is not None and link.ifindex in bpffs.pinned_interfaces(root):
                await clear_leftovers(self._net, root, link.ifindex)
                link = await self._net.link_by_index(link.ifindex)
            self._records.write(
                SavedInterface(
                    name=name,
                    ifindex=link.ifindex,
                    link_type=config.link_type,
                    xdp_mode=config.xdp_mode,
                    made_clsact=makes_clsact,
                    started_at=started_at,
                    options=config_texts(config),
                    phase=Phase.ATTACHING,
                )
            )
            instance = await Instance.start(self._net, link, config, book, root, self._tell)
        except BaseException:
            if known is None and strict_filters(follower.guarded(config)):
                words = "its strict filters let nothing out as long as it does not run"
                self._tell.log(name, WARNING, f"{words}; `mimicd guard --off {name}` ends that")
            self._records.forget(key)
            raise
        instance.started_at = started_at
        instance.plane.made_clsact |= makes_clsact
        self.add(Served(instance, follower))

    async def attach_again(self, waiting: Waiting) -> bool:
        """Whether what was waited for runs; what hinders it is told once."""
        name = waiting.name
        try:
            await self.attach(name, waiting.config, waiting.started_at, waiting.known)
        except (NoSuchInterfaceError, InterfaceDownError):
            return False
        except (MimicError, OSError) as error:
            if str(error) != waiting.trouble:
                waiting.trouble = str(error)
                self._tell.log(name, ERROR, f"cannot be run again: {error}")
            return False
        return True

    def add(self, served: Served) -> None:
        """It is attached, by this process or an earlier one: from here on it is served."""
        instance, name = served.instance, served.instance.name
        instance.guarded = partial(self._guards.dropped, instance.link.ifindex)
        self._ledger.add(served)
        view = instance.view()
        self._tell.log(
            name,
            INFO,
            f"attached (XDP {view.xdp_mode}, {counted(len(view.filters), 'filter')}, datagrams up"
            f" to {view.max_payload} bytes: for WireGuard MTU ="
            f" {max(0, view.max_payload - WIREGUARD_BYTES)})",
        )
        if instance.plane.without_xdp:
            self._tell.log(name, INFO, f"received on TC, without XDP: {instance.plane.without_xdp}")
        if not instance.plane.pinned:
            self._tell.log(
                name,
                WARNING,
                "no bpffs can be used: the disguise ends when this daemon does",
            )
        self._tell.added(view)
        served.follower.follow(instance, self._upkeep.refilter)


def _check_link(link: Link, config: InterfaceConfig) -> None:
    """What cannot work is refused before anything is touched."""
    if not link.is_up:
        raise InterfaceDownError(
            f"interface {link.name} is down", f"`ip link set {link.name} up` first"
        )
    if config.link_type == "auto" and not link.link_type:
        raise InvalidConfigError(
            f"{link.name} is of a link type (ARPHRD {link.hardware_type}) that is neither Ethernet"
            " nor without link header",
            "give --link-type if you know better",
        )
