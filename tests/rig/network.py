# SPDX-License-Identifier: GPL-2.0-only
"""Two hosts and the network between them: one cable, or a router with a stateful firewall.

    direct():  A eth0 ------------------------------------ eth0 B
    routed():  A eth0 --- to-a ROUTER to-b --------------- eth0 B
    routed(wire=True):    to-b --- left WIRE right ------- eth0 B   (wire.py)

Addresses are those for documentation (RFC 5737, RFC 3849). Neighbours are static and there is no
duplicate address detection, so the only frames are those of the test. Checksum offload stays on.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from tests.rig.firewall import Firewall
from tests.rig.namespace import Namespace
from tests.rig.wire import Wire

HOST_INTERFACE = "eth0"
DEFAULT_MTU_BYTES = 1500


@dataclass(frozen=True)
class Host:
    """One end: a namespace with a single interface eth0."""

    namespace: Namespace
    ipv4: IPv4Interface
    ipv6: IPv6Interface
    mac: str
    next_hop_mac: str
    interface: str = HOST_INTERFACE

    def address(self, family: int = 4) -> str:
        """The host's own address of IP version 4 or 6."""
        return str(self.ipv4.ip if family == 4 else self.ipv6.ip)

    def set_mtu(self, mtu_bytes: int) -> None:
        self.namespace.run("ip", "link", "set", self.interface, "mtu", str(mtu_bytes))

    def set_offload(self, **features: bool) -> None:
        """Switch features of eth0 by ethtool names: `set_offload(tx=False, tso=False)`."""
        words = [
            word
            for name, on in features.items()
            for word in (name.replace("_", "-"), "on" if on else "off")
        ]
        self.namespace.run("ethtool", "-K", self.interface, *words)


@dataclass(frozen=True)
class _Port:
    """A router interface and the neighbour behind it."""

    interface: str
    ipv4: IPv4Interface
    ipv6: IPv6Interface
    neighbour: Host


class Router:
    """The machine in the middle: forwards both families through `firewall`."""

    def __init__(self, namespace: Namespace, ports: dict[str, _Port], firewall: Firewall) -> None:
        self.namespace = namespace
        self.firewall = firewall
        self._ports = ports

    def interface(self, side: str) -> str:
        """Name of the router's interface towards host "a" or "b"."""
        return self._ports[side].interface

    def set_mtu(self, side: str, mtu_bytes: int) -> None:
        self.namespace.run("ip", "link", "set", self.interface(side), "mtu", str(mtu_bytes))

    def unplug(self, side: str) -> None:
        """Cable out: the host on that side loses its carrier."""
        self.namespace.run("ip", "link", "set", self.interface(side), "down")

    def plug(self, side: str) -> None:
        """Cable in again, with the addresses and neighbours that the link lost."""
        port = self._ports[side]
        _ip(self.namespace, [f"link set {port.interface} up", *_port_setup(port)])


@dataclass(frozen=True)
class Network:
    """Two hosts and what lies between; `router` and `wire` refuse where there is none."""

    a: Host
    b: Host
    maybe_router: Router | None = None
    maybe_wire: Wire | None = None

    @property
    def router(self) -> Router:
        if self.maybe_router is None:
            raise LookupError("this network has no router: use routed()")
        return self.maybe_router

    @property
    def wire(self) -> Wire:
        if self.maybe_wire is None:
            raise LookupError("this network has no wire: use routed(wire=True)")
        return self.maybe_wire

    def other(self, host: Host) -> Host:
        return self.b if host is self.a else self.a


@contextlib.contextmanager
def direct(mtu_bytes: int = DEFAULT_MTU_BYTES) -> Iterator[Network]:
    """Two hosts, one cable, one subnet per family."""
    with Namespace("a") as a, Namespace("b") as b:
        _cable(a, HOST_INTERFACE, b, HOST_INTERFACE, mtu_bytes)
        mac_a, mac_b = _mac(a, HOST_INTERFACE), _mac(b, HOST_INTERFACE)
        host_a = Host(
            a, IPv4Interface("192.0.2.1/24"), IPv6Interface("2001:db8:a::1/64"), mac_a, mac_b
        )
        host_b = Host(
            b, IPv4Interface("192.0.2.2/24"), IPv6Interface("2001:db8:a::2/64"), mac_b, mac_a
        )
        for host, other in ((host_a, host_b), (host_b, host_a)):
            _ip(host.namespace, _host_setup(host, str(other.ipv4.ip), str(other.ipv6.ip)))
        yield Network(host_a, host_b)


@contextlib.contextmanager
def routed(
    mtu_bytes: int = DEFAULT_MTU_BYTES, wire: bool = False, tcp_loose: bool = True
) -> Iterator[Network]:
    """Two hosts in two subnets, a router with conntrack that drops what is invalid.

    `wire` puts a user-space cable between router and B that can lose, delay and swap frames.
    `tcp_loose` off makes conntrack call every connection it has not seen begin invalid.
    """
    with contextlib.ExitStack() as stack:
        a, b, router = (stack.enter_context(Namespace(role)) for role in ("a", "b", "router"))
        _cable(a, HOST_INTERFACE, router, "to-a", mtu_bytes)
        middle = stack.enter_context(Namespace("wire")) if wire else None
        if middle is None:
            _cable(b, HOST_INTERFACE, router, "to-b", mtu_bytes)
        else:
            _cable(router, "to-b", middle, "left", mtu_bytes)
            _cable(b, HOST_INTERFACE, middle, "right", mtu_bytes)

        host_a = Host(
            a,
            IPv4Interface("192.0.2.2/24"),
            IPv6Interface("2001:db8:a::2/64"),
            _mac(a, HOST_INTERFACE),
            _mac(router, "to-a"),
        )
        host_b = Host(
            b,
            IPv4Interface("198.51.100.2/24"),
            IPv6Interface("2001:db8:b::2/64"),
            _mac(b, HOST_INTERFACE),
            _mac(router, "to-b"),
        )
        port_a = _Port(
            "to-a", IPv4Interface("192.0.2.1/24"), IPv6Interface("2001:db8:a::1/64"), host_a
        )
        port_b = _Port(
            "to-b", IPv4Interface("198.51.100.1/24"), IPv6Interface("2001:db8:b::1/64"), host_b
        )
        for port in (port_a, port_b):
            host, gateway4, gateway6 = port.neighbour, str(port.ipv4.ip), str(port.ipv6.ip)
            _ip(
                host.namespace,
                [
                    *_host_setup(host, gateway4, gateway6),
                    f"route add default via {gateway4}",
                    f"route add default via {gateway6}",
                ],
            )
            _ip(router, _port_setup(port))

        firewall = Firewall(router, {"a": "to-a", "b": "to-b"}, tcp_loose)
        running_wire = stack.enter_context(Wire(middle, "left", "right")) if middle else None
        router.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
        ports = {"a": port_a, "b": port_b}
        yield Network(host_a, host_b, Router(router, ports, firewall), running_wire)


def _cable(
    left: Namespace, left_interface: str, right: Namespace, right_interface: str, mtu_bytes: int
) -> None:
    """A veth pair between two namespaces, both ends up."""
    for namespace in (left, right):
        # Before the links come up: no router solicitation or duplicate detection of their own.
        for scope in ("all", "default"):
            settings = {"accept_dad": 0, "dad_transmits": 0, "router_solicitations": 0}
            namespace.sysctl({f"ipv6/conf/{scope}/{key}": v for key, v in settings.items()})
    left.run(
        *("ip", "link", "add", "name", left_interface, "mtu", str(mtu_bytes)),
        *("type", "veth", "peer", "name", right_interface, "mtu", str(mtu_bytes)),
        *("netns", right.name),
    )
    for namespace, interface in ((left, left_interface), (right, right_interface)):
        namespace.run("ip", "link", "set", interface, "up")


def _host_setup(host: Host, next_hop4: str, next_hop6: str) -> list[str]:
    return [
        *_addresses(host.interface, host.ipv4, host.ipv6),
        *_neighbours(host.interface, host.next_hop_mac, next_hop4, next_hop6),
    ]


def _port_setup(port: _Port) -> list[str]:
    host = port.neighbour
    return [
        *_addresses(port.interface, port.ipv4, port.ipv6),
        *_neighbours(port.interface, host.mac, str(host.ipv4.ip), str(host.ipv6.ip)),
    ]


def _addresses(interface: str, ipv4: IPv4Interface, ipv6: IPv6Interface) -> list[str]:
    return [
        f"address replace {ipv4} dev {interface}",
        f"address replace {ipv6} dev {interface} nodad",
    ]


def _neighbours(interface: str, mac: str, ipv4: str, ipv6: str) -> list[str]:
    return [
        f"neighbour replace {address} lladdr {mac} dev {interface} nud permanent"
        for address in (ipv4, ipv6)
    ]


def _ip(namespace: Namespace, commands: list[str]) -> None:
    namespace.run("ip", "-batch", "-", stdin="\n".join(commands) + "\n")


def _mac(namespace: Namespace, interface: str) -> str:
    (link,) = json.loads(namespace.run("ip", "-json", "link", "show", "dev", interface).stdout)
    return str(link["address"])
