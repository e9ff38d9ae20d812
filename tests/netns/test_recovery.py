# SPDX-License-Identifier: GPL-2.0-only
"""The peer disappears and comes back: the next datagrams find their way by themselves.

The data path runs at both hosts, a firewall between them. Whoever speaks just goes on sending, ten
datagrams a second, as a program would that knows nothing of connections.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns.disguise import wire_capture
from tests.netns.talk import heard, say, say_until
from tests.rig.analysis import RST, SYN, Analysis, Packet
from tests.rig.attachments import attachments, bpf_mounts
from tests.rig.daemon import Foreground
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network, routed
from tests.rig.traffic import Endpoint, flow

PORT = 51820
SETTINGS = "handshake=1:3,keepalive=2:1:2:0"
LONGER_THAN_KEEPALIVE_S = 20.0
RECOVERY_S = 60.0
CLOSED_S = 2
"""How long the firewall remembers a closed connection; by default 10, for which no test waits."""

SPEAKERS = pytest.mark.parametrize("speaker", ["who opened", "the other"])
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


@dataclass(frozen=True)
class Pair:
    """A opened the flow to B, and data has gone both ways."""

    net: Network
    at_a: Foreground
    at_b: Foreground
    a: Endpoint
    b: Endpoint

    def speaks_again(self, speaker: str) -> None:
        """That end sends until it is heard at the other, which then answers."""
        here, there = (self.a, self.b) if speaker == "who opened" else (self.b, self.a)
        came: list[bytes] = []

        def is_heard() -> bool:
            came.extend(heard(there, 64, within_s=0.001))
            return b"again" in came

        say_until(here, b"again", is_heard, RECOVERY_S, f"{speaker} is heard again")
        say(there, b"answer")
        assert heard(here) == [b"answer"]


@pytest.fixture
def pair(family: int) -> Iterator[Pair]:
    with routed() as net:
        net.router.namespace.sysctl({"netfilter/nf_conntrack_tcp_timeout_close": CLOSED_S})
        with (
            running(net.a, f"remote={end_of(net.b, family)},{SETTINGS}") as at_a,
            running(net.b, f"local={end_of(net.b, family)},{SETTINGS}") as at_b,
        ):
            for program in (at_a, at_b):
                program.await_words("attached")
            with flow(net.a, net.b, family, port_b=PORT) as (a, b):
                say(a, b"hello")
                assert heard(b) == [b"hello"]
                say(b, b"hello yourself")
                assert heard(a) == [b"hello yourself"]
                yield Pair(net, at_a, at_b, a, b)


@pytest.fixture
def family() -> int:
    """IPv4 where a test does not say otherwise."""
    return 4


def end_of(host: Host, family: int) -> str:
    address = host.address(family)
    return f"{address}:{PORT}" if family == 4 else f"[{address}]:{PORT}"


@contextmanager
def running(host: Host, text: str) -> Iterator[Foreground]:
    with Foreground(host, "run", "-f", text, host.interface) as program:
        yield program


def stop_and_start(pair: Pair) -> None:
    """SIGTERM: the peer is told by RST."""
    assert pair.at_b.terminate() == 0
    start_again(pair.at_b)


def kill_and_start_from_nothing(pair: Pair) -> None:
    """As when a machine restarts: the peer is not told, and no trace of it is left."""
    pair.at_b.kill()
    remove_traces(pair.net.b)
    start_again(pair.at_b)


def kill_and_start(pair: Pair) -> None:
    """SIGKILL: what is attached goes on, and the next daemon takes it over."""
    pair.at_b.kill()
    start_again(pair.at_b)


def start_again(program: Foreground) -> None:
    told = program.log.count("attached (")
    program.start()

    def attached() -> bool:
        program.check_running()
        return program.log.count("attached (") > told

    wait_until(attached, RECOVERY_S, "attached again")


def remove_traces(host: Host) -> None:
    """Everything of a killed daemon: TC and XDP (by their pins, or a qdisc), the hop, pins."""
    host.namespace.run("tc", "qdisc", "del", "dev", host.interface, "clsact", check=False)
    for link in attachments(host).links:
        if link not in (host.interface, "lo"):
            host.namespace.run("ip", "link", "del", link, check=False)
    for mount in bpf_mounts():
        shutil.rmtree(mount / "mimicd" / str(host.namespace.inode), ignore_errors=True)
    wait_until(
        lambda: not (attachments(host).xdp or attachments(host).filters),
        5,
        "XDP and TC detached with their pins",
    )


LEAVES = {
    "was stopped": stop_and_start,
    "was killed": kill_and_start,
    "lost everything": kill_and_start_from_nothing,
}


@FAMILIES
@SPEAKERS
@pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)
def test_a_peer_that_comes_back_is_heard_and_hears(
    pair: Pair, leave: Callable[[Pair], None], speaker: str, tmp_path: Path
) -> None:
    with wire_capture(pair.net, tmp_path / "wire.pcap") as capture:
        leave(pair)
        pair.speaks_again(speaker)
    packets = capture.analysis().flow(pair.a.text, pair.b.text).packets
    assert all(packet.protocol == "tcp" for packet in packets)
    # A RST may be of a host without the data path, whose offload is not finished in a capture.
    assert not any(packet.bad_checksums for packet in packets if not packet.flags & RST)
    # A killed daemon is not missed: no new handshake, no RST.
    assert is_opened_again(packets) == (leave is not kill_and_start)


def is_opened_again(packets: tuple[Packet, ...]) -> bool:
    return any(packet.flags & (SYN | RST) for packet in packets)


@FAMILIES
@SPEAKERS
def test_after_a_cable_was_out_for_longer_than_keepalive_it_opens_again(
    pair: Pair, speaker: str, tmp_path: Path
) -> None:
    pair.net.router.unplug("b")
    for program in (pair.at_a, pair.at_b):
        program.await_words("the peer stopped answering", LONGER_THAN_KEEPALIVE_S)
    pair.net.router.plug("b")
    with wire_capture(pair.net, tmp_path / "wire.pcap") as capture:
        pair.speaks_again(speaker)
    assert is_opened_again(packets_of(pair, capture.analysis()))


@SPEAKERS
def test_after_a_cable_was_out_for_less_than_keepalive_it_just_goes_on(
    pair: Pair, speaker: str, tmp_path: Path
) -> None:
    with wire_capture(pair.net, tmp_path / "wire.pcap") as capture:
        pair.net.router.unplug("b")
        say(pair.a, b"lost")
        pair.net.router.plug("b")
        pair.speaks_again(speaker)
    assert not is_opened_again(packets_of(pair, capture.analysis()))


def packets_of(pair: Pair, analysis: Analysis) -> tuple[Packet, ...]:
    return analysis.flow(pair.a.text, pair.b.text).packets
