# SPDX-License-Identifier: GPL-2.0-only
"""All interfaces of this daemon: the manager that the bus, and whoever else, talks to."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from mimicd import __version__, logs, state
from mimicd.core.connection import Connection, InterfaceView
from mimicd.core.errors import (
    AlreadyRunningError,
    InterfaceDownError,
    InvalidConfigError,
    MimicError,
    NoSuchInterfaceError,
    NotRunningError,
)
from mimicd.core.manager import Listener, Options
from mimicd.core.model import InterfaceConfig
from mimicd.core.rules import RuleBook
from mimicd.core.settings import build_config, config_texts, format_filter, parse_filter
from mimicd.core.values import parse_verbosity
from mimicd.instance import Instance
from mimicd.kernel import bpffs
from mimicd.kernel.changes import Changes
from mimicd.kernel.dataplane import DataPlane, remove_leftovers
from mimicd.kernel.hop import remove_leftover
from mimicd.kernel.netlink import EGRESS_PARENT, INGRESS_PARENT, Link, Netlink
from mimicd.logs import INFO, WARNING
from mimicd.resolver import resolve

log = logging.getLogger(__name__)


class Supervisor:
    """Interface name -> Instance. `open` first, then either `stop_all` or `leave_all`."""

    version = __version__

    def __init__(self) -> None:
        self._folder = state.state_folder()
        self._net = Netlink()
        self._root: Path | None = None
        self._instances: dict[str, Instance] = {}
        self._options: dict[str, dict[str, str | list[str]]] = {}
        self._claims: dict[int, state.Claim] = {}
        self._busy: dict[str, asyncio.Lock] = {}
        self._listeners: list[Listener] = []
        self._changes: Changes | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, only: str = "") -> None:
        """Find out where pins live, and take over what an earlier daemon left attached.

        `only`: take over this interface and no other.
        """
        await self._net.open()
        self._root = bpffs.pin_root(self._folder)
        self._changes = Changes(self._on_change)
        for saved in state.load(self._folder):
            if only in ("", saved.name):
                await self._adopt(saved)

    async def stop_all(self) -> None:
        """Stop every interface, also when one of them fails."""
        for name in list(self._instances):
            try:
                await self.stop(name)
            except MimicError as error:
                log.error("%s: %s", name, error)
        await self._close()

    async def leave_all(self) -> None:
        """Leave everything attached for the next daemon."""
        for instance in self._instances.values():
            instance.leave()
            self._release(instance.link.ifindex)
        self._instances.clear()
        await self._close()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._changes is not None:
            self._changes.close()
        await self._net.close()
        if self._root is not None:
            bpffs.leave(self._root, self._folder)

    # --- core.manager.Manager ---

    async def run(self, interface: str, options: Options) -> None:
        """Attach to an interface; returns when traffic is disguised."""
        async with self._lock(interface):
            if interface in self._instances:
                raise AlreadyRunningError(
                    f"{interface} is running already",
                    f"`mimicctl reload` changes its filters, `mimicctl stop {interface}` ends it",
                )
            config = build_config(options)
            if not config.filters:
                raise InvalidConfigError(
                    f"no filter is given for {interface}, so no traffic would be disguised",
                    "give one, such as -f remote=203.0.113.5:51820",
                )
            link = await self._net.link(interface)
            _check_link(link, config)
            book = RuleBook({}).renumbered(await resolve(config.filters))
            self._claim(interface, link.ifindex)
            try:
                # Another process that left may have taken the empty folders with it.
                self._root = bpffs.pin_root(self._folder)
                if self._root is not None and link.ifindex in bpffs.pinned_interfaces(self._root):
                    link = await self._clear_leftovers(link)
                instance = await Instance.start(
                    self._net,
                    link,
                    config,
                    book,
                    self._root,
                    partial(self._log, interface, verbosity=config.verbosity),
                    self._tell_connection,
                )
            except BaseException:
                self._release(link.ifindex)
                raise
            self._add(instance, options)

    async def stop(self, interface: str) -> None:
        """Detach from an interface; returns when everything is as before `run`."""
        async with self._lock(interface):
            instance = self._running(interface)
            await self._remove(interface, instance.stop)

    async def reload(self, interface: str, options: Options) -> None:
        """Apply the difference between the running configuration and `options`."""
        async with self._lock(interface):
            instance = self._running(interface)
            config = build_config(options)
            if not config.filters:
                raise InvalidConfigError(
                    f"no filter is given for {interface}; nothing was changed",
                    f"`mimicctl stop {interface}` ends it",
                )
            book = instance.book.renumbered(await resolve(config.filters))
            await instance.reload(config, book)
            self._options[interface] = _plain(options)
            self._save(instance)
            view = instance.view()
            self._log(interface, INFO, f"reloaded: {len(book.filters)} filters")
            for listener in list(self._listeners):
                listener.interface_added(view)

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
        for listener in list(self._listeners):
            listener.interface_added(instance.view())

    async def connections(self, interface: str) -> AsyncIterator[Sequence[Connection]]:
        """The connections of one running interface, of all of them for "", in portions."""
        instances = [self._running(interface)] if interface else list(self._instances.values())
        for instance in instances:
            async for portion in instance.connections():
                yield portion

    def interfaces(self) -> list[InterfaceView]:
        """The running interfaces, with counters as of now."""
        return [instance.view() for instance in self._instances.values()]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` from now on; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # --- inside ---

    def _lock(self, interface: str) -> asyncio.Lock:
        return self._busy.setdefault(interface, asyncio.Lock())

    def _claim(self, interface: str, ifindex: int) -> None:
        """Raises AlreadyRunningError where another process serves the interface."""
        try:
            claim = state.claim(self._folder, ifindex)
        except OSError as error:
            self._log(interface, WARNING, f"cannot lock its state: {error}")
            return
        if claim is None:
            raise AlreadyRunningError(
                f"{interface} is running already, served by another mimicd",
                f"`mimicctl stop {interface}` ends it, or Ctrl-C where it runs in the foreground",
            )
        self._claims[ifindex] = claim

    def _release(self, ifindex: int) -> None:
        claim = self._claims.pop(ifindex, None)
        if claim is not None:
            claim.release()

    def _running(self, interface: str) -> Instance:
        instance = self._instances.get(interface)
        if instance is None:
            raise NotRunningError(
                f"{interface} is not running",
                f"start it with `mimicctl run -f FILTER {interface}`",
            )
        return instance

    def _add(self, instance: Instance, options: Options) -> None:
        name = instance.name
        self._instances[name] = instance
        self._options[name] = _plain(options)
        self._save(instance)
        view = instance.view()
        self._log(
            name,
            INFO,
            f"attached (XDP {view.xdp_mode}, {len(view.filters)} filters, datagrams up to"
            f" {view.max_payload} bytes)",
        )
        if instance.plane.without_xdp:
            self._log(name, INFO, f"received on TC, without XDP: {instance.plane.without_xdp}")
        if not instance.plane.pinned:
            self._log(
                name,
                WARNING,
                "no bpffs can be used: the disguise ends when this daemon does",
            )
        for listener in list(self._listeners):
            listener.interface_added(view)

    async def _remove(self, name: str, how: Callable[[], Awaitable[None]]) -> None:
        instance = self._instances.pop(name)
        self._options.pop(name, None)
        try:
            await how()
        finally:
            state.remove(self._folder, instance.link.ifindex)
            self._release(instance.link.ifindex)
            self._log(name, INFO, "stopped", verbosity=instance.config.verbosity)
            for listener in list(self._listeners):
                listener.interface_removed(name)

    def _save(self, instance: Instance) -> None:
        plane, config = instance.plane, instance.config
        saved = state.SavedInterface(
            name=instance.name,
            ifindex=instance.link.ifindex,
            link_type=plane.link_type,
            xdp_mode=plane.xdp_mode,
            made_clsact=plane.made_clsact,
            started_at=instance.started_at,
            options=config_texts(config),
            rules={
                str(number): format_filter(filter_, config.flow)
                for number, filter_ in instance.book.filters.items()
            },
        )
        try:
            state.save(self._folder, saved)
        except OSError as error:
            self._log(instance.name, WARNING, f"cannot save its state: {error}")

    async def _adopt(self, saved: state.SavedInterface) -> None:
        if self._root is None:
            return
        try:
            self._claim(saved.name, saved.ifindex)
        except AlreadyRunningError:
            return
        try:
            link = await self._net.link_by_index(saved.ifindex)
            config = build_config(saved.options)
            filters = {
                int(number): parse_filter(text, config.flow) for number, text in saved.rules.items()
            }
            plane = DataPlane.adopt(
                self._net, link, saved.link_type, saved.xdp_mode, saved.made_clsact, self._root
            )
            instance = await Instance.adopt(
                self._net,
                link,
                plane,
                config,
                RuleBook(filters),
                partial(self._log, link.name),
                self._tell_connection,
            )
        except (MimicError, OSError, ValueError) as error:
            log.warning("%s: cannot take over what is attached: %s", saved.name, error)
            await self._forget(saved)
            self._release(saved.ifindex)
            return
        instance.started_at = saved.started_at
        self._add(instance, saved.options)

    async def _forget(self, saved: state.SavedInterface) -> None:
        """What cannot be adopted is detached, so that it can be run again."""
        state.remove(self._folder, saved.ifindex)
        try:
            link = await self._net.link_by_index(saved.ifindex)
        except NoSuchInterfaceError:
            if self._root is not None:
                bpffs.remove_pins(self._root, saved.ifindex)
            return
        await self._clear_leftovers(link)
        if saved.made_clsact:
            await self._net.remove_clsact(link.ifindex)

    async def _clear_leftovers(self, link: Link) -> Link:
        """Detach what a predecessor left and nobody can take over; the link as it is then."""
        assert self._root is not None
        for parent in (EGRESS_PARENT, INGRESS_PARENT):
            await self._net.remove_filter(link.ifindex, parent)
        await remove_leftover(self._net, link.name, link.ifindex)
        remove_leftovers(self._root, link.ifindex)
        return await self._net.link_by_index(link.ifindex)

    def _on_change(self) -> None:
        task = asyncio.get_running_loop().create_task(self._refresh())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh(self) -> None:
        """Links or addresses changed: look at those that we serve."""
        for name in list(self._instances):
            async with self._lock(name):
                instance = self._instances.get(name)
                if instance is None:
                    continue
                try:
                    link = await self._net.link_by_index(instance.link.ifindex)
                except NoSuchInterfaceError:
                    self._log(name, WARNING, "the interface is gone")
                    await self._remove(name, instance.stop)
                    continue
                instance.refresh_link(link)
                await instance.refresh_addresses()
                for program in await instance.plane.repair(link):
                    self._log(name, WARNING, f"somebody removed {program}; it is back")

    def _log(
        self,
        interface: str,
        level: int,
        text: str,
        connection: str = "",
        *,
        verbosity: int | None = None,
    ) -> None:
        """`verbosity`: that of an interface which is not, or no longer, among those that run."""
        instance = self._instances.get(interface)
        if instance is not None:
            verbosity = instance.config.verbosity
        elif verbosity is None:
            verbosity = INFO
        if connection:
            text = f"{connection} :: {text}"
        logs.write(interface, level, text, verbosity, connection)
        if level > verbosity:
            return
        for listener in list(self._listeners):
            listener.log(interface, level, text)

    def _tell_connection(self, connection: Connection) -> None:
        for listener in list(self._listeners):
            listener.connection_changed(connection)


def _plain(options: Options) -> dict[str, str | list[str]]:
    return {key: value if isinstance(value, str) else list(value) for key, value in options.items()}


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
