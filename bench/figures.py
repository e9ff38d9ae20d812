# SPDX-License-Identifier: GPL-2.0-only
"""The figures that need only datagrams: each measures one arm once and gives values by metric."""

import statistics
from dataclasses import dataclass

from bench.machine import Strangers, memory_bytes, tree, used_s
from bench.session import Session
from bench.traffic import Sent, Tally

WARM_MS = 5000
BURST_DATAGRAMS = 32
SMALL_BYTES = 64
MOST_ASKED = 1_000_000
MOST_SEGMENTS = 64
SUPERPACKET_BYTES = 60_000
RATE_STEPS = 8
RATE_LOSS_MAX = 0.001
RATE_REACHED = 0.97
"""A sender that cannot offer the rate says nothing about the receiver."""


@dataclass(frozen=True, slots=True)
class Flood:
    """One stream of datagrams and what became of it."""

    sent: Sent
    tally: Tally
    strangers_share: float
    ours_s: float
    """Processor time of sender, receiver and the arm's programs, whatever others did meanwhile."""

    @property
    def rate_pps(self) -> float:
        """Of what arrived, by the receiver's clock."""
        if self.tally.packets < 2:
            return 0.0
        seconds = (self.tally.last_ns - self.tally.first_ns) / 1e9
        # A tail that came late must not make the rate look better than the load was long.
        return self.tally.packets / max(seconds, 0.9 * self.sent.seconds)

    @property
    def loss(self) -> float:
        return 1 - self.tally.packets / self.sent.offered if self.sent.offered else 1.0

    @property
    def offered_pps(self) -> float:
        return self.sent.offered / self.sent.seconds

    @property
    def cpu_us(self) -> float:
        """Processor time of the whole machine, but for strangers', for each that arrived."""
        busy_s = self.sent.busy_s - self.strangers_share * self.sent.wall_s
        return max(0.0, busy_s) * 1e6 / self.tally.packets if self.tally.packets else 0.0

    @property
    def ours_us(self) -> float:
        """For each that arrived."""
        return self.ours_s * 1e6 / self.tally.packets if self.tally.packets else 0.0

    @property
    def way_us(self) -> float:
        """Processor time of the sending thread for each datagram: on veth its whole way."""
        return self.sent.sender_s * 1e6 / self.sent.offered if self.sent.offered else 0.0


def stream(session: Session, size: int, seconds: float, rate: int = 0, **options: int) -> Flood:
    """Send for so long, at a rate or (0) as fast as it goes, on a connection that stands."""
    run, start = session.begin()
    arm_before_s, strangers = used_s(session.processes()), Strangers()
    sent = session.sender.send(
        **{"size": size, "run": run, "warm_ms": WARM_MS, "rate": rate, "ms": int(seconds * 1000)}
        | options
    )
    share = strangers.share()
    tally = session.receiver.settle()
    arm_s = used_s(session.processes()) - arm_before_s
    ours_s = sent.sender_s + tally.receiver_s - start.receiver_s + arm_s
    return Flood(sent, tally, share, ours_s)


def flood(session: Session, size: int, seconds: float) -> dict[str, float]:
    """As fast as one core sends."""
    result = stream(session, size, seconds)
    name = f"flood.{size}"
    return {
        f"{name}.pps": result.rate_pps,
        f"{name}.cpu_us": result.cpu_us,
        f"{name}.ours_us": result.ours_us,
        f"{name}.way_us": result.way_us,
        f"{name}.loss_percent": 100 * result.loss,
    }


def paced(session: Session, size: int, seconds: float, rate: int) -> dict[str, float]:
    """At a rate that everybody manages: the cost of a datagram without overload."""
    result = stream(session, size, seconds, rate)
    return {
        f"paced.{size}.cpu_us": result.cpu_us,
        f"paced.{size}.loss_percent": 100 * result.loss,
    }


def segments(session: Session, size: int, seconds: float) -> dict[str, float]:
    """Superpackets (UDP_SEGMENT), as many datagrams in each as it holds; counted as datagrams."""
    each = min(MOST_SEGMENTS, SUPERPACKET_BYTES // size)
    result = stream(session, size, seconds, segments=each)
    name = f"segments.{size}"
    return {
        f"{name}.pps": result.rate_pps,
        f"{name}.cpu_us": result.cpu_us,
        f"{name}.ours_us": result.ours_us,
        f"{name}.loss_percent": 100 * result.loss,
    }


def highest_rate(session: Session, size: int, seconds: float) -> dict[str, float]:
    """The highest rate at which at most 0.1 % is lost, by halving the interval."""
    first = stream(session, size, seconds)
    low, high = 0.0, first.offered_pps
    if first.loss <= RATE_LOSS_MAX:
        return {f"rate.{size}.pps": first.rate_pps}
    rate = min(high, first.rate_pps)
    for _ in range(RATE_STEPS):
        step = stream(session, size, seconds, int(rate))
        if step.loss <= RATE_LOSS_MAX and step.offered_pps >= RATE_REACHED * rate:
            low = rate
        else:
            high = rate
        rate = (low + high) / 2
    return {f"rate.{size}.pps": low}


def round_trip(session: Session, seconds: float) -> dict[str, float]:
    """One small datagram at a time, there and back."""
    asked = session.sender.ask(
        size=SMALL_BYTES,
        run=session.begin()[0],
        warm_ms=WARM_MS,
        ms=int(seconds * 1000),
        count=MOST_ASKED,
    )
    return {
        "rtt.p50_us": asked.p50_ns / 1000,
        "rtt.p99_us": asked.p99_ns / 1000,
        "rtt.lost": asked.lost,
    }


def cold(session: Session, times: int) -> dict[str, float]:
    """The first datagram of a connection that does not stand yet, from sending to arrival."""
    latencies_ms, lost = [], 0
    for _ in range(times):
        tally = _from_new_port(session, 1)
        if tally.packets:
            latencies_ms.append(tally.first_latency_ns / 1e6)
        else:
            lost += 1
    values = {"cold.lost_percent": 100 * lost / times}
    if latencies_ms:
        values["cold.first_ms"] = statistics.median(latencies_ms)
    return values


def burst(session: Session, times: int) -> dict[str, float]:
    """Many at once on a connection that does not stand yet: how many arrive, in order."""
    in_order, last_ms = 0, []
    for _ in range(times):
        tally = _from_new_port(session, BURST_DATAGRAMS)
        in_order += tally.packets - tally.late
        last_ms.append(tally.last_latency_ns / 1e6)
    return {
        "burst.in_order_percent": 100 * in_order / (times * BURST_DATAGRAMS),
        "burst.last_ms": statistics.median(last_ms),
    }


def _from_new_port(session: Session, count: int) -> Tally:
    run, _ = session.begin()
    session.sender.send(size=SMALL_BYTES, run=run, count=count, port=next(session.ports))
    return session.receiver.settle(wanted=count)


def memory(session: Session) -> dict[str, float]:
    """Of the larger side, and how long the arm took to its first answer; plain UDP has neither."""
    if not session.programs:
        return {}
    largest = max(memory_bytes(tree([program.pid])) for program in session.programs)
    return {"memory.mb": largest / 1e6, "ready.ms": session.ready_s * 1000}
