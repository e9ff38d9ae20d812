# SPDX-License-Identifier: GPL-2.0-only
"""Links, addresses and TC filters, through pyroute2 on a worker thread of its own.

pyroute2 blocks, and its newer releases run an event loop inside that must not be uvloop's; so
one thread owns its socket, and everything here is awaited.
"""

import asyncio
import contextlib
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar

from mimicd.core.errors import AttachError, FailedError, NoSuchInterfaceError
from mimicd.kernel.netlink_library import IPRoute, NetlinkError

T = TypeVar("T")

# Ours alone: filters are found and removed by these two together.
TC_PRIORITY = 109
GUARD_PRIORITY = 119
STRICT_PRIORITY = 120
TC_HANDLE = 0x6D696D63

_TC_H_CLSACT = 0xFFFF0000
EGRESS_PARENT = 0xFFFFFFF3
INGRESS_PARENT = 0xFFFFFFF2
_ETH_P_ALL = 3
_IFF_UP = 1

# linux/if_arp.h: links whose frames begin with the IP header
_ARPHRD_WITHOUT_HEADER = {512, 519, 65534, 768, 769, 776, 778, 823}
_ARPHRD_ETHERNET = {1, 772}


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel describes it."""

    name: str
    ifindex: int
    mtu_bytes: int
    is_up: bool
    hardware_type: int
    """ARPHRD_*."""
    kind: str
    """Of a virtual interface: "veth", "bridge"; else ""."""
    xdp_program_id: int
    """0: no XDP program is attached."""

    @property
    def link_type(self) -> str:
        """ "eth" or "none"; "" for one that we cannot serve."""
        if self.hardware_type in _ARPHRD_ETHERNET:
            return "eth"
        return "none" if self.hardware_type in _ARPHRD_WITHOUT_HEADER else ""


class Netlink:
    """One socket of one network namespace: the one in which it is opened."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        self._ipr: Any = None

    async def open(self) -> None:
        """Open the socket."""
        self._ipr = await self._run(IPRoute)

    async def close(self) -> None:
        """Close it and end the thread."""
        if self._ipr is not None:
            await self._run(self._ipr.close)
        self._worker.shutdown()

    async def _run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, lambda: function(*args, **kwargs))

    async def link(self, name: str) -> Link:
        """Raises NoSuchInterfaceError."""
        return await self._run(self._link, ifname=name)

    async def link_by_index(self, ifindex: int) -> Link:
        """Raises NoSuchInterfaceError."""
        return await self._run(self._link, index=ifindex)

    def _link(self, **which: Any) -> Link:
        try:
            if "index" in which:
                messages = self._ipr.get_links(which["index"])
            else:
                messages = self._ipr.link("get", **which)
        except NetlinkError as error:
            raise _no_such(which, error) from None
        if not messages:
            raise _no_such(which, None)
        message = messages[0]
        xdp = message.get_attr("IFLA_XDP")
        info = message.get_attr("IFLA_LINKINFO")
        return Link(
            name=message.get_attr("IFLA_IFNAME"),
            ifindex=message["index"],
            mtu_bytes=message.get_attr("IFLA_MTU"),
            is_up=bool(message["flags"] & _IFF_UP),
            hardware_type=message["ifi_type"],
            kind=(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
            xdp_program_id=(xdp.get_attr("IFLA_XDP_PROG_ID") or 0) if xdp else 0,
        )

    async def exists(self, ifindex: int) -> bool:
        """Whether there is such a link."""
        try:
            await self.link_by_index(ifindex)
        except NoSuchInterfaceError:
            return False
        return True

    async def names(self) -> list[str]:
        """Of all interfaces."""
        messages = await self._run(lambda: list(self._ipr.get_links()))
        return [message.get_attr("IFLA_IFNAME") for message in messages]

    async def addresses(self, ifindex: int) -> set[IPv4Address | IPv6Address]:
        """The interface's own addresses."""

        def read() -> set[IPv4Address | IPv6Address]:
            found = set()
            for message in self._ipr.get_addr(index=ifindex):
                # a point-to-point link has its own address in LOCAL, and the peer's in ADDRESS
                text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                if text:
                    found.add(ip_address(text))
            return found

        return await self._run(read)

    async def make_veth(self, near: str, far: str, mtu_bytes: int, alias: str) -> tuple[int, int]:
        """A veth pair, down, that speaks no IPv6 of its own; the ifindex of both ends.

        Raises AttachError.
        """

        def make() -> tuple[int, int]:
            made = False
            try:
                self._ipr.link("add", ifname=near, kind="veth", mtu=mtu_bytes, peer={"ifname": far})
                made = True
                ends = tuple(self._ipr.link_lookup(ifname=name)[0] for name in (near, far))
                for end in ends:
                    self._ipr.link("set", index=end, mtu=mtu_bytes, ifalias=alias)
                    self._be_silent(end)
            except NetlinkError as error:
                if made:
                    self._ipr.link("del", ifname=near)
                raise AttachError(
                    f"cannot make the veth pair {near}: {_words(error)}",
                    "the kernel may lack veth; superpackets (UDP_SEGMENT) are dropped then",
                ) from error
            return ends[0], ends[1]

        return await self._run(make)

    def _be_silent(self, ifindex: int) -> None:
        silent = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
        try:
            self._ipr.link("set", index=ifindex, IFLA_AF_SPEC=silent)
        except NetlinkError as error:
            if error.code != errno.EAFNOSUPPORT:  # a kernel without IPv6 says nothing anyway
                raise

    async def set_up(self, ends: tuple[int, ...]) -> None:
        """Bring links up."""

        def up() -> None:
            for end in ends:
                self._ipr.link("set", index=end, state="up")

        await self._run(up)

    async def set_mtu(self, ifindex: int, mtu_bytes: int) -> None:
        """Raises FailedError."""

        def change() -> None:
            try:
                self._ipr.link("set", index=ifindex, mtu=mtu_bytes)
            except NetlinkError as error:
                raise FailedError(
                    f"cannot set the MTU of interface number {ifindex} to {mtu_bytes}:"
                    f" {_words(error)}",
                    "mimicd needs CAP_NET_ADMIN, or root",
                ) from error

        await self._run(change)

    async def remove_link(self, ifindex: int) -> None:
        """Remove a link; one that is gone is fine."""

        def remove() -> None:
            with contextlib.suppress(NetlinkError):
                self._ipr.link("del", index=ifindex)

        await self._run(remove)

    async def remove_links_with_alias(self, alias: str) -> None:
        """Remove every link that bears this alias, whatever it is called by now."""

        def remove() -> None:
            for message in list(self._ipr.get_links()):
                if message.get_attr("IFLA_IFALIAS") == alias:
                    # the other end of a pair goes with the first
                    with contextlib.suppress(NetlinkError):
                        self._ipr.link("del", index=message["index"])

        await self._run(remove)

    async def has_clsact(self, ifindex: int) -> bool:
        """Whether the interface has the qdisc, whoever made it."""

        def look() -> bool:
            return any(q.get_attr("TCA_KIND") == "clsact" for q in self._ipr.get_qdiscs(ifindex))

        return await self._run(look)

    async def add_clsact(self, ifindex: int) -> bool:
        """Whether the qdisc was made now; an existing one is used."""

        def add() -> bool:
            try:
                self._ipr.tc("add", "clsact", ifindex)
            except NetlinkError as error:
                kinds = {q.get_attr("TCA_KIND") for q in self._ipr.get_qdiscs(ifindex)}
                if error.code == errno.EEXIST and "clsact" in kinds:
                    return False
                # an ingress qdisc takes egress filters as well, and runs them on ingress
                raise AttachError(
                    f"cannot add a clsact qdisc: {_words(error)}",
                    "the interface has an ingress qdisc of somebody else: `tc qdisc show` names it"
                    if "ingress" in kinds
                    else "mimicd needs CAP_NET_ADMIN, or root",
                ) from error
            return True

        return await self._run(add)

    async def qdisc_kinds(self, ifindex: int) -> set[str]:
        """Such as "clsact", "fq_codel"."""
        read = await self._run(lambda: list(self._ipr.get_qdiscs(ifindex)))
        return {qdisc.get_attr("TCA_KIND") for qdisc in read}

    async def remove_clsact(self, ifindex: int) -> None:
        """Remove the qdisc unless somebody else's filters are on it."""

        def remove() -> None:
            for parent in (EGRESS_PARENT, INGRESS_PARENT):
                if self._ipr.get_filters(index=ifindex, parent=parent):
                    return
            with contextlib.suppress(NetlinkError):
                self._ipr.tc("del", "clsact", ifindex)

        await self._run(remove)

    async def add_filter(
        self, ifindex: int, parent: int, program_fd: int, name: str, priority: int = TC_PRIORITY
    ) -> None:
        """Attach a program, in place of ours if one is there. Raises AttachError."""

        def add() -> None:
            try:
                self._ipr.tc(
                    "replace-filter",
                    "bpf",
                    ifindex,
                    handle=TC_HANDLE,
                    parent=parent,
                    prio=priority,
                    protocol=_ETH_P_ALL,
                    fd=program_fd,
                    name=name,
                    direct_action=True,
                )
            except NetlinkError as error:
                raise AttachError(
                    f"cannot attach the BPF program {name}: {_words(error)}",
                    "mimicd needs CAP_NET_ADMIN and CAP_BPF, or root",
                ) from error

        await self._run(add)

    async def has_filter(
        self, ifindex: int, parent: int, name: str, priority: int = TC_PRIORITY
    ) -> bool:
        """Whether ours is attached there, under the name that we gave it."""

        def look() -> bool:
            return any(
                message["handle"] == TC_HANDLE
                and message["info"] >> 16 == priority
                and _name_of(message) == name
                for message in self._ipr.get_filters(index=ifindex, parent=parent)
            )

        try:
            return await self._run(look)
        except NetlinkError:
            return False

    async def remove_filter(self, ifindex: int, parent: int, priority: int = TC_PRIORITY) -> None:
        """Detach ours. What is gone already, with or without the interface, is fine."""

        def remove() -> None:
            with contextlib.suppress(NetlinkError):
                self._ipr.tc(
                    "del-filter",
                    "bpf",
                    ifindex,
                    handle=TC_HANDLE,
                    parent=parent,
                    prio=priority,
                    protocol=_ETH_P_ALL,
                )

        await self._run(remove)


def _no_such(which: dict[str, Any], error: NetlinkError | None) -> NoSuchInterfaceError:
    name = which.get("ifname", f"number {which.get('index')}")
    if error is not None and error.code not in (errno.ENODEV, errno.EINVAL, errno.ERANGE):
        return NoSuchInterfaceError(f"interface {name} cannot be read: {_words(error)}")
    return NoSuchInterfaceError(
        f"there is no interface {name} in this network namespace",
        "`ip link` lists the interfaces",
    )


def _name_of(message: Any) -> str | None:
    """Of a BPF filter; None for another kind. pyroute2 does not read its program's id."""
    options = message.get_attr("TCA_OPTIONS")
    return options.get_attr("TCA_BPF_NAME") if hasattr(options, "get_attr") else None


def _words(error: NetlinkError) -> str:
    return str(error.args[-1]) if error.args else str(error)
