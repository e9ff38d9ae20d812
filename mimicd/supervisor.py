# SPDX-License-Identifier: GPL-2.0-only
"""All interfaces of this daemon: the manager that the bus, and whoever else, talks to."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mimicd import __version__, facts, logs, state
from mimicd.audience import Audience
from mimicd.core.connection import Connection, InterfaceView
from mimicd.core.errors import (
    AlreadyRunningError,
    FailedError,
    InterfaceDownError,
    InvalidConfigError,
    MimicError,
    NoSuchInterfaceError,
    NotRunningError,
)
from mimicd.core.manager import Listener, Options
from mimicd.core.model import InterfaceConfig
from mimicd.core.part import WHOLE, Part
from mimicd.core.preflight import WIREGUARD_BYTES, Line
from mimicd.core.rules import RuleBook
from mimicd.core.settings import build_config, config_texts
from mimicd.core.sources import Known, guarded_filters, known_of, strict_filters
from mimicd.core.terminal import counted
from mimicd.core.values import parse_verbosity
from mimicd.core.wireguard import Tunnel
from mimicd.follower import Follower
from mimicd.instance import Instance
from mimicd.kernel import bpffs
from mimicd.kernel.changes import Changes
from mimicd.kernel.netlink import Link, Netlink
from mimicd.logs import ERROR, INFO, WARNING
from mimicd.predecessor import adopt, clear_away, clear_leftovers
from mimicd.records import Records
from mimicd.state import Phase, SavedInterface
from mimicd.strict import StrictGuards
from mimicd.waiting import Waiting

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
"""How often that is looked at of which the kernel tells nobody."""
_SETTLE_S = 5.0
"""Less than a service manager waits for the end of a service."""


class Supervisor:
    """Interface name -> Instance. `open` first, then either `stop_all` or `leave_all`."""

    version = __version__

    def __init__(self) -> None:
        self._tell = Audience(self._verbosity_of)
        self._records = Records(self._tell)
        self._net = Netlink()
        self._strict = StrictGuards(self._net)
        self._root: Path | None = None
        self._instances: dict[str, Instance] = {}
        self._followers: dict[Instance, Follower] = {}
        self._waiting: dict[str, Waiting] = {}
        self._holders: dict[str, str] = {}
        self._busy: dict[str, asyncio.Lock] = {}
        self._only = ""
        self._changes: Changes | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._to_follow: set[Instance] = set()
        self._to_come_back: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends = False

    async def open(self, only: str = "") -> None:
        """Find out where pins live, and take over what an earlier daemon left attached.

        `only`: take over and serve this interface and no other.
        """
        self._only = only
        await self._net.open()
        self._root = bpffs.pin_root(self._records.folder)
        self._changes = Changes(self._on_change)
        self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)
        for saved in self._records.load():
            if only in ("", saved.name):
                await self._take_over(saved)

    async def open_to_look(self) -> None:
        """For `check` alone: nothing is taken over, made or watched."""
        await self._net.open()

    async def close_after_looking(self) -> None:
        """The end of `open_to_look`."""
        await self._net.close()

    async def stop_all(self) -> None:
        """Stop every interface, also when one of them fails."""
        await self._settle()
        for name in [*self._instances, *self._waiting]:
            try:
                await self.stop(name)
            except MimicError as error:
                log.error("%s: %s", name, error)
        await self._close()

    async def leave_all(self) -> None:
        """Leave everything attached for the next daemon."""
        await self._settle()
        for instance in self._instances.values():
            await self._followers.pop(instance).close(restore=False)
            instance.leave()
        self._records.release_all()
        self._instances.clear()
        self._waiting.clear()
        await self._close()

    async def _settle(self) -> None:
        """What has begun comes to its end, if that takes no longer; nothing new begins."""
        self._ends = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                for lock in list(self._busy.values()):
                    async with lock:
                        pass

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if self._changes is not None:
            self._changes.close()
        self._strict.close()
        await self._net.close()
        if self._root is not None:
            bpffs.leave(self._root, self._records.folder)

    # --- core.manager.Manager ---

    async def run(self, interface: str, options: Options) -> None:
        """Attach to an interface; returns when traffic is disguised."""
        if self._only not in ("", interface):
            raise FailedError(
                f"this mimicd serves {self._only} alone, in the foreground",
                f"`mimicd run {interface}` serves another one, mimicd without `run` all of them",
            )
        async with self._lock(interface):
            self._check_goes_on()
            if interface in self._instances:
                raise AlreadyRunningError(
                    f"{interface} is running already",
                    f"`mimicctl reload` changes its filters, `mimicctl stop {interface}` ends it",
                )
            await self._attach(interface, build_config(options), time.time())

    async def stop(self, interface: str) -> None:
        """Detach from an interface; returns when everything is as before `run`."""
        async with self._lock(interface):
            waiting = self._waiting.get(interface)
            if waiting is not None:
                self._wait_no_more(interface)
                with contextlib.suppress(NoSuchInterfaceError):
                    link = await self._net.link(interface)
                    await self._uncover(link, waiting.config, waiting.known.tunnels)
                self._removed(interface, waiting.config)
            else:
                await self._stop(self._running(interface))

    async def reload(self, interface: str, options: Options) -> None:
        """Apply the difference between the running configuration and `options`."""
        async with self._lock(interface):
            self._check_goes_on()
            config = build_config(options)
            waiting = self._waiting.get(interface)
            if waiting is not None:
                self._wait_for(interface, config, waiting.started_at, waiting.known)
                self._tell.added(self._waiting[interface].view())
                return
            instance = self._running(interface)
            follower = self._followers[instance]
            try:
                book = instance.book.renumbered(await follower.prepare(config))
                await self._cover(instance.link, config, follower)
                await instance.reload(config, book)
            except BaseException:
                await self._guard_again(instance)
                raise
            finally:
                follower.settle()
            self._save(instance)
            self._tell.log(instance.name, INFO, f"reloaded: {counted(len(book.filters), 'filter')}")
            self._tell.added(instance.view())

    async def set_log_level(self, interface: str, level: str) -> None:
        """Of one running interface, of the daemon and all of them for ""."""
        if interface:
            async with self._lock(interface):
                self._set_verbosity(self._running(interface), level)
            return
        number = parse_verbosity(level, INFO)
        for name in list(self._instances):
            async with self._lock(name):
                if name in self._instances:
                    self._set_verbosity(self._instances[name], level)
        logs.set_daemon_level(number)

    def _set_verbosity(self, instance: Instance, level: str) -> None:
        number = parse_verbosity(level, instance.config.verbosity)
        instance.set_verbosity(number)
        self._save(instance)
        self._tell.added(instance.view())

    async def check(self, interface: str, options: Options) -> list[Line]:
        """See core.manager."""
        texts = dict(options)
        probe = texts.pop("probe", "") == "true"
        config = (
            build_config(texts) if {"filter", "wireguard"} & texts.keys() else InterfaceConfig()
        )
        return await facts.check(self._net, interface, config, interface in self._instances, probe)

    def count_connections(self) -> int:
        """Of all interfaces, about."""
        return sum(instance.count_connections() for instance in self._instances.values())

    async def connections(
        self, interface: str, part: Part = WHOLE
    ) -> AsyncIterator[Sequence[Connection]]:
        """The connections of one running interface, of all of them for "", in portions."""
        if interface in self._waiting:
            return
        instances = [self._running(interface)] if interface else list(self._instances.values())
        for instance in instances:
            async for portion in instance.connections(part):
                yield portion

    def interfaces(self) -> list[InterfaceView]:
        """The running interfaces, with counters as of now, and those that are waited for."""
        return [
            *(instance.view() for instance in self._instances.values()),
            *(waiting.view() for waiting in self._waiting.values()),
        ]

    def holder_of(self, interface: str) -> str:
        """Who holds an interface, "" for nobody."""
        return self._holders.get(interface, "")

    def set_holder(self, interface: str, holder: str) -> None:
        """Remember who holds a running interface, also for the next daemon."""
        if self.holder_of(interface) == holder:
            return
        instance, waiting = self._instances.get(interface), self._waiting.get(interface)
        if instance is not None or waiting is not None:
            self._holders[interface] = holder
        if instance is not None:
            self._save(instance)
        elif waiting is not None:
            self._records.write(replace(waiting.saved(), holder=holder))

    def holders(self) -> dict[str, str]:
        """Of those interfaces that somebody holds."""
        return {name: held for name, held in self._holders.items() if held}

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` from now on; returns what ends that."""
        return self._tell.subscribe(listener)

    # --- inside ---

    def _lock(self, interface: str) -> asyncio.Lock:
        return self._busy.setdefault(interface, asyncio.Lock())

    def _verbosity_of(self, interface: str) -> int | None:
        instance = self._instances.get(interface)
        return instance.config.verbosity if instance else None

    def _name_of(self, instance: Instance) -> str:
        """As which it is served, "" if it no longer is; its link may have another name by now."""
        return next((name for name, one in self._instances.items() if one is instance), "")

    def _check_goes_on(self) -> None:
        if self._ends:
            raise FailedError("mimicd is about to end", "ask again once it is back")

    def _running(self, interface: str) -> Instance:
        instance = self._instances.get(interface)
        if instance is None:
            raise NotRunningError(
                f"{interface} is not running",
                f"start it with `mimicctl run -f FILTER {interface}`",
            )
        return instance

    async def _attach(
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
            makes_clsact = makes_clsact or await self._strict.is_on(link)
            # whatever comes of it, from here on nothing strict leaves as it is
            await self._cover(link, config, follower)
            _check_link(link, config)
            filters = await follower.prepare(config, strict=known is None)
            book = RuleBook({}).renumbered(filters)
            await self._cover(link, config, follower)
            # Another process that left may have taken the empty folders with it.
            self._root = bpffs.pin_root(self._records.folder)
            if self._root is not None and link.ifindex in bpffs.pinned_interfaces(self._root):
                await clear_leftovers(self._net, self._root, link.ifindex)
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
            instance = await Instance.start(
                self._net,
                link,
                config,
                book,
                self._root,
                self._tell,
            )
        except BaseException:
            if known is None and strict_filters(follower.guarded(config)):
                words = "its strict filters let nothing out as long as it does not run"
                self._tell.log(name, WARNING, f"{words}; `mimicd guard --off {name}` ends that")
            self._records.forget(key)
            raise
        instance.started_at = started_at
        instance.plane.made_clsact |= makes_clsact
        self._add(instance, follower)

    async def _cover(self, link: Link, config: InterfaceConfig, follower: Follower) -> None:
        """Raises MimicError where it has strict filters and cannot be guarded."""
        filters = strict_filters(follower.guarded(config))
        if filters and not link.link_type and config.link_type == "auto":
            return  # it cannot run either
        await self._strict.cover(link, filters, config.link_type)

    async def _uncover(
        self, link: Link, config: InterfaceConfig, tunnels: Mapping[str, Tunnel]
    ) -> None:
        """It is to be stopped: only what is always strict stays."""
        wanted = strict_filters(guarded_filters(config, tunnels), stopped=True)
        try:
            await self._strict.cover(link, wanted, config.link_type)
        except MimicError as error:
            self._tell.log(link.name, ERROR, f"its guard cannot be changed: {error}")

    def _add(self, instance: Instance, follower: Follower) -> None:
        name = instance.name
        self._instances[name] = instance
        self._followers[instance] = follower
        instance.guarded = lambda: self._strict.dropped(instance.link.ifindex)
        self._save(instance)
        self._wait_no_more(name)
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
        follower.follow(instance, lambda: self._refilter(instance))
        # What changed while it was attached was told to nobody.
        self._on_change()

    async def _stop(self, instance: Instance) -> None:
        name, key = self._name_of(instance), str(instance.link.ifindex)
        del self._instances[name]
        self._save(instance, Phase.STOPPING)
        follower = self._followers.pop(instance)
        try:
            await follower.close(restore=True)
            await self._uncover(instance.link, instance.config, follower.known.tunnels)
        finally:
            await self._detach(instance, key)
            self._removed(name, instance.config)

    async def _detach(self, instance: Instance, key: str) -> None:
        """Cut short, its record stays, and the next process clears away what is left."""
        try:
            await instance.stop()
        except BaseException:
            self._records.release(key)
            raise
        self._records.forget(key)

    def _removed(self, name: str, config: InterfaceConfig) -> None:
        self._holders.pop(name, None)
        self._tell.log(name, INFO, "stopped", verbosity=config.verbosity)
        self._tell.removed(name)

    def _save(self, instance: Instance, phase: Phase = Phase.RUNNING) -> None:
        plane, config = instance.plane, instance.config
        rules, hosts = instance.book.saved(config.flow)
        follower = self._followers.get(instance)
        self._records.write(
            SavedInterface(
                name=instance.name,
                ifindex=instance.link.ifindex,
                link_type=plane.link_type,
                xdp_mode=plane.xdp_mode,
                made_clsact=plane.made_clsact,
                started_at=instance.started_at,
                options=config_texts(config),
                rules=rules,
                hosts=hosts,
                mtus=follower.mtus.saved if follower else {},
                phase=phase,
                holder=self.holder_of(instance.name),
            )
        )

    # --- what an earlier process left ---

    async def _take_over(self, saved: SavedInterface) -> None:
        """Go on with it, or clear it away and begin again."""
        try:
            self._records.claim(saved.name, saved.key)
        except AlreadyRunningError:
            return
        if saved.phase is Phase.RUNNING:
            instance = await adopt(self._net, self._root, saved, self._tell)
            if instance is not None:
                self._holders[instance.name] = saved.holder
                known = known_of(instance.book.filters.values())
                self._add(
                    instance,
                    Follower(self._net, instance.name, self._tell, known, saved.mtus),
                )
                if instance.name != saved.name:
                    self._tell.log(instance.name, WARNING, f"it was called {saved.name} before")
                await self._guard_again(instance)
                await self._repair(instance)
                return
        if saved.ifindex:
            await clear_away(self._net, self._root, saved, self._tell)
            self._records.forget(saved.key)
        await self._begin_again(saved)

    async def _begin_again(self, saved: SavedInterface) -> None:
        if saved.phase not in (Phase.RUNNING, Phase.WAITING):
            log.warning(
                "%s: the last mimicd died while it was %s; what it left is cleared away",
                saved.name,
                saved.phase.value,
            )
            return
        try:
            config = build_config(saved.options)
        except MimicError as error:
            log.error("%s: this mimicd does not know how it was run: %s", saved.name, error)
            self._records.forget(saved.key)
            return
        self._holders[saved.name] = saved.holder
        self._wait_for(saved.name, config, saved.started_at, _known_of(saved, config))
        await self._come_back(saved.name)

    # --- what changes underneath ---

    def _wait_for(
        self, name: str, config: InterfaceConfig, started_at: float, known: Known
    ) -> None:
        """Run `name` again once there is such an interface."""
        self._waiting[name] = waiting = Waiting(name, config, started_at, known)
        key = state.waiting_key(name)
        try:
            if not self._records.has_claimed(key):
                self._records.claim(name, key)
        except AlreadyRunningError as error:
            self._tell.log(name, WARNING, f"cannot save that it is waited for: {error}")
            return
        self._records.write(replace(waiting.saved(), holder=self.holder_of(name)))

    def _wait_no_more(self, name: str) -> bool:
        """Whether it was waited for."""
        if self._waiting.pop(name, None) is None:
            return False
        key = state.waiting_key(name)
        self._records.forget(key)
        return True

    async def _come_back(self, name: str) -> None:
        """Run an interface again that was waited for, if it is there and up."""
        async with self._lock(name):
            self._to_come_back.discard(name)
            waiting = self._waiting.get(name)
            if waiting is None:
                return
            try:
                await self._attach(name, waiting.config, waiting.started_at, waiting.known)
            except (NoSuchInterfaceError, InterfaceDownError):
                return
            except (MimicError, OSError) as error:
                if str(error) != waiting.trouble:
                    waiting.trouble = str(error)
                    self._tell.log(name, ERROR, f"cannot be run again: {error}")

    def _look(self) -> None:
        """Notice what the kernel does not tell."""
        self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)
        for instance in self._instances.values():
            saved = self._records.has(str(instance.link.ifindex))
            if not saved or not instance.plane.is_intact():
                self._on_change()
                return

    def _on_change(self) -> None:
        """Links, addresses or filters changed: look at all that we serve."""
        if self._ends:
            return
        for instance in self._instances.values():
            if instance not in self._to_follow:
                self._to_follow.add(instance)
                self._keep(self._follow(instance))
        for name in self._waiting.keys() - self._to_come_back:
            self._to_come_back.add(name)
            self._keep(self._come_back(name))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a change of the network could not be followed", exc_info=error)

    async def _follow(self, instance: Instance) -> None:
        follower = self._followers.get(instance)
        if follower is not None:
            follower.network_changed()
        async with self._lock(self._name_of(instance)):
            # What comes from here on is one more change.
            self._to_follow.discard(instance)
            if not self._name_of(instance):
                return
            before = instance.link
            try:
                link = await self._net.link_by_index(before.ifindex)
            except NoSuchInterfaceError:
                await self._lose(instance)
                return
            instance.refresh_link(link)
            if link.name != self._name_of(instance):
                self._rename(instance, self._name_of(instance))
            elif link.name != before.name:
                self._save(instance)
                self._tell.added(instance.view())
            if link.is_up != before.is_up:
                self._tell.log(
                    link.name, INFO, f"the interface is {'up again' if link.is_up else 'down'}"
                )
            if link.mtu_bytes != before.mtu_bytes:
                self._tell.added(instance.view())
            await instance.refresh_addresses()
            await self._repair(instance)

    async def _refilter(self, instance: Instance) -> None:
        """What its filters are made from has changed."""
        async with self._lock(self._name_of(instance)):
            follower = self._followers.get(instance)
            if follower is None:
                return
            await self._guard_again(instance)
            try:
                book = instance.book.renumbered(follower.filters(instance.config))
                if book != instance.book:
                    await instance.reload(instance.config, book)
                    self._tell.added(instance.view())
            finally:
                self._save(instance)  # also the MTU of a tunnel

    async def _guard_again(self, instance: Instance) -> None:
        """What its guard is to know has changed, or is not known to this process."""
        try:
            await self._cover(instance.link, instance.config, self._followers[instance])
        except MimicError as error:
            self._tell.log(instance.name, ERROR, f"its strict filters cannot be guarded: {error}")

    async def _repair(self, instance: Instance) -> None:
        """Put back what somebody removed."""
        try:
            repaired = await instance.plane.repair(instance.link)
            if await self._strict.repair(instance.link):
                repaired.append("the guard of its strict filters")
        except (MimicError, OSError) as error:
            if str(error) != instance.trouble:
                self._tell.log(
                    instance.name, ERROR, f"what was removed cannot be put back: {error}"
                )
            instance.trouble = str(error)
            return
        instance.trouble = ""
        for what in repaired:
            self._tell.log(instance.name, WARNING, f"somebody removed {what}; it is back")
        if repaired or not self._records.has(str(instance.link.ifindex)):
            self._save(instance)

    async def _lose(self, instance: Instance) -> None:
        """The interface is gone, or in another network namespace."""
        name, key = self._name_of(instance), str(instance.link.ifindex)
        self._tell.log(name, WARNING, "the interface is gone; it is run again once there is one")
        del self._instances[name]
        follower = self._followers.pop(instance)
        self._wait_for(name, instance.config, instance.started_at, follower.known)
        self._strict.forget(instance.link.ifindex)
        try:
            await follower.close(restore=True)
        finally:
            await self._detach(instance, key)
            self._tell.added(self._waiting[name].view())

    def _rename(self, instance: Instance, before: str) -> None:
        """The interface has another name; whoever waits for its lock goes on waiting for it."""
        name = instance.name
        if self._wait_no_more(name):
            self._tell.log(name, WARNING, f"{before} has its name now, it is no longer waited for")
        # Of two that swap their names the other one is looked at next.
        other = self._instances.pop(name, None)
        self._instances[name] = self._instances.pop(before)
        held, other_held = self.holder_of(before), self.holder_of(name)
        self._holders |= {name: held, before: other_held if other is not None else ""}
        if other is not None:
            self._instances[before] = other
        locks = self._lock(before), self._lock(name)
        self._busy[name], self._busy[before] = locks
        self._save(instance)
        self._tell.log(name, INFO, f"the interface was called {before} before")
        self._tell.renamed(before, instance.view())


def _known_of(saved: SavedInterface, config: InterfaceConfig) -> Known:
    try:
        book = RuleBook.from_saved(saved.rules, saved.hosts, config.flow)
    except (MimicError, ValueError):
        return Known()
    return known_of(book.filters.values())


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
