# SPDX-License-Identifier: GPL-2.0-only
"""A cable from this machine into a namespace, with the bare program at its other end.

this machine  mimic0 ------------- eth0  peer (mimicd run, without a bus)
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from contextlib import AbstractContextManager
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Self

from tests.rig.datagrams import Verdict
from tests.rig.namespace import Namespace, wait_until
from tests.rig.network import Host
from tests.rig.traffic import Endpoint, endpoint, exchange, flow
from tests.system.machine import WITHIN_S, do

INTERFACE = "mimic0"
PORT = 51820
_HERE = (IPv4Interface("198.51.100.1/30"), IPv6Interface("2001:db8:9::1/64"))
_THERE = (IPv4Interface("198.51.100.2/30"), IPv6Interface("2001:db8:9::2/64"))


class ThisMachine(Namespace):
    """The network namespace that this process is in, made and removed by others."""

    def __init__(self) -> None:
        self.role = "here"
        self.name = ""
        self.path = Path("/proc/self/ns/net")

    def close(self) -> None:
        """It stays."""


def this_machine() -> Host:
    """With its end of the cable."""
    return Host(ThisMachine(), *_HERE, "", "", INTERFACE)


class Lan:
    """Both ends; the peer's filter names its own port."""

    def __init__(self) -> None:
        self.peer = Namespace("peer")
        self._log = tempfile.NamedTemporaryFile("w+", prefix="mimicd-peer-")  # noqa: SIM115
        self._folder = tempfile.TemporaryDirectory(prefix="mimicd-peer-")
        self._program: subprocess.Popen[bytes] | None = None
        self.plug()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop_peer()
        do("ip", "link", "del", INTERFACE, check=False)
        self.peer.close()
        self._log.close()
        self._folder.cleanup()

    def plug(self) -> None:
        """Make the cable."""
        end = ("peer", "name", "eth0", "netns", self.peer.name)
        do("ip", "link", "add", INTERFACE, "type", "veth", *end)
        do("ip", "address", "add", str(_HERE[0]), "dev", INTERFACE)
        self.peer.run("ip", "address", "add", str(_THERE[0]), "dev", "eth0")
        self.peer.run("ip", "link", "set", "eth0", "up")
        do("ip", "link", "set", INTERFACE, "up")

    def unplug(self) -> None:
        """Take it away, at both ends."""
        do("ip", "link", "del", INTERFACE)

    @property
    def filter(self) -> str:
        """For this machine's configuration."""
        return self.filter_on(PORT)

    def filter_on(self, port: int) -> str:
        """That of another port of the peer."""
        return f"remote={_THERE[0].ip}:{port}"

    def flow(self, port: int) -> AbstractContextManager[tuple[Endpoint, Endpoint]]:
        """Both ends of a flow to that port of the peer."""
        return flow(this_machine(), Host(self.peer, *_THERE, "", ""), port_b=port)

    def start_peer(self) -> None:
        """Returns when it is attached."""
        self._log.truncate(0)
        command = ("/usr/sbin/mimicd", "run", "-f", f"local={_THERE[0].ip}:{PORT}", "eth0")
        # its state lies apart from that of the daemon here
        env = {**os.environ, "RUNTIME_DIRECTORY": self._folder.name}
        self._program = self.peer.start(*command, stdout=self._log, stderr=self._log, env=env)
        wait_until(lambda: "attached" in self.peer_log, WITHIN_S, "the peer is attached")

    def stop_peer(self) -> None:
        """By SIGTERM."""
        if self._program is not None:
            self._program.send_signal(signal.SIGTERM)
            self._program.wait(30)
            self._program = None

    @property
    def peer_log(self) -> str:
        return Path(self._log.name).read_text()


class Traffic:
    """One flow over the cable, both ways at once, from the first datagram to the last."""

    def __init__(self, lan: Lan) -> None:
        self.verdicts: list[Verdict] = []
        self._here = this_machine()
        self._there = Host(lan.peer, *_THERE, "", "")
        self._seed = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._ends = endpoint(self._here), endpoint(self._there, port=PORT)
        self.here: Endpoint = self._ends[0].__enter__()
        self.there: Endpoint = self._ends[1].__enter__()
        self.here.connect(self.there)
        self.there.connect(self.here)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()
        for end in self._ends:
            end.__exit__(None, None, None)

    def some(self, count: int = 2000) -> None:
        """That many each way, now."""
        self._seed += 2
        # whatever the handshake holds back comes at once, so a window that fits what is held
        self.verdicts += exchange(
            self.here, self.there, count=count, largest_bytes=1400, seed=self._seed, window=16
        )

    def begin(self) -> None:
        """In the background until `end`."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._go_on, name="traffic")
        self._thread.start()

    def _go_on(self) -> None:
        while not self._stop.is_set():
            self.some()

    def end(self) -> None:
        """After the datagrams that are under way."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def go_on_until(self, count: int) -> None:
        """In the background until that many were sent, and at least until now."""
        wait_until(lambda: self.sent >= count, 600, f"{count} datagrams are sent")
        self.end()

    @property
    def sent(self) -> int:
        return sum(verdict.sent for verdict in self.verdicts)

    @property
    def lost(self) -> int:
        return sum(len(verdict.missing) + len(verdict.refused) for verdict in self.verdicts)

    @property
    def clean(self) -> bool:
        """All arrived, once, in order, byte for byte."""
        return self.sent > 0 and all(verdict.clean for verdict in self.verdicts)

    @property
    def words(self) -> str:
        faulty = [str(verdict) for verdict in self.verdicts if not verdict.clean]
        return f"{self.lost} of {self.sent} lost" + (f" ({faulty[0]})" if faulty else "")
