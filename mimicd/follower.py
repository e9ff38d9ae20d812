# SPDX-License-Identifier: GPL-2.0-only
"""Follows what the filters of one interface are made from: host names, WireGuard interfaces.

Neither tells when it changes, so they are looked at again and again; what they mean is decided in
core.names, core.wireguard and core.sources.
"""

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

from mimicd.audience import Audience
from mimicd.core.errors import (
    InvalidConfigError,
    MimicError,
    NameResolutionError,
    NoSuchInterfaceError,
)
from mimicd.core.model import Filter, InterfaceConfig
from mimicd.core.names import Change, Names
from mimicd.core.sources import Known, gather_filters, guarded_filters, hosts_of
from mimicd.core.wireguard import Tunnel, mtu_bytes
from mimicd.instance import Instance
from mimicd.kernel.netlink import Link, Netlink
from mimicd.kernel.wireguard import read_tunnel
from mimicd.logs import INFO, WARNING
from mimicd.resolver import Resolver
from mimicd.tunnel_mtu import TunnelMtus

Address = IPv4Address | IPv6Address
RefilterFunction = Callable[[Instance], Awaitable[None]]

_TUNNEL_EVERY_S = 2.0


class Follower:
    """Of one interface: `prepare`, then `follow`, at last `close`."""

    def __init__(
        self,
        net: Netlink,
        name: str,
        tell: Audience,
        known: Known,
        mtus: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """`known`: from an earlier time; `mtus`: what an earlier process changed."""
        self._net = net
        self._name = name
        self._audience = tell
        self._resolver = Resolver()
        self._names = Names(known.addresses)
        self._tunnels = dict(known.tunnels)
        self._trouble: dict[str, str] = {}
        self.mtus = TunnelMtus(net, self._log, mtus or {})
        self._instance: Instance | None = None
        self._refilter: RefilterFunction | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def filters(self, config: InterfaceConfig) -> list[Filter]:
        """Of a configuration that was prepared, as things stand."""
        return gather_filters(config, self._names.addresses, self._tunnels)

    def guarded(self, config: InterfaceConfig) -> list[Filter]:
        """What is to be kept from leaving undisguised, also before names are known."""
        return guarded_filters(config, self._tunnels)

    async def read_tunnels(self, config: InterfaceConfig) -> None:
        """What `guarded` needs. Raises InvalidConfigError for what is no WireGuard interface."""
        for name in config.wireguard:
            await self._read_tunnel(name, at_first=True, strict=True)

    @property
    def known(self) -> Known:
        """What names and tunnels stand for now."""
        return Known(self._names.addresses, dict(self._tunnels))

    async def prepare(self, config: InterfaceConfig, strict: bool = True) -> list[Filter]:
        """Look up what is not known yet; the filters of this configuration.

        Raises, if `strict`, NameResolutionError, or InvalidConfigError for what is no WireGuard
        interface; else what cannot be found now is looked up again later.
        """
        known = self._names.addresses
        unknown = [host for host in hosts_of(config) if host not in known]
        if strict:
            answers = await asyncio.gather(*map(self._resolver.addresses, unknown))
            self._names.keep([*known, *unknown])
            for host, answer in zip(unknown, answers, strict=True):
                self._names.found(host, answer, _now_s())
        for name in config.wireguard:
            await self._read_tunnel(name, at_first=True, strict=strict)
        return self.filters(config)

    def follow(self, instance: Instance, refilter: RefilterFunction) -> None:
        """From now on `refilter` is called when `filters` has something else to say."""
        self._instance, self._refilter = instance, refilter
        instance.on_failure = self._hurry
        self.settle()

    def settle(self) -> None:
        """The configuration is the instance's now: follow what it names and nothing else."""
        assert self._instance is not None
        config = self._instance.config
        self._names.keep(hosts_of(config))
        self._tunnels = {name: self._tunnels.get(name, Tunnel()) for name in config.wireguard}
        self._wake.set()
        if self._task is None and (config.wireguard or hosts_of(config)):
            self._task = asyncio.get_running_loop().create_task(self._run())

    def network_changed(self) -> None:
        """Names may mean something else here."""
        self._names.hurry()
        self._wake.set()

    def _hurry(self, filter_: Filter) -> None:
        if filter_.host:
            self._names.hurry(filter_.host)
            self._wake.set()

    async def close(self, restore: bool) -> None:
        """`restore`: whether it is at its end, not only this process."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if restore:
            await self.mtus.restore()

    async def _run(self) -> None:
        while True:
            if await self._look() and self._refilter is not None and self._instance is not None:
                try:
                    await self._refilter(self._instance)
                except (MimicError, OSError) as error:
                    self._tell_once("", f"the filters cannot follow: {error}")
                else:
                    self._trouble.pop("", None)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._wake.wait()

    def _pause_s(self) -> float | None:
        due_s = self._names.next_s()
        pauses = [] if due_s is None else [max(0.0, due_s - _now_s())]
        if self._tunnels:
            pauses.append(_TUNNEL_EVERY_S)
        return min(pauses, default=None)

    async def _look(self) -> bool:
        """Whether the filters are to change."""
        due = self._names.due(_now_s())
        changes = await asyncio.gather(*map(self._resolve, due))
        changed = any(changes)
        for name in list(self._tunnels):
            changed |= await self._read_tunnel(name)
        return changed

    def _log(self, level: int, text: str) -> None:
        name = self._instance.name if self._instance else self._name
        self._audience.log(name, level, text)

    # --- names ---

    async def _resolve(self, host: str) -> bool:
        try:
            answer = await self._resolver.addresses(host)
        except NameResolutionError as error:
            return self._tell(self._names.failed(host, _reason(error), _now_s()))
        used: set[Address] = set()
        if self._names.gone(host, answer):
            used = await self._addresses_in_use(host)
        return self._tell(self._names.found(host, answer, _now_s(), used.__contains__))

    async def _addresses_in_use(self, host: str) -> set[Address]:
        assert self._instance is not None
        numbers = await self._instance.rules_in_use()
        filters = [one for number, one in self._instance.book.filters.items() if number in numbers]
        return {one.address for one in filters if one.host == host and one.address is not None}

    def _tell(self, change: Change) -> bool:
        if change.words:
            self._log(WARNING if change.is_fault else INFO, change.words)
        return change.filters

    # --- WireGuard ---

    async def _read_tunnel(self, name: str, at_first: bool = False, strict: bool = False) -> bool:
        """Whether it changed. Raises InvalidConfigError for another kind of link, if `strict`."""
        before = self._tunnels.get(name)
        now = before or Tunnel()
        link: Link | None = None
        try:
            link = await self._net.link(name)
            now = await read_tunnel(name, link.kind)
        except NoSuchInterfaceError:
            link = None
            self._tell_once(name, f"there is no WireGuard interface {name} yet")
            now = Tunnel()
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else 0
            link = None
            if number in (errno.ENOENT, errno.EOPNOTSUPP) and strict:
                raise InvalidConfigError(
                    f"{name} is no WireGuard interface",
                    f"`wg show` lists them; one of wireguard-go has a socket {name}.sock in"
                    " /var/run/wireguard",
                ) from None
            words = error.strerror if isinstance(error, OSError) and error.strerror else error
            self._tell_once(name, f"WireGuard cannot be asked about {name}: {words}")
        else:
            if self._trouble.pop(name, None):
                self._log(INFO, f"the WireGuard interface {name} is there")
        changed = now != before
        if link is not None and not at_first:
            changed |= await self._fit_mtu(link)
        self._tunnels[name] = now
        if before is not None and before.listen_port != now.listen_port and now.listen_port:
            self._log(INFO, f"{name} listens on port {now.listen_port}")
        return changed

    async def _fit_mtu(self, link: Link) -> bool:
        """Whether it was set."""
        instance = self._instance
        assert instance is not None
        fitting = mtu_bytes(instance.link.mtu_bytes, instance.config.flow.padding)
        return await self.mtus.fit(link, fitting, instance.config.set_mtu)

    def _tell_once(self, name: str, words: str) -> None:
        if self._trouble.get(name) != words:
            self._trouble[name] = words
            self._log(WARNING, words)


def _reason(error: NameResolutionError) -> str:
    """What the message says behind the name."""
    return str(error).rpartition('" ')[2].removeprefix("does not resolve: ")


def _now_s() -> float:
    return asyncio.get_running_loop().time()
