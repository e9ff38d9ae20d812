# SPDX-License-Identifier: GPL-2.0-only
"""How long BPF programs work on a datagram, by the kernel's own count, beside a fixed program."""

import contextlib

from bench import arms, reference
from bench.figures import stream
from bench.programs import attached_to, counted, held_by, runs, spent
from bench.session import Session

SIZE_BYTES = 1400


def bpf_time(session: Session, seconds: float, size: int = SIZE_BYTES) -> dict[str, float]:
    """Time in all programs of the arm for each datagram that arrived, and for one run of each.

    The plain arm has none of its own: it runs the reference program at both ends instead.
    """
    name = f"bpf.{size}"
    if session.arm.name == arms.PLAIN:
        with contextlib.ExitStack() as stack:
            for host in (session.net.a, session.net.b):
                stack.enter_context(reference.attached(host))
            by_hook, _ = measure(session, seconds, size)
        total_ns = sum(by_hook.values())
        return {f"{name}.reference_ns": total_ns / len(by_hook)} if by_hook else {}
    by_hook, total_ns = measure(session, seconds, size)
    values = {f"{name}.{hook}_ns": value for hook, value in by_hook.items()}
    return values | {f"{name}.packet_ns": total_ns} if values else {}


def measure(
    session: Session, seconds: float, size: int, **options: int
) -> tuple[dict[str, float], float]:
    """(time of one run by "side-hook", time of all programs for each datagram), in ns."""
    hooks: dict[int, str] = {}
    for side, host in (("sender", session.net.a), ("receiver", session.net.b)):
        for number, hook in attached_to(host.namespace).items():
            hooks[number] = f"{side}-{hook.split()[0]}"
    for number in held_by(session.processes()):
        hooks.setdefault(number, "other")
    with counted():
        before = runs(hooks)
        result = stream(session, size, seconds, **options)
        done = spent(before, runs(hooks))
    by_hook: dict[str, list[int]] = {}
    for number, one in done.items():
        sums = by_hook.setdefault(hooks[number], [0, 0])
        sums[0] += one.time_ns
        sums[1] += one.count
    arrived = result.tally.packets
    # What ran now and then only, for connections, is no part of a packet's way.
    often = {hook: t / n for hook, (t, n) in by_hook.items() if n > arrived / 2}
    total_ns = sum(one.time_ns for one in done.values())
    return often, total_ns / arrived if arrived else 0.0


def checksum_states(session: Session, seconds: float, size: int = SIZE_BYTES) -> dict[str, float]:
    """The same where the kernel left the checksum to the interface (PARTIAL) and where not (NONE).

    Only the sender's interface is switched, and back.
    """
    if session.arm.name == arms.PLAIN:
        return {}
    name, host = f"checksum.{size}", session.net.a
    found = {}
    try:
        for state, on in (("partial", True), ("none", False)):
            host.set_offload(tx=on)
            by_hook, _ = measure(session, seconds, size)
            if "sender-egress" in by_hook:
                found[f"{name}.{state}_ns"] = by_hook["sender-egress"]
    finally:
        host.set_offload(tx=session.scenario.offload)
    if len(found) == 2:
        none_ns, partial_ns = found[f"{name}.none_ns"], found[f"{name}.partial_ns"]
        found[f"{name}.partial_to_none_ratio"] = partial_ns / none_ns
    return found
