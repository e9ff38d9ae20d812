# SPDX-License-Identifier: GPL-2.0-only
"""The programs without a network: BPF_PROG_TEST_RUN, one frame in, one frame out.

The runs happen in a namespace of their own, whose loopback stands for the interface: a test run's
skb claims to be of ifindex 1, and what a program clones really leaves there.
"""

import dataclasses
import enum
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from mimicd.core import abi
from mimicd.core.abi import ConnEntry, Event
from mimicd.core.filter_tables import NO_TABLES, build_tables
from mimicd.core.model import Filter, FlowSettings
from mimicd.kernel import compiler, dataplane
from mimicd.kernel.bpf import Map, possible_cpus
from mimicd.kernel.ring import Ring
from tests.bpf.packets import dissect
from tests.rig.conn_entry import encode_conn
from tests.rig.program_run import ProgramRun, run_once
from tests.rig.segment import decode_packet

LOOPBACK_IFINDEX = 1
RESEND_MARK, COMMAND_MARK, DELIVER_MARK = 0x5EAD1, 0xC0DE2, 0xDE113
COOKIE_KEY = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
MTU_BYTES = 1500
NS_PER_S = 1_000_000_000

_KEY = struct.Struct("=I")
_HALF_OPEN_BYTES = 24
_HELD = [abi.COUNTERS.index(name) for name in ("held", "drop-ring-full")]
_WINDOW_UPDATE = abi.COUNTERS.index("tx-window-update")
_TICK_OFFSET, _RST_AT_OFFSET = 48, 64  # of tick_jiffies and rst_at_ns in struct config
# struct __sk_buff up to gso_size: only mark (at 8) and gso_size (at 176) may be set here
_CONTEXT = struct.Struct("=8xI164xI12x")
_NOTE = struct.Struct("=IIIHBB12s")  # struct reply_note: magic seq ack window flags payload options
_ETH_P_ALL, _PACKET_IGNORE_OUTGOING, _SOL_PACKET = 3, 23, 263


class Departure(enum.IntEnum):
    """What TC egress returns (linux/pkt_cls.h); a redirection to nowhere is HELD or TAKEN here."""

    SENT = 0xFFFFFFFF
    DROPPED = 2
    HELD = 4
    TAKEN = 5
    """From user space, and counted: no error for whoever sent it."""
    REDIRECTED = 7


class Arrival(enum.Enum):
    """What became of a received frame."""

    DROPPED = "dropped"
    PASSED = "passed"
    """To the host, touched or not."""
    DELIVERED_AND_ANSWERED = "delivered and answered"
    ANSWERED = "answered"
    """The frame itself turns back."""


@dataclass(frozen=True, slots=True)
class Note:
    """The segment to send beside a delivered datagram."""

    seq: int
    ack: int
    window: int
    flags: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame that has been received, and if it is delivered and answered, the answer."""

    kind: Arrival
    frame: bytes
    note: Note | None


def now_ns() -> int:
    """The programs' clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Plane:
    """Programs and maps of one build. `reset` makes it as new."""

    def __init__(
        self, fds: dict[str, int], inside: ThreadPoolExecutor, on_xdp: bool, link_bytes: int
    ) -> None:
        """`inside`: its thread is in the namespace. `on_xdp`: where it receives."""
        self._link_bytes = link_bytes
        self.fds = fds
        self._inside = inside
        self._on_xdp = on_xdp
        sizes = dict(dataplane._KEY_AND_VALUE_BYTES)
        sizes["counters"] = (4, 8 * possible_cpus())
        sizes["half_opens"] = (abi.FLOW_KEY.size, _HALF_OPEN_BYTES)
        self.maps = {name: Map(fds[name], *size) for name, size in sizes.items()}
        self._ring = Ring(fds["ring"], dataplane.RING_BYTES)
        self._clones = inside.submit(_listen).result()
        self._counted = [0] * len(abi.COUNTERS)
        self.fresh_tick = True
        """Each run reads the clock; off: once in a jiffy, as it is with packets."""
        self._filters: dict[int, Filter] = {}
        self._tables = NO_TABLES

    def close(self) -> None:
        self._ring.close()
        self._clones.close()
        for fd in self.fds.values():
            os.close(fd)

    # Maps.

    def reset(self, mtu_bytes: int = MTU_BYTES) -> None:
        """No filter, no connection, nothing counted."""
        for name in ("conns", "half_opens", "filters"):
            for key in self.maps[name].all_keys():
                self.maps[name].delete(key)
        self._tables = NO_TABLES
        self.fresh_tick = True
        self.set_filters({})
        self.configure(mtu_bytes)
        self.events()
        self.counted()
        self.forget_clones()

    def configure(self, mtu_bytes: int = MTU_BYTES, hop_ifindex: int = 0, flags: int = 0) -> None:
        """The interface as the programs see it; forgets when the last RST was sent."""
        config = abi.Config(
            ifindex=LOOPBACK_IFINDEX,
            hop_ifindex=hop_ifindex,
            mtu_bytes=mtu_bytes,
            flags=flags,
            resend_mark=RESEND_MARK,
            command_mark=COMMAND_MARK,
            deliver_mark=DELIVER_MARK,
            cookie_key=COOKIE_KEY,
        )
        self.maps["config"].update(_KEY.pack(0), config.encode())

    def allow_reset(self) -> None:
        """Forget when a stray segment was last answered."""
        self.set_reset_at(0)

    def reset_at(self) -> int:
        """When a stray segment was last answered by RST; 0 is never."""
        raw = self.maps["config"].lookup(_KEY.pack(0)) or b""
        return int.from_bytes(raw[_RST_AT_OFFSET : _RST_AT_OFFSET + 8], sys.byteorder)

    def set_reset_at(self, at_ns: int) -> None:
        self._set_config(_RST_AT_OFFSET, at_ns)

    def _set_config(self, offset: int, value: int) -> None:
        raw = self.maps["config"].lookup(_KEY.pack(0)) or b""
        changed = raw[:offset] + value.to_bytes(8, sys.byteorder) + raw[offset + 8 :]
        self.maps["config"].update(_KEY.pack(0), changed)

    def add_filter(self, filter_: Filter) -> int:
        """The number of its rule."""
        number = len(self._filters) + 1
        self.set_filters({**self._filters, number: filter_})
        return number

    def set_filters(
        self, filters: Mapping[int, Filter], own: Iterable[IPv4Address | IPv6Address] = ()
    ) -> None:
        """As the daemon does, for an interface with the addresses `own`."""
        for number, filter_ in filters.items():
            self.set_rule(number, filter_.settings)
        self._filters = dict(filters)
        before, self._tables = self._tables, build_tables(filters, own, self._tables)
        for key in before.entries.keys() - self._tables.entries.keys():
            self.maps["filters"].delete(key)
        for key, value in self._tables.entries.items():
            self.maps["filters"].update(key, value)
        self.maps["ports"].update(_KEY.pack(0), self._tables.encode_ports())

    def set_rule(self, number: int, settings: FlowSettings) -> None:
        self.maps["rules"].update(_KEY.pack(number), abi.encode_rule(settings))

    def entry(self, key: bytes) -> ConnEntry | None:
        raw = self.maps["conns"].lookup(key)
        return abi.decode_conn(raw) if raw else None

    def change(self, key: bytes, **changes: object) -> None:
        """Set fields of an entry: what would take time, or gigabytes, to come about."""
        entry = self.entry(key)
        assert entry is not None
        self.put(key, dataclasses.replace(entry, **changes))  # type: ignore[arg-type]

    def put(self, key: bytes, entry: ConnEntry) -> None:
        """Write an entry whole."""
        self.maps["conns"].update(key, encode_conn(entry))

    def counted(self) -> dict[str, int]:
        """What the counters have risen by since the last call."""
        counts = [self._count(index) for index in range(len(abi.COUNTERS))]
        before, self._counted = self._counted, counts
        rises = zip(abi.COUNTERS, counts, before, strict=True)
        return {name: now - then for name, now, then in rises if now != then}

    def _count(self, index: int) -> int:
        raw = self.maps["counters"].lookup(_KEY.pack(index)) or b""
        return sum(struct.unpack(f"={len(raw) // 8}Q", raw))

    def events(self) -> list[Event]:
        """What was told since the last call."""
        return [abi.decode_event(raw) for raw in self._ring.read(1 << 20)]

    # Programs.

    def egress(self, frame: bytes, mark: int = 0, gso_bytes: int = 0) -> ProgramRun:
        """One frame out; its result is a Departure."""
        before = sum(map(self._count, _HELD))
        run = self._run(compiler.EGRESS, frame, _CONTEXT.pack(mark, gso_bytes))
        if run.result == Departure.REDIRECTED and sum(map(self._count, _HELD)) != before:
            return dataclasses.replace(run, result=Departure.HELD)
        if run.result == Departure.REDIRECTED and mark in (RESEND_MARK, COMMAND_MARK):
            return dataclasses.replace(run, result=Departure.TAKEN)
        return run

    def reply(self, frame: bytes, mark: int = 0) -> ProgramRun:
        """One frame that XDP has passed."""
        return self._run(compiler.REPLY, frame, _CONTEXT.pack(mark, 0))

    def ingress(self, frame: bytes) -> Arrived:
        """One frame in."""
        if not self._on_xdp:
            return self._ingress_on_tc(frame)
        run = self._run(compiler.INGRESS, frame, b"")
        if run.result == 1:
            return Arrived(Arrival.DROPPED, run.data, None)
        assert run.result == 2, f"XDP returned {run.result}"
        magic, *numbers = _NOTE.unpack_from(run.data.ljust(_NOTE.size, b"\0"))
        frame = run.data[_NOTE.size :]
        match magic ^ DELIVER_MARK:
            case 0x6D6D0001:
                return Arrived(Arrival.ANSWERED, frame, None)
            case 0x6D6D0002:
                return Arrived(Arrival.DELIVERED_AND_ANSWERED, frame, Note(*numbers[:4]))
            case 0x6D6D0003:  # the frame had no room for the options of a SYN
                return Arrived(Arrival.ANSWERED, frame + numbers[5], None)
            case _:
                return Arrived(Arrival.PASSED, run.data, None)

    def _ingress_on_tc(self, frame: bytes) -> Arrived:
        updates = self._count(_WINDOW_UPDATE)
        self.forget_clones()
        run = self._run(compiler.INGRESS, frame, _CONTEXT.pack(0, 0))
        match Departure(run.result):
            case Departure.SENT:
                return Arrived(Arrival.PASSED, self._delivered(run.data, frame), None)
            case Departure.DROPPED:
                return Arrived(Arrival.DROPPED, run.data, None)
            case Departure.REDIRECTED if self._count(_WINDOW_UPDATE) == updates:
                return Arrived(Arrival.ANSWERED, run.data, None)
            case Departure.REDIRECTED:
                answer = decode_packet(run.data[14:])
                assert answer is not None
                assert answer.checksum_right
                note = Note(answer.seq, answer.ack, answer.window, answer.flags)
                delivered = self._delivered(self.clone(), frame)
                return Arrived(Arrival.DELIVERED_AND_ANSWERED, delivered, note)
            case other:
                raise AssertionError(f"TC ingress returned {other.name}")

    def _delivered(self, after: bytes, before: bytes) -> bytes:
        """As the IP layer takes it: behind what was rewritten stands a tail that it trims."""
        if after == before or self._is_icmp(before):
            return after
        assert len(after) == len(before) or self._options_of(before)
        return after[: len(after) - len(dissect(after, self._link_bytes).trailer)]

    def _is_icmp(self, frame: bytes) -> bool:
        is_v4 = frame[self._link_bytes] >> 4 == 4
        return frame[self._link_bytes + (9 if is_v4 else 6)] == (1 if is_v4 else 58)

    def _options_of(self, frame: bytes) -> bool:
        """Whether its TCP header has options, which are cut out."""
        return dissect(frame, self._link_bytes).transport[12] >> 4 > 5

    def _run(self, program: str, frame: bytes, context: bytes) -> ProgramRun:
        if self.fresh_tick:
            self._set_config(_TICK_OFFSET, 0)
        return self._inside.submit(run_once, self.fds[program], frame, context).result()

    def clone(self) -> bytes:
        """The next frame that was sent, or delivered, as a clone."""
        return self._clones.recv(65536)

    def forget_clones(self) -> None:
        """Those that nobody asked for."""
        while select.select([self._clones], [], [], 0)[0]:
            self._clones.recv(65536)


def _listen() -> socket.socket:
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    packet.bind(("lo", _ETH_P_ALL))
    packet.settimeout(5)
    return packet


@dataclass(frozen=True, slots=True)
class Build:
    """What the programs are compiled for."""

    link_bytes: int = 14
    with_btf: bool = True
    """Without it every checksum is computed whole, as for unfinished ones."""
    receive_on: str = "xdp"
    old_adjust_room: bool = False
    """As kernels before 6.2 need it."""

    def compile(self, inside: ThreadPoolExecutor, cache: Path) -> Plane:
        """`cache`: the folder for what is compiled."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CACHE_DIRECTORY", str(cache))
            if not self.with_btf:
                patch.setenv("MIMICD_NO_BTF", "1")
            if self.old_adjust_room:
                patch.setenv("MIMICD_OLD_ADJUST_ROOM", "1")
            fds = compiler.compile_programs(self.link_bytes, self.receive_on)
        return Plane(fds, inside, self.receive_on == "xdp", self.link_bytes)
