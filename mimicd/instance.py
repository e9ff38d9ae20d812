# SPDX-License-Identifier: GPL-2.0-only
"""One interface: kernel events go through the core and come back as actions on the kernel."""

import asyncio
import logging
import secrets
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mimicd.audience import Audience
from mimicd.beat import at_next
from mimicd.core import abi
from mimicd.core.abi import (
    ConnEntry,
    Event,
    EventType,
    Reason,
    TracedSegment,
)
from mimicd.core.connection import Connection, InterfaceView, State
from mimicd.core.filter_tables import Address
from mimicd.core.flows import Flows, stop_commands
from mimicd.core.line_budget import LineBudget
from mimicd.core.model import Filter, InterfaceConfig
from mimicd.core.notes import CHANGES, connection_of
from mimicd.core.part import WHOLE, Part
from mimicd.core.preflight import largest_payload
from mimicd.core.rules import RuleBook
from mimicd.core.settings import show_filter, shown_texts
from mimicd.core.shortages import RING_FULL, Shortages
from mimicd.kernel.dataplane import RING_BYTES, DataPlane, index_key
from mimicd.kernel.netlink import Link, Netlink
from mimicd.kernel.ring import Ring
from mimicd.logs import DEBUG, INFO, TRACE, WARNING, shifted
from mimicd.outlet import Outlet
from mimicd.rule_maps import RuleMaps
from mimicd.trace import Trace

log = logging.getLogger(__name__)

_NS = 1_000_000_000
_EVENTS_AT_ONCE = 64
# A look may send a frame, which takes some 70 us, and all of these may have their turn at once.
_LOOKS_AT_ONCE = 64
_HOUSEKEEPING_S = 1.0
_ENTRIES_AT_ONCE = 256
_PASSED_PER_ENTRY = 8  # an entry that is not wanted takes less than so much of one that is
_FAILURES = {
    Reason.NO_ANSWER,
    Reason.KEEPALIVE,
    Reason.RESET_BY_PEER,
    Reason.CLOSED_BY_PEER,
}


def now_ns() -> int:
    """The clock of the maps; it counts on while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Instance:
    """Owns one interface's data path from `start` or `adopt` to `stop` or `leave`."""

    def __init__(
        self,
        link: Link,
        plane: DataPlane,
        config: InterfaceConfig,
        book: RuleBook,
        net: Netlink,
        tell: Audience,
    ) -> None:
        self.link = link
        self.plane = plane
        self.config = config
        self.book = book
        self.started_at = time.time()
        self.on_failure: Callable[[Filter], None] = lambda filter_: None
        """Told the filter of a connection that its peer does not answer, or ended."""
        self.guarded: Callable[[], int] = lambda: 0
        """How many datagrams the guard of its strict filters has dropped."""
        self._net = net
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._rules = book.settings
        self._flows = Flows(self._rules)
        self._maps = RuleMaps(plane)
        self._own: frozenset[Address] | None = None
        self._outlet = Outlet(plane.conns)
        self._ring: Ring | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._housekeeping: asyncio.TimerHandle | None = None
        self._shortages: Shortages | None = None
        self.trouble = ""
        """What could not be put back, so that it is told once."""
        self._rescans: asyncio.Task[None] | None = None
        self._rescan_for: bool | None = None
        """None where no other look at all connections is wanted; else whether events were lost."""
        self._lines = LineBudget()
        self._trace = Trace(plane, self._tell_segment, self._tell_untold)

    @property
    def name(self) -> str:
        """The interface's name as it was at the last look."""
        return self.link.name

    # --- life ---

    @classmethod
    async def start(
        cls,
        net: Netlink,
        link: Link,
        config: InterfaceConfig,
        book: RuleBook,
        root: Path | None,
        tell: Audience,
    ) -> "Instance":
        """Attach to an interface. Raises MimicError; then nothing is left attached."""
        link_type = link.link_type if config.link_type == "auto" else config.link_type
        plane = await DataPlane.load(net, link, link_type, config.xdp_mode, root)
        instance = cls(link, plane, config, book, net, tell)
        try:
            marks = _distinct_marks()
            kernel_config = abi.Config(
                ifindex=link.ifindex,
                hop_ifindex=0,
                mtu_bytes=link.mtu_bytes,
                flags=0,
                resend_mark=marks[0],
                command_mark=marks[1],
                deliver_mark=marks[2],
                cookie_key=(secrets.randbits(64), secrets.randbits(64)),
            )
            plane.config.update(index_key(0), kernel_config.encode())
            await instance._apply(config, book)
            # Listening before anything is attached: no event is missed.
            instance._open(kernel_config)
            await plane.attach(link)
        except BaseException:
            instance._close()
            await plane.detach()
            raise
        return instance

    @classmethod
    async def adopt(
        cls,
        net: Netlink,
        link: Link,
        plane: DataPlane,
        config: InterfaceConfig,
        book: RuleBook,
        tell: Audience,
    ) -> "Instance":
        """Go on with what an earlier process attached. Raises MimicError or OSError."""
        instance = cls(link, plane, config, book, net, tell)
        try:
            raw = plane.config.lookup(index_key(0))
            kernel_config = abi.decode_config(raw or b"")
            instance._maps.read()
            await instance._apply(config, book)
            instance._open(kernel_config)
            await instance._rescan()
            await instance._disown_held()
        except BaseException:
            instance._close()
            raise
        return instance

    def _open(self, kernel_config: abi.Config) -> None:
        self._outlet.open(self.link, self.plane.link_type, kernel_config)
        self._ring = Ring(self.plane.ring_fd, RING_BYTES)
        self._shortages = Shortages(self.plane.counter)
        self._loop.add_reader(self.plane.ring_fd, self._read_ring)
        self._housekeeping = at_next(self._loop, _HOUSEKEEPING_S, self._keep_house)
        self._switch_trace()

    def _close(self) -> None:
        self._trace.close()
        for timer in (self._timer, self._housekeeping):
            if timer is not None:
                timer.cancel()
        self._timer = self._housekeeping = None
        if self._rescans is not None:
            self._rescans.cancel()
        if self._ring is not None:
            self._loop.remove_reader(self.plane.ring_fd)
            self._ring.close()
            self._ring = None
        self._outlet.close()

    async def stop(self) -> None:
        """RST to every peer, then everything is detached."""
        try:
            async for entries in self._entries(at_once=_LOOKS_AT_ONCE):
                for command in stop_commands(entries):
                    self._outlet.act(command, entries[command.key])
        finally:
            self._trace.switch(False)
            self._close()
            await self.plane.detach()

    def leave(self) -> None:
        """Close what is this process's; what is pinned goes on."""
        self._trace.switch(False)
        self._close()
        self.plane.leave()

    def _log(self, level: int, text: str, connection: str = "") -> None:
        self._tell.log(self.name, level, text, connection, verbosity=self.config.verbosity)

    # --- configuration ---

    async def reload(self, config: InterfaceConfig, book: RuleBook) -> None:
        """Other filters and settings; connections whose filter stays are not touched.

        Raises InvalidConfigError, and then nothing was changed.
        """
        old = set(self.book.filters)
        await self._apply(config, book)
        self._switch_trace()
        gone = old - set(book.filters)
        if gone:
            await self._drop_connections_of(gone)
        self._rescan_soon()

    async def rules_in_use(self) -> set[int]:
        """Numbers of the rules that an established connection uses."""
        found: set[int] = set()
        async for entries in self._entries():
            found.update(one.rule for one in entries.values() if one.state is State.ESTABLISHED)
        return found

    def set_verbosity(self, verbosity: int) -> None:
        """How much is said, 0 (error) to 4 (trace)."""
        self.config = replace(self.config, verbosity=verbosity)
        self._switch_trace()

    def _switch_trace(self) -> None:
        """Segments are told where anybody would see it: on the bus, or in the daemon's log."""
        verbosity = self.config.verbosity
        self._trace.switch(max(verbosity, shifted(verbosity)) >= TRACE)

    async def _apply(self, config: InterfaceConfig, book: RuleBook) -> None:
        own = frozenset(await self._net.addresses(self.link.ifindex))
        self._maps.write(book, own)
        self.config, self.book, self._own = config, book, own
        self._rules.clear()
        self._rules.update(book.settings)

    async def refresh_addresses(self) -> None:
        """Wildcards follow the interface's addresses."""
        own = frozenset(await self._net.addresses(self.link.ifindex))
        if own != self._own:
            self._maps.write(self.book, own)
            self._own = own

    def refresh_link(self, link: Link) -> None:
        """The interface was renamed, or has another MTU."""
        if link.mtu_bytes != self.link.mtu_bytes:
            self.plane.set_mtu(link.mtu_bytes)
        self.link = link

    async def _drop_connections_of(self, numbers: set[int]) -> None:
        async for entries in self._entries(at_once=_LOOKS_AT_ONCE):
            mine = {key: entry for key, entry in entries.items() if entry.rule in numbers}
            for command in stop_commands(mine):
                self._outlet.act(command, mine[command.key])
            for key in mine:
                self.plane.conns.delete(key)
                self._flows.forget(key)

    # --- events and timers ---

    def _read_ring(self) -> bool:
        """Whether there may be more."""
        assert self._ring is not None
        events = []
        for raw in self._ring.read(_EVENTS_AT_ONCE):
            try:
                events.append(abi.decode_event(raw))
            except (ValueError, struct.error):
                log.exception("%s: a record of the ring buffer is not understood", self.name)
        self._on_events(events)
        self._set_timer()
        return len(events) == _EVENTS_AT_ONCE

    def _on_events(self, events: Sequence[Event]) -> None:
        """What was held leaves first: to tell takes longer, and later datagrams wait."""
        for event in events:
            for action in self._flows.on_event(event):
                self._outlet.act(action)
        for action in self._flows.drained():
            self._outlet.act(action)
        for event in events:
            if event.reason:
                self._tell_change(event)

    def _tell_change(self, event: Event) -> None:
        raw = self.plane.conns.lookup(event.key)
        local, remote = abi.flow_texts(event.key)
        opening = event.reason in (Reason.OPENED, Reason.CROSSED)
        if opening or self._lines.take():
            level = DEBUG if opening else INFO
            self._log(level, CHANGES[event.reason], connection=f"{local} => {remote}")
        if raw is None:
            return
        entry = abi.decode_conn(raw)
        self._tell.connection(self._view_of(event.key, entry, now_ns()))
        if event.reason in _FAILURES and entry.rule in self.book.filters:
            self.on_failure(self.book.filters[entry.rule])

    def _tell_segment(self, segment: TracedSegment) -> None:
        local, remote = abi.flow_texts(segment.key)
        self._log(TRACE, segment.text(), connection=f"{local} => {remote}")

    def _tell_untold(self, count: int) -> None:
        self._log(WARNING, f"{count} segments are not told: they came faster than lines can go")

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_ns = self._flows.next_deadline_ns()
        if at_ns is not None:
            delay_s = max(0.0, (at_ns - now_ns()) / _NS)
            self._timer = self._loop.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for key in self._flows.due(now_ns(), _LOOKS_AT_ONCE):
            raw = self.plane.conns.lookup(key)
            entry = abi.decode_conn(raw) if raw else None
            for action in self._flows.examine(key, entry, now_ns()):
                self._outlet.act(action, entry)
        self._set_timer()

    def _keep_house(self) -> None:
        self._housekeeping = at_next(self._loop, _HOUSEKEEPING_S, self._keep_house)
        due_ns = self._flows.next_deadline_ns()
        if due_ns is not None and due_ns <= now_ns():
            # The loop's clock stood still while the machine was suspended, deadlines did not.
            self._set_timer()
        assert self._shortages is not None
        risen, sentences = self._shortages.news(now_ns())
        for sentence in sentences:
            self._log(WARNING, sentence)
        if RING_FULL in risen:
            self._rescan_soon(after_loss=True)
        self._trace.tell_lost()
        if untold := self._lines.renew():
            self._log(WARNING, f"{untold} more connections came up or ended than lines can tell")
        if failures := self._outlet.take_failures():
            self._log(WARNING, f"{failures} frames of our own could not be sent")

    def _rescan_soon(self, after_loss: bool = False) -> None:
        """Beside everything else: of tens of thousands of connections it takes seconds.

        One at a time, or a ring buffer that stays full would add one each second.
        """
        self._rescan_for = after_loss or bool(self._rescan_for)
        if self._rescans is None or self._rescans.done():
            self._rescans = self._loop.create_task(self._rescan_while_wanted())

    async def _rescan_while_wanted(self) -> None:
        while self._rescan_for is not None:
            after_loss, self._rescan_for = self._rescan_for, None
            await self._rescan(after_loss)

    async def _rescan(self, after_loss: bool = False) -> None:
        """Look at every connection: after adopting, and where events were lost."""
        async for entries in self._entries(at_once=_LOOKS_AT_ONCE):
            for key, entry in entries.items():
                if after_loss:
                    self._on_events([_event_of(key, entry)])
                for action in self._flows.examine(key, entry, now_ns()):
                    self._outlet.act(action, entry)
        self._set_timer()

    async def _disown_held(self) -> None:
        """After adopting: what only the earlier process had is given up, and counted."""
        async for entries in self._entries(at_once=_LOOKS_AT_ONCE):
            for key in [key for key, entry in entries.items() if entry.held_now]:
                while self._read_ring():
                    pass  # so that what was read and what is looked up next belong together
                raw = self.plane.conns.lookup(key)
                if raw is not None:
                    for action in self._flows.disown(key, abi.decode_conn(raw)):
                        self._outlet.act(action)
        self._on_events([])  # no event, but what was waited for may have been all

    # --- looking ---

    async def _entries(
        self, part: Part = WHOLE, at_once: int = _ENTRIES_AT_ONCE
    ) -> AsyncIterator[dict[bytes, ConnEntry]]:
        """All connections, or a part of them, in portions between which the loop goes on."""
        portion: dict[bytes, ConnEntry] = {}
        passed = 0
        for key, raw in self.plane.conns.items():
            if part.has(key):
                portion[key] = abi.decode_conn(raw)
            else:
                passed += 1
            if len(portion) + passed // _PASSED_PER_ENTRY >= at_once:
                yield portion
                portion, passed = {}, 0
                await asyncio.sleep(0)
        if portion:
            yield portion

    def _view_of(self, key: bytes, entry: ConnEntry, now: int) -> Connection:
        return connection_of(key, entry, self.book.text(entry.rule), self.name, now)

    def count_connections(self) -> int:
        """About: those that the kernel has told of."""
        return len(self._flows)

    async def connections(self, part: Part = WHOLE) -> AsyncIterator[list[Connection]]:
        """A snapshot of all of them, or of a part, in portions."""
        async for entries in self._entries(part):
            now = now_ns()
            yield [self._view_of(key, entry, now) for key, entry in entries.items()]

    def view(self) -> InterfaceView:
        """A snapshot of the interface."""
        return InterfaceView(
            name=self.name,
            ifindex=self.link.ifindex,
            link_type=self.plane.link_type,
            xdp_mode=self.plane.xdp_mode,
            state="running",
            filters=tuple(
                show_filter(found, self.config.flow)
                for _, found in sorted(self.book.filters.items())
            ),
            settings=shown_texts(self.config),
            counters=self.counters(),
            max_payload=self.max_payload(),
            started_at=self.started_at,
        )

    def counters(self) -> dict[str, int]:
        """Those that are not zero."""
        values = dict(zip(abi.COUNTERS, self.plane.count(), strict=True))
        values["drop-plain"] += self.guarded()
        return {name: value for name, value in values.items() if value}

    def max_payload(self) -> int:
        """The largest datagram that fits the MTU of every filter, in bytes."""
        return largest_payload(self.link.mtu_bytes, self.book.filters.values())


def _distinct_marks() -> list[int]:
    marks: set[int] = set()
    while len(marks) < 3:
        marks.add(secrets.randbits(31) | 1)  # SO_MARK is set as a signed number
    return list(marks)


def _event_of(key: bytes, entry: ConnEntry) -> Event:
    """What the kernel would have told, had there been room."""
    return Event(
        EventType.STATE,
        now_ns(),
        key,
        entry.generation,
        entry.state,
        entry.role,
        Reason.NONE,
        False,
        0,
        b"",
    )
