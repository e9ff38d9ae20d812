# SPDX-License-Identifier: GPL-2.0-only
"""One cell: a sender sends its kind of datagrams to B and B the same kind back, all of it checked.

A cell passes when both receivers have every datagram in order, byte for byte, and the wire behind
the router showed the same datagrams in TCP segments with right checksums, and nothing else.
"""

import contextlib
import dataclasses
import os
import random
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.matrix.links import GATEWAYS, Kind, network_of
from tests.matrix.senders import SENDERS, Sender
from tests.matrix.tap import Seen, Tap, tap
from tests.rig.daemon import Foreground
from tests.rig.namespace import Namespace, wait_until
from tests.rig.network import Host, Network
from tests.rig.traffic import open_udp

PORT, MASQUERADED_PORT, REDIRECTED_PORT, VXLAN_PORT = 51820, 51821, 51823, 4789
VXLAN = "VXLAN"
VXLAN_STREAM_BYTES = 200_000
SENDER_NAMES = (*SENDERS, VXLAN)
LAN4, LAN6 = "10.9.0.", "fd00:9::"
DISGUISE_BYTES = 12
WITHIN_S = 5.0

UDP_GRO, UDP_GRO_BYTES = 104, 64
_ON = "tx on sg on tso on gso on gro on rx on"
OFFLOADS = {
    "all on": _ON,
    "tx off": f"{_ON} tx off",
    "gso off": f"{_ON} tso off gso off",
    "all off": "tx off sg off tso off gso off gro off rx off",
}


@dataclass(frozen=True)
class Cell:
    kind: str
    mode: str
    offload: str
    sender: str
    family: int

    def __str__(self) -> str:
        return f"{self.kind}, XDP {self.mode}, {self.offload}, {self.sender}, IPv{self.family}"


@dataclass(frozen=True)
class Scene:
    """A network with a host C behind A, and a tap between router and B."""

    net: Network
    kind: Kind
    c: Namespace
    tap: Tap

    def set_offload(self, name: str) -> None:
        words = OFFLOADS[name].split()
        for namespace, interfaces in (
            (self.net.a.namespace, {self.net.a.interface, self.kind.interface, self.kind.upper}),
            (self.net.b.namespace, {self.net.b.interface}),
        ):
            for interface in sorted(interfaces):
                # one that a device does not have makes ethtool fail, and the rest is done
                namespace.run("ethtool", "-K", interface, *words, check=False)

    @contextlib.contextmanager
    def data_path(self, mode: str, lacking: str = "") -> Iterator[None]:
        """The disguise at A and B, both in this mode.

        `lacking`: a variable that makes the kernel older than it is, see compiler.kernel_defines().
        """
        env = {**os.environ, lacking: "1"} if lacking else None
        a, b = self.net.a, self.net.b
        at_a = dataclasses.replace(a, interface=self.kind.interface)
        filters_a, filters_b = [], []
        for family in (4, 6):
            end_a, end_b = (_bracketed(host.address(family)) for host in (a, b))
            for port in (PORT, MASQUERADED_PORT, REDIRECTED_PORT, VXLAN_PORT):
                filters_a.append(f"remote={end_b}:{port}")
                filters_b.append(f"local={end_b}:{port}")
            filters_a.append(f"local={end_a}:{VXLAN_PORT}")
            filters_b.append(f"remote={end_a}:{VXLAN_PORT}")
        with (
            Foreground(
                at_a, "run", "-x", mode, *_options(filters_a), at_a.interface, env=env
            ) as one,
            Foreground(b, "run", "-x", mode, *_options(filters_b), b.interface, env=env) as other,
        ):
            for program in (one, other):
                program.await_words("attached (XDP")
            self.tap.take(PORT)  # what crossed before
            try:
                yield
            except BaseException as exc:
                exc.add_note(f"A said: {one.log.strip()}")
                exc.add_note(f"B said: {other.log.strip()}")
                raise

    def run(self, cell: Cell) -> list[str]:
        """What is wrong with a cell."""
        chance = random.Random(str(cell))
        try:
            if cell.sender == VXLAN:
                return self._run_vxlan(cell, chance)
            return self._run_datagrams(cell, SENDERS[cell.sender], chance)
        except (OSError, TimeoutError) as exc:
            self.tap.take(PORT)
            return [f"{type(exc).__name__}: {exc}"]

    def largest_bytes(self, family: int) -> int:
        return self.kind.mtu_bytes - (28 if family == 4 else 48) - DISGUISE_BYTES

    def _run_datagrams(self, cell: Cell, sender: Sender, chance: random.Random) -> list[str]:
        family, b = cell.family, self.net.b
        port = MASQUERADED_PORT if sender.masqueraded else PORT
        target = b.address(family)
        if sender.redirected:
            port, target = REDIRECTED_PORT, (LAN4 if family == 4 else LAN6) + "1"
        gro = cell.offload == "all on"
        source = self.c if sender.forwarded else self.net.a.namespace
        with open_udp(source, family) as near, open_udp(b.namespace, family) as far:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            far.bind((b.address(family), port))
            near.connect((target, port))
            near.send(b"hello")
            _await_readable(far)
            hello, back = far.recvfrom(100)
            far.connect(back)
            far.send(b"welcome")
            for udp in (near, far) if gro else ():
                udp.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
            welcome = received(near, 1)
            largest = self.largest_bytes(family)
            to_b = sender.send(_blocking(near), largest, chance)
            at_b = received(far, len(to_b))
            to_a = sender.send(_blocking(far), largest, chance)
            at_a = received(near, len(to_a))
        seen = self.tap.take(port)
        faults = list(seen.faults)
        faults += _differences("at B", to_b, at_b) + _differences("at A", to_a, at_a)
        if (hello, welcome) != (b"hello", [b"welcome"]):
            faults.append(f"first datagrams: {hello!r}, {welcome!r}")
        end_b = f"{_bracketed(b.address(family))}:{port}"
        end_a = f"{_bracketed(back[0])}:{back[1]}"
        faults += _differences("on the wire to B", [hello, *to_b], seen.data.get(end_a, []))
        faults += _differences("on the wire to A", [b"welcome", *to_a], seen.data.get(end_b, []))
        return faults

    def _run_vxlan(self, cell: Cell, chance: random.Random) -> list[str]:
        """A TCP stream each way inside VXLAN: segments that leave the cutting to the device."""
        payload = chance.randbytes(VXLAN_STREAM_BYTES)
        a, b = self.net.a.namespace, self.net.b.namespace
        with (
            b.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
            a.socket(socket.AF_INET, socket.SOCK_STREAM) as near,
        ):
            listener.settimeout(WITHIN_S)
            near.settimeout(WITHIN_S)
            listener.bind((f"10.{cell.family}.0.2", 0))
            listener.listen()
            near.connect(listener.getsockname())
            far, _ = listener.accept()
            with far:
                far.settimeout(WITHIN_S)
                at_b = _streamed(near, far, payload)
                at_a = _streamed(far, near, payload)
        seen: Seen = self.tap.take(VXLAN_PORT)
        faults = list(seen.faults)
        if not seen.segments:
            faults.append("nothing was on the wire")
        if (at_b, at_a) != (payload, payload):
            wrong = [
                next(
                    (n for n, (x, y) in enumerate(zip(payload, came, strict=False)) if x != y), None
                )
                for came in (at_b, at_a)
            ]
            faults.append(
                f"of {len(payload)} bytes {len(at_b)} and {len(at_a)} came, the first wrong one is"
                f" number {wrong[0]} and {wrong[1]}"
            )
        return faults


@contextlib.contextmanager
def scene_of(kind: Kind) -> Iterator[Scene]:
    with network_of(kind) as net, Namespace("c") as c:
        _add_lan(net, kind, c)
        for host, other in ((net.a, net.b), (net.b, net.a)):
            _add_vxlan(host, other, kind, "1" if host is net.a else "2")
        with tap(net.router.namespace, net.router.interface("b"), kind.mtu_bytes) as watch:
            yield Scene(net, kind, c, watch)


def _add_lan(net: Network, kind: Kind, c: Namespace) -> None:
    """C behind A, which forwards for it, for one port behind an address of its own."""
    a, mtu = net.a.namespace, str(kind.mtu_bytes)
    a.run(
        *("ip", "link", "add", "lan0", "mtu", mtu, "type", "veth"),
        *("peer", "name", "eth0", "mtu", mtu, "netns", c.name),
    )
    for namespace, interface, last in ((a, "lan0", 1), (c, "eth0", 2)):
        lines = [
            f"address add {LAN4}{last}/24 dev {interface}",
            f"address add {LAN6}{last}/64 dev {interface} nodad",
            f"link set {interface} up",
        ]
        if namespace is c:
            lines += [f"route add default via {one}1" for one in (LAN4, LAN6)]
        namespace.run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
    a.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
    rule = f"oifname {kind.upper} udp dport {MASQUERADED_PORT} masquerade"
    chains = ["chain out { type nat hook postrouting priority 100; " + rule + "; }"]
    rules = "; ".join(
        f"{word} daddr {prefix}1 udp dport {REDIRECTED_PORT} dnat {word} to {net.b.address(family)}"
        for word, prefix, family in (("ip", LAN4, 4), ("ip6", LAN6, 6))
    )
    chains.append("chain in { type nat hook prerouting priority -100; " + rules + "; }")
    a.run("nft", "-f", "-", stdin="table inet nat {\n" + "\n".join(chains) + "\n}\n")
    # the addresses of A's own, if the link has any
    for prefix, gateway, via in (
        (LAN4, GATEWAYS[0], "192.0.2.2"),
        (LAN6, GATEWAYS[1], "2001:db8:a::2"),
    ):
        length = 24 if gateway == GATEWAYS[0] else 64
        net.router.namespace.run(
            *("ip", "route", "add", f"{prefix}{0 if length == 24 else ''}/{length}", "via", via)
        )
    wait_until(lambda: _pings(c, net.b), WITHIN_S, "C reaches B")


def _pings(c: Namespace, b: Host) -> bool:
    """Whether both families reach B by now: neighbours may be unknown still."""
    for family in (4, 6):
        with open_udp(c, family) as near, open_udp(b.namespace, family) as far:
            far.bind((b.address(family), 9999))
            near.sendto(b"?", (b.address(family), 9999))
            if not select.select([far], [], [], 1)[0]:
                return False
    return True


def _add_vxlan(host: Host, other: Host, kind: Kind, last: str) -> None:
    for family in (4, 6):
        checksums = ("udpcsum",) if family == 4 else ("udp6zerocsumrx",)
        name = f"vx{family}"
        host.namespace.run(
            *("ip", "link", "add", name, "type", "vxlan", "id", str(family)),
            *("local", host.address(family), "remote", other.address(family)),
            *("dstport", str(VXLAN_PORT), *checksums),
        )
        overhead = 14 + 8 + 8 + (20 if family == 4 else 40) + DISGUISE_BYTES
        mtu = str(kind.mtu_bytes - overhead)
        host.namespace.run("ip", "link", "set", name, "mtu", mtu, "up")
        host.namespace.run("ip", "address", "add", f"10.{family}.0.{last}/24", "dev", name)


def _options(filters: list[str]) -> list[str]:
    return [word for one in filters for word in ("-f", one)]


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _blocking(udp: socket.socket) -> socket.socket:
    udp.settimeout(WITHIN_S)
    return udp


def _await_readable(udp: socket.socket) -> None:
    if not select.select([udp], [], [], WITHIN_S)[0]:
        raise TimeoutError("the first datagram did not arrive")


def received(udp: socket.socket, count: int) -> list[bytes]:
    """The next `count` datagrams, fewer when nothing comes any more; what GRO merged is cut."""
    came: list[bytes] = []
    deadline_s = time.monotonic() + WITHIN_S
    udp.setblocking(False)
    while len(came) < count and select.select([udp], [], [], deadline_s - time.monotonic())[0]:
        data, ancillary, _flags, _from = udp.recvmsg(1 << 17, UDP_GRO_BYTES)
        size = next((int.from_bytes(value[:2], "little") for _l, _t, value in ancillary), 0)
        pieces = range(0, len(data), size) if size else range(0)
        came += [data[at : at + size] for at in pieces] if size else [data]
        if time.monotonic() >= deadline_s:
            break
    return came


def _streamed(source: socket.socket, target: socket.socket, payload: bytes) -> bytes:
    """Both ends are in this process: what fits the buffers goes first, the rest as it is taken."""
    came, left = bytearray(), memoryview(payload)
    source.setblocking(False)
    while len(came) < len(payload):
        readable, writable, _ = select.select([target], [source] if left else [], [], WITHIN_S)
        if not readable and not writable:
            break
        if writable:
            left = left[source.send(left) :]
        if readable:
            came += target.recv(1 << 17)
    source.settimeout(WITHIN_S)
    return bytes(came)


def _differences(where: str, wanted: list[bytes], came: list[bytes]) -> list[str]:
    if came == wanted:
        return []
    first = next(
        (n for n, (one, other) in enumerate(zip(wanted, came, strict=False)) if one != other),
        min(len(wanted), len(came)),
    )
    sizes = [[len(one) for one in some[first : first + 4]] for some in (wanted, came)]
    return [
        f"{where}: {len(came)} of {len(wanted)} datagrams, the first difference is number {first}"
        f" (sizes {sizes[0]} were sent, {sizes[1]} came, lost {len(set(wanted) - set(came))})"
    ]
