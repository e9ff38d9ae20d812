# SPDX-License-Identifier: GPL-2.0-only
"""A long time in the life of a daemon: interfaces, addresses and connections come and go.

    python3 -m tests.netns.soak --minutes 20

Each round does all of it once, on one cable between two daemons. In the end memory is where it was
after the first rounds, and so are descriptors and the entries of all maps.

Memory is looked at twice. The objects that Python holds do not grow from the first rounds on, and a
few rounds show that. What the process has in RAM shows leaks of any kind, but first it grows for
dozens of rounds with nothing leaking, as heaps of several threads find their size: only a long soak
judges by it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mimicd.bus  # noqa: F401  (keeps dbus-next from loading GLib)
from mimicd.kernel import bpf
from tests.demo.report import Report
from tests.rig.attachments import attachments, bpf_mounts
from tests.rig.daemon import ROOT, Daemon
from tests.rig.echo import EchoServer, ask_all
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network, direct
from tests.rig.traffic import endpoint

PORT = 51820
CONNECTIONS = 40
WARM_UP_ROUNDS = 5
LONG_WARM_UP_ROUNDS = 25
STALE_S = 2
BLOCKS_MAX = 500
"""Two or three for each connection of the rounds behind a short warm-up. pyroute2 keeps some for
each of its first 255 requests; a long warm-up makes more than that."""
GROWTH_MAX_KIB = 1536
WITHIN_S = 60.0
_SETTINGS = f"keepalive=0:::{STALE_S}"
_KEY_BYTES = {"conns": 36, "filters": 24}
_HOLDS = re.compile(r"holds (\d+) blocks")
_FAULTS = ("Traceback", "never retrieved", "was never awaited", "exception")


@dataclass(frozen=True)
class Sample:
    """What a daemon holds at the end of a round."""

    resident_kib: int
    descriptors: tuple[str, ...]
    """What they lead to, numbers left out."""


def sample(daemon: Daemon) -> Sample:
    folder = Path(f"/proc/{daemon.pid}/fd")
    targets = []
    for entry in folder.iterdir():
        try:
            targets.append(os.readlink(entry).rstrip("0123456789[]:"))
        except FileNotFoundError:
            continue  # the one of this listing, or one just closed
    return Sample(daemon.resident_kib(), tuple(sorted(targets)))


@dataclass
class Life:
    """Two hosts, a daemon at each, and an echo program at B."""

    net: Network
    a: Daemon
    b: Daemon
    echo: EchoServer
    rounds: int = 0
    asked: int = 0
    """Connections so far."""
    samples: list[tuple[Sample, Sample]] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)

    def round(self, connections: bool = True) -> None:
        """Everything once."""
        self.rounds += 1
        if connections:
            self.connections()
        self.addresses()
        self.reload()
        self.interface()
        self.samples.append((sample(self.a), sample(self.b)))

    def connections(self) -> None:
        """Each asks from a port of its own, and falls silent; the daemons give them up."""
        with ExitStack() as stack:
            clients = [stack.enter_context(endpoint(self.net.a)) for _ in range(CONNECTIONS)]
            wait_until(
                lambda: ask_all(clients, self.echo.endpoint) == CONNECTIONS, WITHIN_S, "answers"
            )
        self.asked += CONNECTIONS

    def addresses(self) -> None:
        """Filters for every address follow those of the interface."""
        run = self.net.b.namespace.run
        more = [f"192.0.2.{100 + number}/24" for number in range(5)]
        before = entries(self.net.b, "filters")
        for address in more:
            run("ip", "address", "add", address, "dev", "eth0")
        await_filter_entries(self.net.b, before + len(more))
        for address in more:
            run("ip", "address", "del", address, "dev", "eth0")
        await_filter_entries(self.net.b, before)

    def reload(self) -> None:
        """A filter comes and goes."""
        own = f"remote={self.net.b.address()}:{PORT},{_SETTINGS}"
        for more in (("-f", f"remote=192.0.2.99:{1 + self.rounds % 60_000}"), ()):
            self.a.ctl("reload", "-f", own, *more, "eth0", check=True)

    def interface(self) -> None:
        """One that comes, is deleted under the daemon, comes back, is renamed, and is stopped."""
        run = self.net.a.namespace.run
        options = ("-x", ("native", "skb", "none")[self.rounds % 3], "-f", "remote=192.0.2.9:5000")
        add_link(self.net.a, "come0")
        self.a.ctl("run", "--detach", *options, "come0", check=True)
        run("ip", "link", "del", "come0")
        wait_until(lambda: self.state("come0") != "running", WITHIN_S, "it is missed")
        add_link(self.net.a, "come0")
        wait_until(lambda: self.state("come0") == "running", WITHIN_S, "it is back")
        self.a.ctl("stop", "come0", check=True)
        run("ip", "link", "del", "come0")

    def state(self, name: str) -> str:
        shown = json.loads(self.a.ctl("list", "--json", check=True).stdout)
        return next((str(one["state"]) for one in shown if one["name"] == name), "")

    def settle(self) -> None:
        """Until no connection is left, not even the memory of one."""
        for daemon, host in ((self.a, self.net.a), (self.b, self.net.b)):
            await_no_connections(host)
            shown = json.loads(daemon.ctl("show", "--json", check=True).stdout)
            assert shown["connections"] == []

    def count_blocks(self) -> None:
        """Of memory that Python holds in A and B, once nothing is left of the connections."""
        self.settle()
        self.blocks.append((held_blocks(self.a), held_blocks(self.b)))

    def growth_kib(self) -> tuple[int, int]:
        """Of A's and B's memory, from the first third after the warm-up to the last."""
        after = self.samples[WARM_UP_ROUNDS:]
        third = max(1, len(after) // 3)
        first, last = after[:third], after[-third:]

        def median(part: list[tuple[Sample, Sample]], which: int) -> int:
            return int(statistics.median(pair[which].resident_kib for pair in part))

        return (median(last, 0) - median(first, 0), median(last, 1) - median(first, 1))

    def faults(self) -> list[str]:
        """Lines that no log should have."""
        lines = [*self.a.log.splitlines(), *self.b.log.splitlines()]
        return [line for line in lines if any(word in line for word in _FAULTS)]


def held_blocks(daemon: Daemon) -> int:
    """What it says when it is asked."""
    said = len(_HOLDS.findall(daemon.log))
    daemon.signal(signal.SIGUSR1)
    wait_until(lambda: len(_HOLDS.findall(daemon.log)) > said, WITHIN_S, "it says what it holds")
    return int(_HOLDS.findall(daemon.log)[-1])


def add_link(host: Host, name: str) -> None:
    host.namespace.run("ip", "link", "add", name, "type", "veth", "peer", "name", "nowhere")
    for end in (name, "nowhere"):
        host.namespace.run("ip", "link", "set", end, "up")


def entries(host: Host, name: str) -> int:
    """Of a map of eth0, read past the daemon."""
    ifindex = json.loads(host.namespace.run("ip", "-json", "link", "show", "eth0").stdout)[0]
    folders = [m / "mimicd" / str(host.namespace.inode) for m in bpf_mounts()]
    (pin,) = (pin for folder in folders for pin in folder.glob(f"{ifindex['ifindex']}/*/{name}"))
    fd = bpf.open_pin(pin)
    try:
        return len(bpf.Map(fd, _KEY_BYTES[name], 8).all_keys())
    finally:
        os.close(fd)


def await_filter_entries(host: Host, count: int) -> None:
    wait_until(lambda: entries(host, "filters") == count, WITHIN_S, f"{count} entries of filters")


def await_no_connections(host: Host) -> None:
    wait_until(lambda: not entries(host, "conns"), WITHIN_S, "no connection is left")


def counted_daemon(host: Host) -> Daemon:
    program = (sys.executable, "-m", "tests.netns.counted")
    return Daemon(host, program=program, env={"PYTHONPATH": str(ROOT)})


@contextmanager
def life() -> Iterator[Life]:
    with (
        direct() as net,
        counted_daemon(net.a) as a,
        counted_daemon(net.b) as b,
        EchoServer(net.b, PORT) as echo,
    ):
        a.ctl(
            "run",
            "--detach",
            "-f",
            f"remote={net.b.address()}:{PORT},{_SETTINGS}",
            "eth0",
            check=True,
        )
        b.ctl("run", "--detach", "-f", f"local=0.0.0.0:{PORT},{_SETTINGS}", "eth0", check=True)
        yield Life(net, a, b, echo)


def soak(report: Report, duration_s: float = 0.0) -> None:
    """Rounds until the time is over, twice the warm-up at least, then the checks.

    With a `duration_s` it is a long one, of many dozens of rounds: memory in RAM is judged too.
    """
    warm_up = LONG_WARM_UP_ROUNDS if duration_s else WARM_UP_ROUNDS
    with life() as one:
        before = attachments(one.net.a)
        until = time.monotonic() + duration_s
        while one.rounds < 2 * warm_up or time.monotonic() < until:
            # The memory of a connection lasts for 10 s, and a short soak does not wait for it
            # twice: those of its first round are gone soon.
            warming = 0 < one.rounds < warm_up
            one.round(connections=bool(duration_s) or not warming)
            if one.rounds == warm_up:
                one.count_blocks()
            if one.rounds % 50 == 0:
                first, second = one.samples[-1]
                report.say(
                    f"{one.rounds} rounds, {first.resident_kib} and {second.resident_kib} KiB"
                )
        one.count_blocks()
        report.say(f"{one.rounds} rounds, {one.asked} connections")
        for name, was, now in zip("AB", *one.blocks, strict=True):
            seen = f"{was} blocks, then {now}"
            report.check(f"no object of {name} leaks", now - was <= BLOCKS_MAX, seen)
        growth = one.growth_kib()
        seen = f"{growth[0]:+} and {growth[1]:+} KiB"
        if duration_s:
            report.check("memory is flat", max(growth) <= GROWTH_MAX_KIB, seen)
        else:
            report.say(f"memory in RAM: {seen}")
        early, late = one.samples[WARM_UP_ROUNDS], one.samples[-1]
        for name, was, now in zip("AB", early, late, strict=True):
            same = was.descriptors == now.descriptors
            count = f"{len(was.descriptors)}, then {len(now.descriptors)}"
            report.check(f"no descriptor of {name} leaks", same, count)
        kept = [entries(host, "filters") for host in (one.net.a, one.net.b)]
        report.check("no entry of a filter leaks", kept == [1, 1], f"{kept}")
        left = [entries(host, "conns") for host in (one.net.a, one.net.b)]
        report.check("no entry of a connection leaks", left == [0, 0], f"{left}")
        faults = one.faults()
        report.check("no exception is logged", not faults, "; ".join(faults[:3]))
        here = attachments(one.net.a)
        same = (here.links, here.filters, here.pins) == (before.links, before.filters, before.pins)
        report.check("nothing more is attached than at first", same, "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.netns.soak")
    parser.add_argument("--minutes", type=float, default=20.0)
    arguments = parser.parse_args()
    report = Report()
    report.heading(f"Soak, {arguments.minutes:g} minutes")
    soak(report, arguments.minutes * 60)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
