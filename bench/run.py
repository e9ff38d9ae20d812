# SPDX-License-Identifier: GPL-2.0-only
"""One scenario measured: arms by turns, step by step, pass by pass.

In a pass every arm is started in a network of its own and stays there, idle, while the others are
measured. Then, for each step (one figure at one size), every arm has its turn, in one order and in
the next step in the other: what is compared was measured seconds apart.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import figures
from bench.arms import Arm
from bench.bpf_time import bpf_time, checksum_states
from bench.machine import Strangers, wait_for_calm
from bench.options import Options
from bench.samples import Samples
from bench.session import Scenario, Session, running
from bench.start import start
from bench.wireguard import wireguard
from tests.rig.namespace import RigError

MAX_STRANGERS_SHARE = 0.15
REPEATS = 2


Measure = Callable[[Session], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement of one arm."""

    name: str
    measure: Measure


def steps(options: Options) -> list[Step]:
    """What a pass does, in order."""
    seconds, rate_pps, times = options.seconds, options.rate_pps, options.times
    whole: dict[str, Measure] = {
        "memory": figures.memory,
        "rtt": partial(figures.round_trip, seconds=seconds),
    }
    by_size: dict[str, Callable[..., dict[str, float]]] = {
        "flood": partial(figures.flood, seconds=seconds),
        "paced": partial(figures.paced, seconds=seconds, rate=rate_pps),
        "rate": partial(figures.highest_rate, seconds=seconds),
        "segments": partial(figures.segments, seconds=seconds),
        "bpf": partial(bpf_time, seconds=seconds),
        "checksum": partial(checksum_states, seconds=seconds),
    }
    # These leave connections behind, so they come last.
    last: dict[str, Measure] = {
        "cold": partial(figures.cold, times=times),
        "burst": partial(figures.burst, times=times),
        "wireguard": partial(wireguard, seconds=seconds),
        "start": start,
    }
    found = [Step(name, run) for name, run in whole.items()]
    for name, run in by_size.items():
        found += [Step(f"{name} {size}", partial(run, size=size)) for size in options.sizes]
    found += [Step(name, run) for name, run in last.items()]
    return [step for step in found if step.name.split()[0] in options.figures]


def measure(
    options: Options, scenario: Scenario, arms: Sequence[Arm], load: Path, samples: Samples
) -> None:
    """All passes, into `samples`. What an arm cannot do is noted, and the others go on."""
    for number in range(options.passes):
        start_s = time.monotonic()
        samples.begin_pass([arm.name for arm in arms])
        ordered = list(arms) if number % 2 == 0 else list(reversed(arms))
        with contextlib.ExitStack() as stack:
            sessions = []
            for arm in ordered:
                try:
                    sessions.append(stack.enter_context(running(arm, scenario, load)))
                except RigError as exc:
                    trouble(samples, f"pass {number + 1}: {exc}")
            for step in steps(options):
                for session in sessions:
                    measure_step(options, samples, session, step)
                sessions.reverse()
        say(
            f"{scenario}: pass {number + 1} of {options.passes}, {time.monotonic() - start_s:.0f} s"
        )


def measure_step(options: Options, samples: Samples, session: Session, step: Step) -> None:
    """A step that strangers disturbed is repeated; the least disturbed one counts."""
    where = f"{session.arm.name}, {step.name}"
    best: tuple[float, dict[str, float]] | None = None
    for _ in range(1 + (REPEATS if options.calm_s else 0)):
        wait_for_calm(options.calm_s)
        strangers = Strangers()
        try:
            session.check_running()
            values = step.measure(session)
        except RigError as exc:
            trouble(samples, f"{where}: {exc}")
            return
        share = strangers.share() + strangers.stolen_share()
        if best is None or share < best[0]:
            best = (share, values)
        if share <= MAX_STRANGERS_SHARE:
            break
    assert best is not None
    if best[0] > MAX_STRANGERS_SHARE:
        samples.disturbances.append((where, best[0]))
        say(f"{where}: others took {best[0]:.0%} of a CPU meanwhile")
    samples.add(session.arm.name, best[1])


def trouble(samples: Samples, words: str) -> None:
    samples.troubles.append(words)
    say(words)


def say(words: str) -> None:
    """To whoever waits: results go to stdout, this does not."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)
