# SPDX-License-Identifier: GPL-2.0-only
"""What is said changes while it runs; the trace says what a capture of the wire shows."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.disguise import remote_and_local, wire_capture
from tests.netns.talk import say
from tests.rig.analysis import ACK, PSH, RST, SYN, Packet
from tests.rig.daemon import Daemon, Foreground
from tests.rig.namespace import wait_until
from tests.rig.network import Network, routed
from tests.rig.traffic import burst, exchange, flow

PORT = 51820
WITHIN_S = 30.0
FLOOD = 8_000
LINE = re.compile(
    r"trace eth0: (?P<local>\S+) => (?P<remote>\S+) :: (?P<direction>sent|received)"
    r" - len=(?P<length>\d+), (?P<flags>[A-Z,]+) seq=(?P<seq>\d+), ack=(?P<ack>\d+)$"
)
FLAGS = {"SYN": SYN, "ACK": ACK, "PSH": PSH, "RST": RST}

Told = tuple[str, str, int, int, int, int]
"""Source, target, flags, seq, ack, length."""


@pytest.fixture(scope="module", params=["native", "none"], ids=["XDP", "TC"])
def running(request: pytest.FixtureRequest) -> Iterator[tuple[Network, Daemon]]:
    """The daemon at A; B disguises without a bus."""
    with (
        routed() as net,
        Daemon(net.a) as daemon,
        Foreground(net.b, "run", "-f", remote_and_local(net, 4, PORT)[1], "eth0") as b,
    ):
        at_a = remote_and_local(net, 4, PORT)[0]
        daemon.ctl("run", "--detach", "-x", request.param, "-f", at_a, "eth0", check=True)
        b.await_attached()
        yield net, daemon


def traced(log: str) -> list[Told]:
    found = [LINE.search(line) for line in log.splitlines() if " - len=" in line]
    told = []
    for one in found:
        assert one is not None, log
        ends = one["local"], one["remote"]
        source, target = ends if one["direction"] == "sent" else ends[::-1]
        flags = sum(FLAGS[name] for name in one["flags"].split(","))
        told.append((source, target, flags, int(one["seq"]), int(one["ack"]), int(one["length"])))
    return told


def captured(packet: Packet) -> Told:
    return (
        *(packet.source, packet.target, packet.flags),
        *(packet.seq, packet.ack, packet.length_bytes),
    )  # fmt: skip


def test_every_segment_on_the_wire_has_a_line_as_long_as_the_level_is_trace(
    running: tuple[Network, Daemon], tmp_path: Path
) -> None:
    net, daemon = running
    daemon.ctl("log", "trace", "eth0", check=True)
    with (
        daemon.client("monitor", "eth0") as monitor,
        flow(net.a, net.b, family=4, port_b=PORT) as (end_a, end_b),
    ):
        monitor.await_words("watching mimicd")
        with wire_capture(net, tmp_path / "wire.pcap") as capture:
            exchange(end_a, end_b, count=150, largest_bytes=100, seed=3)
        # No segment repeats another's numbers but bare ACKs, which may come twice.
        wire = sorted(captured(p) for p in capture.analysis().flow(end_a.text, end_b.text).packets)
        assert len(wire) >= 300
        wait_until(lambda: len(traced(daemon.log)) >= len(wire), WITHIN_S, "all lines of the trace")
        assert sorted(traced(daemon.log)) == wire
        assert "established" in daemon.log
        # The bus is told the same.
        wait_until(lambda: len(traced(monitor.log)) >= len(wire), WITHIN_S, "the client's lines")
        assert sorted(traced(monitor.log)) == wire

        assert '"log.verbosity": "trace"' in daemon.ctl("show", "--json").stdout
        daemon.ctl("log", "info", "eth0", check=True)
        before = len(traced(daemon.log))
        exchange(end_a, end_b, count=150, largest_bytes=100, seed=4)
        daemon.ctl("log", "debug", check=True)
        assert len(traced(daemon.log)) == before
        assert '"log.verbosity": "debug"' in daemon.ctl("show", "--json").stdout


def test_a_flood_is_traced_as_far_as_lines_can_go_and_the_rest_is_counted(
    running: tuple[Network, Daemon],
) -> None:
    net, daemon = running
    before = len(daemon.log)
    daemon.ctl("log", "trace", check=True)
    with flow(net.a, net.b, family=4, port_b=PORT) as (end_a, end_b):
        exchange(end_a, end_b, count=150, largest_bytes=100, seed=5)
        sent = burst(end_a, end_b, count=FLOOD).sent
        assert sent == FLOOD
        said = re.compile(r"warn  eth0: (\d+) segments are not told")

        def all_accounted_for() -> bool:
            log = daemon.log[before:]
            untold = sum(int(count) for count in said.findall(log))
            told = sum(source == end_a.text for source, *_ in traced(log))
            return untold > 0 and told + untold >= FLOOD

        wait_until(all_accounted_for, WITHIN_S, "what was not told is counted and said")
        daemon.ctl("log", "info", check=True)
        verdicts = exchange(end_a, end_b, count=150, largest_bytes=100, seed=6)
        assert all(verdict.clean for verdict in verdicts)


def test_without_a_bus_the_options_say_how_much_is_logged(direct_network: Network) -> None:
    net = direct_network
    at_a, _ = remote_and_local(net, 6, PORT)
    with (
        Foreground(net.a, "run", "-vv", "-f", at_a, "eth0") as loud,
        flow(net.a, net.b, family=6, port_b=PORT) as (end_a, _),
    ):
        loud.await_words("info  eth0: attached")
        say(end_a, b"hello")
        loud.await_words(":: sent - len=0, SYN seq=")
        loud.await_words("debug eth0: ")
    with Foreground(net.a, "run", "-q", "-f", at_a, "eth0") as quiet:
        quiet.await_attached()
        assert quiet.terminate() == 0
        assert quiet.log == ""


def test_sighup_takes_over_the_level_of_the_file(direct_network: Network, tmp_path: Path) -> None:
    net = direct_network
    filter_ = f"filter = {remote_and_local(net, 4, PORT)[0]}\n"
    config = tmp_path / "eth0.conf"
    config.write_text(f"{filter_}log.verbosity = warn\n")
    with (
        Foreground(net.a, "run", "-F", str(config), "eth0") as program,
        flow(net.a, net.b, family=4, port_b=PORT) as (end_a, _),
    ):
        program.await_attached()
        assert program.log == ""
        config.write_text(f"{filter_}log.verbosity = 4\n")
        program.signal(signal.SIGHUP)
        program.await_words("info  eth0: reloaded")
        say(end_a, b"hello")
        program.await_words(":: sent - len=0, SYN seq=")


def test_sighup_while_it_begins_is_not_lost(direct_network: Network, tmp_path: Path) -> None:
    net = direct_network
    filter_ = f"filter = {remote_and_local(net, 4, PORT)[0]}\n"
    config = tmp_path / "eth0.conf"
    config.write_text(f"{filter_}log.verbosity = warn\n")
    with Foreground(net.a, "run", "-F", str(config), "eth0") as program:

        def takes_sighup() -> bool:
            program.check_running()
            status = Path(f"/proc/{program.pid}/status").read_text(encoding="ascii")
            (caught,) = re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
            return bool(int(caught, 16) & 1 << signal.SIGHUP - 1)

        wait_until(takes_sighup, 30, "SIGHUP caught")
        config.write_text(f"{filter_}log.verbosity = info\n")
        program.signal(signal.SIGHUP)
        program.await_words("info  eth0: reloaded")
