# SPDX-License-Identifier: GPL-2.0-only
"""The acts of the demonstration, in order; each prints what it does and checks what came of it."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.demo import iperf
from tests.demo.iperf import Throughput
from tests.demo.machine import Machine
from tests.demo.report import Report
from tests.rig.analysis import Analysis
from tests.rig.capture import Capture
from tests.rig.datagrams import Verdict
from tests.rig.echo import EchoServer, ask
from tests.rig.network import Host, Network
from tests.rig.traffic import endpoint, exchange, flow

ECHO_PORT = 51820
# Below the ports that the kernel gives out, so that nobody else gets them.
ASKER_PORT = 20000
QUESTIONS = 200
DATAGRAMS = 2000
LARGEST_BYTES = 1400
PACED_RATE = "50M"
PACED_S = 2
FLOOD_S = 3
WIRE = f"port {ECHO_PORT} or port {iperf.CLIENT_PORT}"


@dataclass
class Stage:
    """What the acts share."""

    report: Report
    network: Network
    folder: Path
    """For captures and logs; removed at the end."""

    @property
    def a(self) -> Host:
        return self.network.a

    @property
    def b(self) -> Host:
        return self.network.b

    @contextlib.contextmanager
    def wire(self, name: str) -> Iterator[Capture]:
        """A capture of the programs' traffic at the router's interface towards A."""
        router = self.network.router
        path = self.folder / f"{name}.pcap"
        with Capture(router.namespace, router.interface("a"), path, WIRE) as capture:
            yield capture


def introduce(stage: Stage) -> None:
    a, b = stage.a.address(4), stage.b.address(4)
    stage.report.say("mimicd: chosen UDP flows cross the network as TCP")
    stage.report.say("")
    stage.report.say(f"host A {a}  ----  router: nft 'ct state invalid drop'  ----  host B {b}")


def plain(stage: Stage) -> Throughput:
    """The programs as they are; what they reach over plain UDP."""
    report = stage.report
    report.heading("Before: plain UDP")
    with stage.wire("plain") as capture:
        answered = _echo(stage)
    report.say("The wire, at the router:")
    report.quote(_first_packets(capture, 4))
    seen = capture.analysis().everything()
    report.check(
        "before: the echo program answers over plain UDP, and the wire shows UDP",
        answered == QUESTIONS and seen.udp >= 2 * QUESTIONS and seen.tcp == 0,
        f"{answered} of {QUESTIONS} answered; {seen.udp} UDP and {seen.tcp} TCP packets",
    )
    return _flood(stage)


def start(stage: Stage, at_a: Machine, at_b: Machine) -> None:
    report = stage.report
    report.heading("mimicd at both hosts, each on a bus of its own")
    b4, b6 = stage.b.address(4), stage.b.address(6)
    iperf_end = f"{stage.a.address(4)}:{iperf.CLIENT_PORT}"
    at_a.run(f"remote={b4}:{ECHO_PORT}", f"remote=[{b6}]:{ECHO_PORT}", f"local={iperf_end}")
    at_b.run(f"local={b4}:{ECHO_PORT}", f"local=[{b6}]:{ECHO_PORT}", f"remote={iperf_end}")


def disguised(stage: Stage, before: Throughput) -> None:
    """The same programs again, unchanged."""
    report = stage.report
    report.heading("After: the same programs, unchanged")
    with stage.wire("disguised") as capture:
        first = _first_question(stage)
        answered = _echo(stage)
        for family in (4, 6):
            _exchange(stage, family)
        report.command("A", iperf.command(stage.b, PACED_RATE, PACED_S))
        paced = iperf.measure(stage.a, stage.b, PACED_RATE, PACED_S)
        report.say(str(paced))
    report.say("The wire, at the router:")
    report.quote(_first_packets(capture, 6))
    report.check("the first datagram on a cold connection is answered", first, "")
    report.check(
        "the echo program answers", answered == QUESTIONS, f"{answered} of {QUESTIONS} answered"
    )
    report.check(f"iperf3 at {PACED_RATE}bit/s loses nothing", paced.lost == 0, str(paced))
    _judge_wire(stage, capture.analysis())

    firewall = stage.network.router.firewall
    udp_before = firewall.forwarded("udp")
    after = _flood(stage)
    slipped = firewall.forwarded("udp") - udp_before
    report.check(
        "a flood crosses as TCP too",
        after.mbit_per_s > 0 and slipped == 0,
        f"{after.mbit_per_s:.0f} Mbit/s, {slipped} UDP packets",
    )
    ratio = after.mbit_per_s / before.mbit_per_s if before.mbit_per_s else 0
    report.say(
        f"Flood: plain UDP {before.mbit_per_s:.0f} Mbit/s, with mimicd {after.mbit_per_s:.0f} "
        f"Mbit/s, ratio {ratio:.2f}"
    )
    invalid = firewall.invalid()
    report.check("the firewall called no packet invalid", invalid == 0, f"{invalid} invalid")


def show(stage: Stage, at_a: Machine, at_b: Machine) -> None:
    stage.report.heading("What mimicctl shows")
    for machine in (at_a, at_b):
        machine.show()


def stop(stage: Stage, at_a: Machine, at_b: Machine) -> None:
    """Ctrl-C for `mimicctl run`, then for mimicd; everything is as before."""
    report = stage.report
    report.heading("Stop")
    for machine in (at_a, at_b):
        machine.stop()
    with stage.wire("stopped") as capture:
        answered = _echo(stage)
    seen = capture.analysis().everything()
    report.check(
        "after: plain UDP again",
        answered == QUESTIONS and seen.udp >= 2 * QUESTIONS and seen.tcp == 0,
        f"{answered} of {QUESTIONS} answered; {seen.udp} UDP and {seen.tcp} TCP packets",
    )


def _first_question(stage: Stage) -> bool:
    with (
        EchoServer(stage.b, ECHO_PORT) as server,
        endpoint(stage.a, port=ASKER_PORT) as asker,
    ):
        return ask(asker, server.endpoint)


def _echo(stage: Stage) -> int:
    """One asker, many questions; how many were answered with their own bytes."""
    with (
        EchoServer(stage.b, ECHO_PORT) as server,
        endpoint(stage.a, port=ASKER_PORT) as asker,
    ):
        answered = sum(ask(asker, server.endpoint, b"%064d" % n, 1.0) for n in range(QUESTIONS))
    stage.report.say(f"A asks the echo program at B: {answered} of {QUESTIONS} answered")
    return answered


def _exchange(stage: Stage, family: int) -> None:
    with flow(stage.a, stage.b, family, port_b=ECHO_PORT) as (end_a, end_b):
        to_b, to_a = exchange(end_a, end_b, count=DATAGRAMS, largest_bytes=LARGEST_BYTES)
    words = f"A to B {_words(to_b)}; B to A {_words(to_a)}"
    stage.report.say(f"{DATAGRAMS} datagrams of 0 to {LARGEST_BYTES} bytes, IPv{family}: {words}")
    stage.report.check(
        f"IPv{family} datagrams of every size arrive both ways, byte for byte, in order",
        to_b.clean and to_a.clean,
        words,
    )


def _words(verdict: Verdict) -> str:
    lost = len(verdict.missing)
    return f"{verdict.received} came, {lost} lost, {verdict.corrupt} corrupt, {verdict.late} late"


def _judge_wire(stage: Stage, analysis: Analysis) -> None:
    """Each claim is about TCP, so UDP that passed untouched fails them all."""
    seen = analysis.everything()
    bad = sum(seen.bad_checksums.values())
    warnings = ", ".join(f"{count} {name}" for name, count in seen.warnings.items())
    for claim, holds, words in (
        ("the wire shows TCP only", seen.udp == 0, f"{seen.udp} UDP and {seen.tcp} TCP packets"),
        ("every checksum on the wire is right", bad == 0, f"{bad} wrong"),
        ("no connection was reset", seen.resets == 0, f"{seen.resets} RST"),
        ("tshark finds nothing odd in the sequence", not warnings, warnings or "0 warnings"),
    ):
        stage.report.check(claim, holds and seen.tcp > 0, words if seen.tcp else "no TCP at all")
    for fault in seen.faults()[:5]:
        stage.report.quote(fault)


def _flood(stage: Stage) -> Throughput:
    stage.report.command("A", iperf.command(stage.b, "0", FLOOD_S))
    result = iperf.measure(stage.a, stage.b, "0", FLOOD_S)
    stage.report.say(str(result))
    return result


def _first_packets(capture: Capture, count: int) -> str:
    done = subprocess.run(
        ["tcpdump", "-n", "-t", "-S", "-r", str(capture.path), "-c", str(count), WIRE],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout
