# SPDX-License-Identifier: GPL-2.0-only
"""The BPF programs and maps of one interface, attached; detaching mirrors attaching.

Pinned, they outlive the process that attached them, and `DataPlane.adopt` finds them again.
"""

import asyncio
import contextlib
import logging
import os
import sys
from array import array
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from mimicd.core.abi import COUNTERS, ConfigFlag, decode_config
from mimicd.core.errors import AttachError, XdpBusyError
from mimicd.kernel import bpf, bpffs, compiler, hooks, netlink
from mimicd.kernel.bpf import Map
from mimicd.kernel.hop import make_hop
from mimicd.kernel.netlink import Link, Netlink

log = logging.getLogger(__name__)

_KEY_AND_VALUE_BYTES = {
    "config": (4, 72),
    "rules": (4, 16),
    "ports": (4, 262144),
    "filters": (24, 8),
    "conns": (36, 216),
    "counters": (4, 8),
}
RING_BYTES = 4 << 20
TRACE_RING_BYTES = 256 << 10
# XDP on veth copies every frame; measured, a flood is a fifth faster without it.
_BETTER_WITHOUT_XDP = {"veth"}
# words of struct config
_HOP_IFINDEX, _MTU, _FLAGS = 5, 6, 7
_LINK_BYTES = {"eth": 14, "none": 0}


def index_key(number: int) -> bytes:
    """The key of an array map."""
    return number.to_bytes(4, sys.byteorder)


@dataclass(slots=True)
class DataPlane:
    """What is attached to one interface. Its maps are the way to talk to it."""

    ifindex: int
    link_type: str
    xdp_mode: str
    """ "native" or "skb", or "none": received on TC ingress."""
    without_xdp: str
    """Why XDP is not used though it was not refused, in words, or ""."""
    adopted: bool
    """Whether it was there before this process."""
    pinned: bool
    made_clsact: bool
    config: Map
    rules: Map
    filters: Map
    conns: Map
    counters: Map
    ring_fd: int
    trace_fd: int
    hop_ifindex: int
    """Near end of the hop; 0: superpackets are dropped."""
    _fds: dict[str, int]
    _root: Path | None
    _netlink: Netlink
    _attached: AsyncExitStack

    @classmethod
    async def load(
        cls, net: Netlink, link: Link, link_type: str, xdp_mode: str, root: Path | None
    ) -> "DataPlane":
        """Compile and load; nothing is attached yet, and the maps are empty.

        `xdp_mode`: "auto", "native", "skb" or "none". Raises MissingDependencyError or
        AttachError.
        """
        why = ""
        if xdp_mode == "auto" and link.kind in _BETTER_WITHOUT_XDP:
            xdp_mode = "none"
        elif xdp_mode != "none" and link_type == "none":
            # generic XDP takes the first 14 bytes for an Ethernet header
            xdp_mode, why = "none", "packets have no link header"
        elif xdp_mode == "auto" and link.xdp_program_id:
            xdp_mode, why = "none", f"{hooks.xdp_owner(link)} is there"
        elif xdp_mode != "none" and link.xdp_program_id:
            raise hooks.xdp_busy(link)
        fds: dict[str, int] = {}
        if xdp_mode == "auto":
            try:
                # before 5.18 the kernel lacks helpers that the XDP program calls
                fds = await _compile(link_type, xdp_mode)
                # the maps are empty, so it lets everything pass until the rest is attached
                xdp_mode = hooks.attach_xdp(fds, link, "native")
            except AttachError as error:
                _close_all(fds)
                xdp_mode, why = "none", str(error)
        fds = fds or await _compile(link_type, xdp_mode)
        plane = cls._of(link.ifindex, link_type, xdp_mode, fds, net, root)
        plane.without_xdp = why
        plane._attached.callback(_close_all, fds)
        if hooks.XDP_LINK in fds:
            plane._attached.callback(plane._detach_xdp)
        return plane

    async def attach(self, link: Link) -> None:
        """Attach to the interface. The maps must hold config, rules and filters by now.

        Raises AttachError; what was attached is detached by `detach`, however far this came.
        """
        stack, net, ifindex = self._attached, self._netlink, self.ifindex
        if self._root is not None:
            # what an incomplete predecessor left could only mislead a successor
            bpffs.remove_pins(self._root, ifindex)
            stack.callback(bpffs.remove_pins, self._root, ifindex)
        if self.xdp_mode != "none" and hooks.XDP_LINK not in self._fds:
            try:
                self.xdp_mode = hooks.attach_xdp(self._fds, link, self.xdp_mode)
            except XdpBusyError:
                # It came since the link was looked at: look again, to name it.
                raise hooks.xdp_busy(await net.link_by_index(ifindex)) from None
            stack.callback(self._detach_xdp)
        if self.xdp_mode == "skb":
            # generic XDP that shortens a frame leaves the skb's tail too far behind by the length
            # of the link header (6.18), and TCP inside a tunnel would append to it there
            self.set_flag(ConfigFlag.KEEP_TAIL, True)
        stack.push_async_callback(self._remove_clsact)
        for parent, program in self._programs():
            stack.push_async_callback(hooks.detach_tc, net, self._fds, ifindex, parent)
            self.made_clsact |= await hooks.attach_tc(net, self._fds, ifindex, parent, program)
        stack.push_async_callback(self._remove_hop)
        await self._make_hop(link)
        if self._root is not None:
            self.pinned = _pin_all(self._fds, bpffs.pin_folder(self._root, ifindex))

    @classmethod
    def adopt(
        cls,
        net: Netlink,
        link: Link,
        link_type: str,
        xdp_mode: str,
        made_clsact: bool,
        root: Path,
    ) -> "DataPlane":
        """Take over what an earlier process pinned.

        Raises OSError where it is not complete, AttachError where its maps have another layout.
        """
        folder = bpffs.pin_folder(root, link.ifindex)
        found = bpffs.pinned_versions(root, link.ifindex)
        if found and folder.name not in found:
            raise AttachError(
                f"its maps have layout {', '.join(found)}, this mimicd knows {folder.name}"
            )
        fds: dict[str, int] = {}
        try:
            for name in (*compiler.MAPS, *_pinned_programs(xdp_mode)):
                fds[name] = bpf.open_pin(folder / name)
            for name in hooks.LINKS - fds.keys():
                with contextlib.suppress(FileNotFoundError):
                    fds[name] = bpf.open_pin(folder / name)
            _check_layout(fds)
        except (OSError, AttachError):
            _close_all(fds)
            raise
        plane = cls._of(link.ifindex, link_type, xdp_mode, fds, net, root)
        plane.adopted = plane.pinned = True
        plane.made_clsact = made_clsact
        stack = plane._attached
        stack.callback(_close_all, fds)
        stack.callback(bpffs.remove_pins, root, link.ifindex)
        if hooks.XDP_LINK in fds:
            stack.callback(plane._detach_xdp)
        stack.push_async_callback(plane._remove_clsact)
        for parent, _ in plane._programs():
            stack.push_async_callback(hooks.detach_tc, net, fds, link.ifindex, parent)
        plane.hop_ifindex = decode_config(plane.config.lookup(index_key(0)) or b"").hop_ifindex
        stack.push_async_callback(plane._remove_hop)
        return plane

    @classmethod
    def _of(
        cls,
        ifindex: int,
        link_type: str,
        xdp_mode: str,
        fds: dict[str, int],
        net: Netlink,
        root: Path | None,
    ) -> "DataPlane":
        sizes = dict(_KEY_AND_VALUE_BYTES)
        # a look-up in a per-CPU map gives the values of all of them
        sizes["counters"] = (4, 8 * bpf.possible_cpus())
        maps = {name: Map(fds[name], *sizes[name]) for name in sizes if name != "ports"}
        return cls(
            ifindex=ifindex,
            link_type=link_type,
            xdp_mode=xdp_mode,
            without_xdp="",
            adopted=False,
            pinned=False,
            made_clsact=False,
            ring_fd=fds["ring"],
            trace_fd=fds["traces"],
            hop_ifindex=0,
            _fds=fds,
            _root=root,
            _netlink=net,
            _attached=AsyncExitStack(),
            **maps,
        )

    @property
    def ports(self) -> Map:
        """Made where it is asked for: room for its one value is a quarter of a megabyte."""
        return Map(self._fds["ports"], *_KEY_AND_VALUE_BYTES["ports"])

    def _programs(self) -> list[tuple[int, str]]:
        """TC parent, that is, direction, and program."""
        received = compiler.INGRESS if self.xdp_mode == "none" else compiler.REPLY
        return [(netlink.EGRESS_PARENT, compiler.EGRESS), (netlink.INGRESS_PARENT, received)]

    async def _make_hop(self, link: Link) -> None:
        """A kernel without veth still serves senders that make no superpackets."""
        net = self._netlink
        try:
            near, far = await make_hop(net, link.name, link.ifindex)
        except (AttachError, OSError) as error:
            log.warning("%s: no hop, superpackets will be dropped: %s", link.name, error)
            return
        self._set_hop(near)
        await net.add_clsact(far)
        parent = netlink.INGRESS_PARENT
        await net.add_filter(far, parent, self._fds[compiler.EGRESS], compiler.EGRESS)
        if self.xdp_mode == "none":
            # what GRO merged is cut there as well
            received = self._fds[compiler.INGRESS]
            await net.add_filter(far, parent, received, compiler.INGRESS, netlink.TC_PRIORITY + 1)

    async def _remove_hop(self) -> None:
        if self.hop_ifindex:
            await self._netlink.remove_link(self.hop_ifindex)

    def _set_hop(self, near: int) -> None:
        self.hop_ifindex = near
        self._write_word(_HOP_IFINDEX, near)

    def set_mtu(self, mtu_bytes: int) -> None:
        """From the next packet on."""
        self._write_word(_MTU, mtu_bytes)

    def set_flag(self, flag: ConfigFlag, on: bool) -> None:
        """Switch one of the programs' flags, from the next packet on."""
        flags, bit = self._config_words()[_FLAGS], int(flag)
        self._write_word(_FLAGS, flags | bit if on else flags & ~bit)

    def _config_words(self) -> "array[int]":
        return array("I", self.config.lookup(index_key(0)) or b"")

    def _write_word(self, number: int, value: int) -> None:
        words = self._config_words()
        if words[number] != value:
            words[number] = value
            self.config.update(index_key(0), words.tobytes())

    async def repair(self, link: Link) -> list[str]:
        """Put back what somebody removed; what was put back, in words.

        Raises AttachError where something cannot be put back.
        """
        repaired: list[str] = []
        if self.hop_ifindex and not await self._netlink.exists(self.hop_ifindex):
            await self._make_hop(link)
            repaired.append("the hop")
        try:
            await self._attach_again(link, repaired)
        finally:
            if repaired:
                self._pin_again()  # the old links are what was pinned
        if not self._pins_are_there():
            self._pin_again()
            repaired.append("what was pinned")
        return repaired

    async def _attach_again(self, link: Link, repaired: list[str]) -> None:
        for parent, program in self._programs():
            which = (self._netlink, self._fds, self.ifindex, parent, program)
            if not await hooks.is_at_tc(*which):
                self.made_clsact |= await hooks.attach_tc_again(*which)
                repaired.append(f"the TC program {program}")
        if not hooks.is_at_xdp(self._fds, self.ifindex):
            await hooks.attach_xdp_again(self._netlink, self._fds, link, self.xdp_mode)
            repaired.append("the XDP program")

    def is_intact(self) -> bool:
        """Whether that is in place of which the kernel tells nobody when it is removed."""
        return hooks.is_linked(self._fds, self.ifindex) and self._pins_are_there()

    def _pins_are_there(self) -> bool:
        if self._root is None or not self.pinned:
            return True
        folder = bpffs.pin_folder(self._root, self.ifindex)
        try:
            return self._fds.keys() <= set(os.listdir(folder))
        except OSError:
            return False

    def _pin_again(self) -> None:
        if self._root is not None and self.pinned:
            bpffs.remove_pins(self._root, self.ifindex)
            self.pinned = _pin_all(self._fds, bpffs.pin_folder(self._root, self.ifindex))

    def _detach_xdp(self) -> None:
        hooks.detach_link(self._fds[hooks.XDP_LINK])

    async def _remove_clsact(self) -> None:
        if self.made_clsact:
            await self._netlink.remove_clsact(self.ifindex)

    async def detach(self) -> None:
        """Take everything away again, in the reverse order."""
        await self._attached.aclose()

    def leave(self) -> None:
        """Close our descriptors; what is pinned stays attached."""
        self._attached.pop_all()
        _close_all(self._fds)

    def count(self) -> list[int]:
        """All counters, summed over the CPUs, in the order of abi.COUNTERS."""
        return [self.counter(index) for index in range(len(COUNTERS))]

    def counter(self, index: int) -> int:
        """One counter, summed over the CPUs."""
        return self.counters.summed(index)


async def _compile(link_type: str, xdp_mode: str) -> dict[str, int]:
    receive_on = "tc" if xdp_mode == "none" else "xdp"
    return await asyncio.to_thread(
        compiler.compile_programs, _LINK_BYTES[link_type], receive_on, xdp_mode != "skb"
    )


def _check_layout(fds: dict[str, int]) -> None:
    """The kernel writes values as large as its map has them, whatever room there is for them."""
    for name, (key_bytes, value_bytes) in _KEY_AND_VALUE_BYTES.items():
        _, spec = bpf.map_spec(fds[name], locked=False)
        if (spec.key_bytes, spec.value_bytes) != (key_bytes, value_bytes):
            raise AttachError(
                f"its map {name} has entries of {spec.key_bytes} and {spec.value_bytes} bytes, not"
                f" {key_bytes} and {value_bytes}"
            )


def remove_leftovers(root: Path, ifindex: int) -> None:
    """Detach what links hold, and remove the pins, of a process that is gone."""
    pins = [pin for name in hooks.LINKS for pin in (root / str(ifindex)).glob(f"*/{name}")]
    for pin in pins:
        with contextlib.suppress(OSError):
            fd = bpf.open_pin(pin)
            hooks.detach_link(fd)
            os.close(fd)
    bpffs.remove_pins(root, ifindex)


def _pinned_programs(xdp_mode: str) -> tuple[str, ...]:
    common = (compiler.EGRESS, compiler.INGRESS)
    return common if xdp_mode == "none" else (*common, compiler.REPLY, hooks.XDP_LINK)


def _pin_all(fds: dict[str, int], folder: Path) -> bool:
    """Whether all of it is pinned; else nothing is."""
    try:
        folder.mkdir(mode=0o700, parents=True)
        for name, fd in fds.items():
            bpf.pin(fd, folder / name)
    except OSError:
        with contextlib.suppress(OSError):
            for name in fds:
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()
        return False
    return True


def _close_all(fds: dict[str, int]) -> None:
    while fds:
        _, fd = fds.popitem()
        os.close(fd)
