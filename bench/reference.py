# SPDX-License-Identifier: GPL-2.0-only
"""A fixed BPF program to hold the times of others against: the same work on every machine.

On every packet it reads 64 bytes and sums them (RFC 1071), sixteen times, and lets it pass. It is
attached where the programs under test are, TC ingress and egress, and counted in the same way, so
that its time says how fast the machine was just then.
"""

import contextlib
import os
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path

from bench.programs import attached_to
from mimicd.kernel import bpf
from tests.rig.attachments import bpf_mounts
from tests.rig.namespace import RigError
from tests.rig.network import Host

NAME = "reference"
ROUNDS = 16
PIECE_BYTES = 64
_SCHED_CLS = 3  # enum bpf_prog_type
_SKB_LOAD_BYTES, _CSUM_DIFF = 26, 28  # enum bpf_func_id
_TC_ACT_UNSPEC = -1


def _instruction(
    opcode: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0
) -> bytes:
    return struct.pack("<BBhi", opcode, source << 4 | target, offset, value)


def _move(target: int, value: int) -> bytes:
    return _instruction(0xB7, target, value=value)


def _copy(target: int, source: int) -> bytes:
    return _instruction(0xBF, target, source)


def _call(helper: int) -> bytes:
    return _instruction(0x85, value=helper)


def instructions() -> bytes:
    """r6 = the packet, r7 = the sum so far; the piece lies at the top of the stack."""
    stack_top = _copy(3, 10) + _instruction(0x07, 3, value=-PIECE_BYTES)
    # the verifier wants the piece written even where the packet was too short
    zeros = b"".join(
        _instruction(0x7A, 10, offset=-PIECE_BYTES + at) for at in range(0, PIECE_BYTES, 8)
    )
    load = _copy(1, 6) + _move(2, 0) + stack_top + _move(4, PIECE_BYTES) + _call(_SKB_LOAD_BYTES)
    add = _move(1, 0) + _move(2, 0) + stack_top + _move(4, PIECE_BYTES) + _copy(5, 7)
    one_round = load + add + _call(_CSUM_DIFF) + _copy(7, 0)
    end = _move(0, _TC_ACT_UNSPEC) + _instruction(0x95)
    return _copy(6, 1) + _move(7, 0) + zeros + one_round * ROUNDS + end


@contextlib.contextmanager
def attached(host: Host) -> Iterator[set[int]]:
    """The program at both TC hooks of the host's interface; its ids."""
    mounts = bpf_mounts()
    if not mounts:
        raise RigError("no bpffs is mounted, so the reference program cannot be attached")
    program = bpf.load_program(_SCHED_CLS, instructions(), NAME)
    pin = Path(mounts[0], f"bench-{os.getpid()}-{secrets.token_hex(3)}")
    run, dev = host.namespace.run, host.interface
    try:
        bpf.pin(program, pin)
        try:
            run("tc", "qdisc", "add", "dev", dev, "clsact")
            for hook in ("ingress", "egress"):
                run(
                    *("tc", "filter", "add", "dev", dev, hook, "bpf"),
                    *("direct-action", "object-pinned", str(pin)),
                )
        finally:
            pin.unlink()
        try:
            yield set(attached_to(host.namespace))
        finally:
            run("tc", "qdisc", "delete", "dev", dev, "clsact")
    finally:
        os.close(program)
