# SPDX-License-Identifier: GPL-2.0-only
"""python -m bench [OPTION...]: measure, print the table, write the files.

Exit code: 0 measured, 1 failed (or, with --strict, a target was missed), 2 bad usage, 130 Ctrl-C.
"""

import itertools
import os
import signal
import sys
from dataclasses import asdict

from bench import growth, machine, report
from bench.arms import Arm, ours, plain
from bench.options import Options, parse
from bench.report import Result
from bench.run import measure, say, steps
from bench.samples import Samples
from bench.session import Scenario
from bench.traffic import build
from tests.rig.daemon import command_path
from tests.rig.namespace import RigError, scratch_folder


def main() -> int:
    options = parse(sys.argv[1:])
    if os.geteuid() != 0:
        print("bench: network namespaces need root; run it as root", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, _end)
    results: list[Result] = []
    try:
        _measure(options, results)
    except RigError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    finally:
        # However it ended: what was measured is worth having. Networks and programs are gone.
        _tell(options, results)
    missed = any(not verdict.is_met for result in results for verdict in result.verdicts)
    return 1 if options.strict and missed else 0


def _measure(options: Options, results: list[Result]) -> None:
    arms: list[Arm] = [plain(), ours(command_path("mimicd"), options.ours_options)]
    arms += options.others
    with scratch_folder() as folder:
        load = build(folder)
        pairs = itertools.product(options.topologies, options.families)
        for topology, family in pairs if steps(options) else ():
            scenario = Scenario(topology, family, options.offload, options.apart)
            results.append(Result(scenario, Samples()))
            measure(options, scenario, arms, load, results[-1].samples)
        if {"connections", "filters"} & set(options.figures):
            compared = [arms[0], growth.with_filter_file(arms[1])]
            results.append(Result(growth.SCENARIO, Samples(), "growth"))
            growth.measure_growth(options, compared, load, results[-1].samples)


def _tell(options: Options, results: list[Result]) -> None:
    measured = [result for result in results if result.samples.metrics()]
    print(", ".join(f"{key} {value}" for key, value in machine.description().items()))
    for result in measured:
        print(f"\n{report.text(result)}", end="")
    sys.stdout.flush()
    if options.output and measured:
        report.write(options.output, measured, _settings(options))
        say(f"written to {options.output}")


def _settings(options: Options) -> dict[str, object]:
    values = asdict(options)
    values["output"] = str(options.output)
    return values


def _end(_number: int, _frame: object) -> None:
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
