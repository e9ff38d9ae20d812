# SPDX-License-Identifier: GPL-2.0-only
"""WireGuard at a host, as wireguard-go makes it: no kernel module is needed."""

import contextlib
import secrets
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.rig.namespace import wait_until
from tests.rig.network import Host

SOCKETS = Path("/var/run/wireguard")
READY_WITHIN_S = 20.0


@dataclass(frozen=True)
class WireGuard:
    """One interface; its name is its own on this machine, as its socket is for all namespaces."""

    host: Host
    name: str
    address: str
    """Inside of the tunnel."""
    public_key: str

    def set(self, *words: str) -> None:
        self.host.namespace.run("wg", "set", self.name, *words)

    def add_peer(self, other: "WireGuard", endpoint: str = "") -> None:
        words = ("endpoint", endpoint) if endpoint else ()
        self.set("peer", other.public_key, "allowed-ips", f"{other.address}/32", *words)

    def mtu_bytes(self) -> int:
        shown = self.host.namespace.run("ip", "link", "show", self.name).stdout.split()
        return int(shown[shown.index("mtu") + 1])

    def ping(self, other: "WireGuard", count: int = 3, within_s: float = 10.0) -> bool:
        """Whether so many ICMP echoes come back (RFC 792), each asked for once."""
        inside = self.host.namespace
        with inside.socket(kind=socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP) as raw:
            raw.connect((other.address, 0))
            raw.settimeout(within_s)
            for number in range(count):
                # type 8, code 0, checksum, identifier, sequence number
                body = struct.pack("!HH", 0x6D6D, number)
                check = 0xFFFF - (0x0800 + 0x6D6D + number) % 0xFFFF
                raw.send(struct.pack("!BBH", 8, 0, check) + body)
                try:
                    while raw.recv(1500)[20:28] != struct.pack("!BBH", 0, 0, check + 0x0800) + body:
                        pass
                except TimeoutError:
                    return False
        return True


@contextlib.contextmanager
def wireguard(host: Host, address: str, port: int, mtu_bytes: int = 1420) -> Iterator[WireGuard]:
    """An interface that is up, with `address`/24 and without peers."""
    name = f"wg{secrets.token_hex(4)}"
    inside = host.namespace
    process = inside.start("wireguard-go", "--foreground", name)
    try:
        wait_until((SOCKETS / f"{name}.sock").exists, READY_WITHIN_S, f"{name} has a socket")
        private = inside.run("wg", "genkey").stdout
        public = inside.run("wg", "pubkey", stdin=private).stdout.strip()
        key = ("private-key", "/dev/stdin")
        inside.run("wg", "set", name, "listen-port", str(port), *key, stdin=private)
        inside.run("ip", "address", "add", f"{address}/24", "dev", name)
        inside.run("ip", "link", "set", name, "mtu", str(mtu_bytes), "up")
        yield WireGuard(host, name, address, public)
    finally:
        process.terminate()
        try:
            process.wait(READY_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(FileNotFoundError):
            (SOCKETS / f"{name}.sock").unlink()
