# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of the figures when there are many connections, or many filters.

Many connections come from few ports and many addresses of host A, because a process may not have
60,000 sockets everywhere. IPv4 on a direct link.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import arms, figures
from bench.arms import Arm
from bench.machine import used_s
from bench.options import Options
from bench.run import Step, measure_step, say, trouble
from bench.samples import Samples
from bench.session import Scenario, Session, running
from tests.rig.namespace import RigError
from tests.rig.network import Network

SCENARIO = Scenario()
SIZE_BYTES = 64
ADDRESSES = 64
FIRST_PORT = 2000
FILTER_FILE = "filters.conf"
WARM_MS = 120_000
"""Each connection has a handshake, and user space of both ends has a part in it."""
MOST_ASKED = 1_000_000
REST_WITHIN_S, REST_S, REST_SHARE = 60.0, 0.5, 0.02


def flows(connections: int) -> dict[str, int]:
    """Options of the load for so many flows: as many addresses as divide it, up to 64."""
    each = max(n for n in range(1, ADDRESSES + 1) if connections % n == 0)
    return {"sockets": connections // each, "addresses": each, "port": FIRST_PORT}


def filter_file(count: int) -> str:
    """Configuration with so many filters, less the one that the command line has.

    They name ends that nobody has (RFC 2544 sets 198.18.0.0/15 apart for benchmarks).
    """
    ends = (f"198.18.{at // 250}.{at % 250 + 1}:{arms.PORT}" for at in range(count - 1))
    return "".join(f"filter = remote={end}\n" for end in ends)


def connections(session: Session, count: int, seconds: float) -> dict[str, float]:
    """Flood, round trip and memory while so many connections stand, all of them in use."""
    _give_addresses(session.net)
    many = flows(count)
    start_s = time.monotonic()
    session.sender.ask(size=SIZE_BYTES, count=1, warm_ms=WARM_MS, **many)
    opened_s = time.monotonic() - start_s
    _rest(session)
    # They stand now, and a process that takes the same ports uses them.
    many["warm_ms"] = 0
    flood = figures.stream(session, SIZE_BYTES, seconds, **many)
    run, _ = session.begin()
    ms = int(seconds * 1000)
    asked = session.sender.ask(size=SIZE_BYTES, run=run, ms=ms, count=MOST_ASKED, **many)
    values = {"opened_ms": opened_s * 1000, **_costs(flood), "rtt_us": asked.p50_ns / 1000}
    return {
        f"connections.{count}.{name}": value for name, value in (values | _memory(session)).items()
    }


def _rest(session: Session) -> None:
    """Wait until the arm's programs are done with what new connections gave them to do."""
    deadline_s = time.monotonic() + REST_WITHIN_S
    while time.monotonic() < deadline_s:
        before_s = used_s(session.processes())
        time.sleep(REST_S)
        if used_s(session.processes()) - before_s < REST_SHARE * REST_S:
            return


def filters(session: Session, count: int, seconds: float) -> dict[str, float]:
    """The same on one connection while so many filters are there."""
    flood = figures.stream(session, SIZE_BYTES, seconds)
    trip = figures.round_trip(session, seconds)
    values = _costs(flood) | {"rtt_us": trip["rtt.p50_us"]} | _memory(session)
    if session.programs:
        values["ready_ms"] = session.ready_s * 1000
    return {f"filters.{count}.{name}": value for name, value in values.items()}


def _costs(flood: figures.Flood) -> dict[str, float]:
    return {
        "pps": flood.rate_pps,
        "cpu_us": flood.cpu_us,
        "ours_us": flood.ours_us,
        "way_us": flood.way_us,
        "loss_percent": 100 * flood.loss,
    }


def _memory(session: Session) -> dict[str, float]:
    found = figures.memory(session)
    return {"memory_mb": found["memory.mb"]} if found else {}


def _give_addresses(net: Network) -> None:
    """Those that the load sends from, to host A, and the way back to host B."""
    words = [f"address replace {address}/32 dev lo" for address in load_addresses()]
    net.a.namespace.run("ip", "-batch", "-", stdin="\n".join(words) + "\n")
    net.b.namespace.run("ip", "route", "replace", "203.0.113.0/24", "via", net.a.address(4))


def load_addresses() -> Iterator[str]:
    """What load/sources.c sends from."""
    return (f"203.0.113.{1 + at}" for at in range(ADDRESSES))


def measure_growth(options: Options, compared: Sequence[Arm], load: Path, samples: Samples) -> None:
    """Plain UDP and the project at every number of connections and of filters, into `samples`."""
    kinds: list[tuple[str, Sequence[int], Callable[..., dict[str, float]]]] = [
        ("connections", options.connections, connections),
        ("filters", options.filters, filters),
    ]
    for number in range(options.growth_passes):
        samples.begin_pass([arm.name for arm in compared])
        for kind, counts, measure in kinds:
            for count in counts if kind in options.figures else ():
                step = Step(
                    f"{count} {kind}", partial(measure, count=count, seconds=options.seconds)
                )
                files = {FILTER_FILE: filter_file(count if kind == "filters" else 1)}
                ordered = compared if number % 2 == 0 else compared[::-1]
                _at_one_size(options, samples, ordered, load, step, files)
        say(f"growth: pass {number + 1} of {options.growth_passes}")


def _at_one_size(
    options: Options,
    samples: Samples,
    compared: Sequence[Arm],
    load: Path,
    step: Step,
    files: dict[str, str],
) -> None:
    """Each arm once, in a network of its own; both stand while either is measured."""
    with contextlib.ExitStack() as stack:
        sessions = []
        for arm in compared:
            try:
                sessions.append(stack.enter_context(running(arm, SCENARIO, load, files)))
            except RigError as exc:
                trouble(samples, f"{step.name}: {exc}")
        for session in sessions:
            measure_step(options, samples, session, step)


def with_filter_file(arm: Arm) -> Arm:
    """The project reading the file of filters beside its own one."""
    option = f"-F {{folder}}/{FILTER_FILE}"
    return replace(
        arm,
        server=arm.server.replace(" -f ", f" {option} -f ", 1),
        client=arm.client.replace(" -f ", f" {option} -f ", 1),
    )
