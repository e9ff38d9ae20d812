# SPDX-License-Identifier: GPL-2.0-only
"""Kinds of links between host A and its router, each put in place of the usual cable.

    A  [upper]  eth0 ---- to-a  ROUTER  to-b ---- eth0  B

The data path runs at A on `interface`. Addresses are those of routed(), wherever they stand. This
kernel may have no VLAN devices: a macvlan whose TC program sets the tag does what they do.
"""

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from mimicd.kernel import bpf
from mimicd.kernel.netlink import EGRESS_PARENT, INGRESS_PARENT, Netlink
from tests.rig.namespace import Namespace
from tests.rig.network import Network, routed

GATEWAYS = ("192.0.2.1", "2001:db8:a::1")
JUMBO_MTU_BYTES = 9000

# linux/if_tun.h
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 1, 0x1000, 0x4000
_TUN_OFFLOADS = 1 | 2 | 4 | 0x20 | 0x40  # CSUM TSO4 TSO6 USO4 USO6
_TUN_FRAME_BYTES = 1 << 17

_SCHED_CLS = 3
_VLAN_PUSH, _VLAN_POP = 18, 19
_8021Q, _8021AD = 0x8100, 0x88A8


@dataclass(frozen=True)
class Kind:
    """One kind of link."""

    make: Callable[[Network], contextlib.AbstractContextManager[None]]
    xdp_modes: tuple[str, ...]
    interface: str = "eth0"
    upper: str = "eth0"
    """What has A's addresses."""
    mtu_bytes: int = 1500


@contextlib.contextmanager
def network_of(kind: Kind) -> Iterator[Network]:
    """The routed network with this link at A; the router finishes checksums in software."""
    with routed(kind.mtu_bytes) as net, kind.make(net):
        for side in ("a", "b"):
            name = net.router.interface(side)
            net.router.namespace.run("ethtool", "-K", name, "tx", "off", check=False)
        yield net


@contextlib.contextmanager
def _plain(net: Network) -> Iterator[None]:
    yield


def _move_addresses(net: Network, upper: str) -> None:
    host, lower = net.a, net.a.interface
    lines = [
        f"address flush dev {lower}",
        f"link set {upper} up",
        f"address replace {host.ipv4} dev {upper}",
        f"address replace {host.ipv6} dev {upper} nodad",
        *(
            f"neighbour replace {gateway} lladdr {host.next_hop_mac} dev {upper} nud permanent"
            for gateway in GATEWAYS
        ),
        *(f"route replace default via {gateway} dev {upper}" for gateway in GATEWAYS),
    ]
    host.namespace.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")


@contextlib.contextmanager
def _bridge(net: Network) -> Iterator[None]:
    a = net.a.namespace
    a.run("ip", "link", "add", "br0", "address", net.a.mac, "type", "bridge")
    a.run("ip", "link", "set", net.a.interface, "master", "br0")
    # else conntrack looks at the segments before the bridge gets them, and never again
    a.sysctl({f"bridge/bridge-nf-call-{tables}": 0 for tables in ("iptables", "ip6tables")})
    _move_addresses(net, "br0")
    yield


@contextlib.contextmanager
def _macvlan(net: Network) -> Iterator[None]:
    _add_macvlan(net)
    yield


def _add_macvlan(net: Network) -> None:
    a, lower = net.a.namespace, net.a.interface
    a.run("ip", "link", "add", "mv0", "link", lower, "type", "macvlan", "mode", "passthru")
    _move_addresses(net, "mv0")


def _tagged(
    tags: tuple[int, ...], in_frame: bool
) -> Callable[[Network], contextlib.AbstractContextManager[None]]:
    """A macvlan with these tags, the innermost first; the last one stands beside the frame unless
    the devices are told that they cannot have it there."""

    @contextlib.contextmanager
    def make(net: Network) -> Iterator[None]:
        _add_macvlan(net)
        router, port = net.router.namespace, net.router.interface("a")
        # a frame may be longer by one tag than its interface's MTU, not by two
        for namespace, name in ((net.a.namespace, net.a.interface), (router, port)):
            namespace.run("ip", "link", "set", name, "mtu", str(1500 + 4 * (len(tags) - 1)))
        if in_frame:
            net.a.namespace.run(
                "ethtool", "-K", "mv0", "txvlan", "off", "tx-vlan-stag-hw-insert", "off"
            )
            router.run("ethtool", "-K", port, "txvlan", "off", "tx-vlan-stag-hw-insert", "off")
        for namespace, name in ((net.a.namespace, "mv0"), (router, port)):
            namespace.call(partial(_run_tagging, name, tags))
        yield

    return make


def _run_tagging(interface: str, tags: tuple[int, ...]) -> None:
    asyncio.run(_attach_tagging(interface, tags))


async def _attach_tagging(interface: str, tags: tuple[int, ...]) -> None:
    net = Netlink()
    await net.open()
    try:
        index = socket.if_nametoindex(interface)
        await net.add_clsact(index)
        for parent, code in (
            (EGRESS_PARENT, b"".join(_push(number, tag) for number, tag in enumerate(tags))),
            (INGRESS_PARENT, b"".join(_call(_VLAN_POP) for _ in tags)),
        ):
            fd = bpf.load_program(_SCHED_CLS, _SAVE + code + _END, "tagging")
            await net.add_filter(index, parent, fd, "tagging", priority=1)
            os.close(fd)
    finally:
        await net.close()


def _insn(opcode: int, registers: int, value: int) -> bytes:
    return struct.pack("<BBhi", opcode, registers, 0, value)


_SAVE = _insn(0xBF, 0x16, 0)  # r6 = r1
_END = _insn(0xB7, 0x00, -1) + _insn(0x95, 0, 0)  # return TC_ACT_UNSPEC


def _call(function: int, *arguments: int) -> bytes:
    code = _insn(0xBF, 0x61, 0)  # r1 = r6
    for number, value in enumerate(arguments, start=2):
        code += _insn(0xB7, number, value)
    return code + _insn(0x85, 0, function)


def _push(depth: int, tag: int) -> bytes:
    # an outer tag is that of a provider (IEEE 802.1ad)
    return _call(_VLAN_PUSH, socket.htons(_8021AD if depth else _8021Q), tag)


@contextlib.contextmanager
def _tun(net: Network) -> Iterator[None]:
    """Two TUN interfaces with all offloads, and this process in between."""
    a, router, port = net.a.namespace, net.router.namespace, net.router.interface("a")
    a.run("ip", "link", "del", net.a.interface)
    ends = [_open_tun(a, net.a.interface), _open_tun(router, port)]
    _set_up_tun(a, net.a.interface, [str(net.a.ipv4), str(net.a.ipv6)])
    _set_up_tun(router, port, ["192.0.2.1/24", "2001:db8:a::1/64"])
    for route in ("0.0.0.0/0", "::/0"):
        a.run("ip", "route", "replace", route, "dev", net.a.interface)
    reader, stop = os.pipe()
    relay = threading.Thread(target=_relay, args=(ends, reader), name="tun-relay")
    relay.start()
    try:
        yield
    finally:
        os.write(stop, b".")
        relay.join()
        for fd in (*ends, reader, stop):
            os.close(fd)


def _open_tun(namespace: Namespace, name: str) -> int:
    def open_it() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_OFFLOADS)
        return fd

    return namespace.call(open_it)


def _set_up_tun(namespace: Namespace, name: str, addresses: list[str]) -> None:
    lines = [
        f"link set {name} up mtu 1500",
        *(f"address add {one} dev {name}" for one in addresses),
    ]
    namespace.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")


def _relay(ends: list[int], stop: int) -> None:
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    poller = select.poll()
    for fd in (*ends, stop):
        poller.register(fd, select.POLLIN)
    while True:
        for fd, _events in poller.poll():
            if fd == stop:
                return
            with contextlib.suppress(BlockingIOError):
                os.write(other[fd], os.read(fd, _TUN_FRAME_BYTES))


ALL_MODES = ("native", "skb", "none")
KINDS = {
    "veth": Kind(_plain, ALL_MODES),
    "MTU 9000": Kind(_plain, ("native", "none"), mtu_bytes=JUMBO_MTU_BYTES),
    "bridge port": Kind(_bridge, ALL_MODES, upper="br0"),
    "bridge": Kind(_bridge, ("skb", "none"), interface="br0", upper="br0"),
    "macvlan": Kind(_macvlan, ("skb", "none"), interface="mv0", upper="mv0"),
    "tag beside": Kind(_tagged((7,), in_frame=False), ALL_MODES, upper="mv0"),
    "tag in frame": Kind(_tagged((7,), in_frame=True), ALL_MODES, upper="mv0"),
    "two tags": Kind(_tagged((7, 9), in_frame=False), ALL_MODES, upper="mv0"),
    "TUN": Kind(_tun, ("auto",)),
}
