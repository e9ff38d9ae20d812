# SPDX-License-Identifier: GPL-2.0-only
"""Somebody sends what he likes, in the name of the peer and of others: it ends nothing.

What he cannot know are the numbers of a connection; where he hits them, or has RST with seq 0,
which mimic sends too, he could as well be the peer. Data is delivered, whoever sent it: as with
UDP.
"""

import errno
import itertools
import json
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bpf.model import WINDOW, WORD
from tests.netns.disguise import remote_and_local
from tests.netns.talk import heard, say
from tests.rig.daemon import Daemon
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network
from tests.rig.noise import UDP, any_packet
from tests.rig.segment import ACK, FIN, PSH, RST, SYN, End, Segment, encode_packet, end
from tests.rig.traffic import Endpoint, exchange, flow

PORT = 51820
FRAMES = 2000
SIZES = [31, 1400] * 100
GROWTH_MAX_KIB = 512
WITHIN_S = 20.0


@contextmanager
def attacker(host: Host, family: int) -> Iterator[Callable[[bytes], None]]:
    """Sends IP packets from the host's end of the cable; what its queue does not take is lost."""
    kind = 0x0800 if family == 4 else 0x86DD
    next_hop = bytes.fromhex(host.next_hop_mac.replace(":", ""))

    def open_() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)

    def send(data: bytes) -> None:
        try:
            packet.sendto(data, (host.interface, kind, 0, 0, next_hop))
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise

    with host.namespace.call(open_) as packet:
        yield send


def shown(daemon: Daemon) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(daemon.ctl("show", "--json", check=True).stdout)
    return facts


def own_answers(host: Host) -> int:
    """RSTs that the host's own TCP has sent (OutRsts of RFC 4022)."""

    def look() -> int:
        lines = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii").splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(values[names.index("OutRsts")])

    return host.namespace.call(look)


def outside(chance: random.Random, entry: dict[str, Any]) -> int:
    """A sequence number that the connection does not wait for, nor did a while ago."""
    window = 2 * WINDOW[False]
    return (int(entry["ack"]) + chance.randrange(window, WORD - window)) % WORD or 1


def forged(chance: random.Random, peer: End, ours: End, entry: dict[str, Any]) -> bytes:
    """With a right checksum, of the peer's address; but its numbers are guessed.

    Only the checksum of data is wrong, which the programs do not look at: it would be delivered.
    """
    seq = outside(chance, entry)
    beyond = (int(entry["seq"]) + chance.randrange(1, 1 << 30)) % WORD
    flags, ack, payload = chance.choice(
        [
            (RST, 0, b""),
            (RST | ACK, beyond, b""),
            (FIN | ACK, beyond, b""),
            (SYN, 0, b""),
            (SYN | ACK, beyond, b""),
            (ACK, beyond, b""),
            (ACK | PSH, beyond, b"not of the peer"),
            (SYN | FIN, 0, b""),
            (0, 0, b""),
            (PSH, 0, b"no flag that counts"),
        ]
    )
    segment = Segment(peer, ours, flags, seq, ack, chance.randrange(65536), payload)
    packet = bytearray(encode_packet(segment))
    if payload:
        packet[-1] ^= 1
    return bytes(packet)


@pytest.mark.parametrize(
    ("xdp_mode", "family"), [("native", 6), ("none", 4)], ids=["XDP, IPv6", "TC, IPv4"]
)
def test_whatever_is_sent_in_its_name_a_flow_goes_on_and_nothing_is_kept(
    direct_network: Network, xdp_mode: str, family: int
) -> None:
    net = direct_network
    chance = random.Random(family)
    at_a, at_b = remote_and_local(net, family, PORT)
    with (
        Daemon(net.a) as a,
        Daemon(net.b) as b,
        flow(net.a, net.b, family, port_b=PORT) as ends,
        attacker(net.a, family) as send,
    ):
        a.ctl("run", "--detach", "-x", xdp_mode, "-f", at_a, "eth0", check=True)
        b.ctl("run", "--detach", "-x", xdp_mode, "-f", at_b, "eth0", check=True)
        assert all(verdict.clean for verdict in exchange(*ends, SIZES))
        (before,) = shown(b)["connections"]
        before_kib, answers = b.resident_kib(), own_answers(net.b)
        ours = end(net.b.address(family), PORT)
        peer = end(net.a.address(family), ends[0].socket.getsockname()[1])
        for number in range(FRAMES):
            stranger = replace(peer, port=1 + chance.randrange(65535))
            source = chance.choice([peer, stranger])
            send(any_packet(chance, source, ours, seq=outside(chance, before)))
            # what leaves A as UDP of the flow meets the programs there
            send(any_packet(chance, peer, ours, UDP))
            send(forged(chance, peer, ours, before))
            if number % 500 == 499:
                assert all(verdict.clean for verdict in exchange(*ends, SIZES, seed=number))
        facts = shown(b)
        (after,) = facts["connections"]
        counters = facts["interfaces"][0]["counters"]
        same = ("state", "role", "local", "remote")
        sent = shown(a)["interfaces"][0]["counters"]
        growth_kib = b.resident_kib() - before_kib
        assert {key: after[key] for key in same} == {key: before[key] for key in same}
        # it is still the same connection: it did not begin again
        assert after["age"] >= before["age"]
        for name in ("malformed", "checksum", "reset", "ack", "flags", "unexpected"):
            assert counters[f"drop-rx-{name}"] > 0, name
        assert sent["drop-malformed"] > 0
        assert counters.get("rx-rst", 0) == counters.get("rx-fin", 0) == 0
        assert own_answers(net.b) == answers
        assert growth_kib <= GROWTH_MAX_KIB
        assert len(facts["connections"]) == 1
        for program in (a, b):
            program.check_running()
            assert "Traceback" not in program.log


def await_flow(source: Endpoint, target: Endpoint) -> None:
    """Until the latest datagram arrives; nothing is under way then."""
    numbers = itertools.count()

    def goes_on() -> bool:
        say(source, last := b"%d" % next(numbers))
        return last in heard(target, 10, 0.1)

    wait_until(goes_on, WITHIN_S, "a datagram arrives")


@pytest.mark.parametrize("xdp_mode", ["native", "none"])
@pytest.mark.parametrize("distance", [WORD // 2 - 1000, WORD // 2 + 1000], ids=["on", "back"])
def test_a_sender_whose_numbers_were_moved_goes_on(
    direct_network: Network, xdp_mode: str, distance: int
) -> None:
    """Forged data moves what A expects, a forged ACK says that B takes nothing more."""
    net = direct_network
    at_a, at_b = remote_and_local(net, 4, PORT)
    with (
        Daemon(net.a) as a,
        Daemon(net.b) as b,
        flow(net.a, net.b, 4, port_b=PORT) as (one, other),
        attacker(net.b, 4) as send,
    ):
        a.ctl("run", "--detach", "-x", xdp_mode, "-f", at_a, "eth0", check=True)
        b.ctl("run", "--detach", "-x", xdp_mode, "-f", at_b, "eth0", check=True)
        assert all(verdict.clean for verdict in exchange(one, other, SIZES))
        (entry,) = shown(a)["connections"]
        names = end(net.b.address(), PORT), end(net.a.address(), one.socket.getsockname()[1])
        seq = (entry["ack"] + distance) % WORD
        for _ in range(2):
            for ack in range(0, WORD, WORD // 4):
                data = bytearray(encode_packet(Segment(*names, ACK | PSH, seq, ack, 0, b"xy")))
                data[-1] ^= 1  # so that UDP drops it
                send(bytes(data))
                send(encode_packet(Segment(*names, ACK, seq + 2, ack, 0)))

        def is_moved() -> bool:
            (entry,) = shown(a)["connections"]
            return bool(entry["ack"] == seq + 2 and entry["peer-window"] == 0)

        wait_until(is_moved, WITHIN_S, "the numbers of A are moved")

        for ends in ((one, other), (other, one)):
            await_flow(*ends)
            to_other, _ = exchange(*ends, SIZES, both=False)
            assert to_other.clean, to_other
        (after,) = shown(a)["connections"]
        assert after["state"] == "established"
        assert after["age"] >= entry["age"]
