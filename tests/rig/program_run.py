# SPDX-License-Identifier: GPL-2.0-only
"""Programs run on packets of our own, without an interface."""

import ctypes
import struct
from dataclasses import dataclass

from tests.rig.bpf_call import Command, bpf_call

_TEST_OUT_BYTES = 32768


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """What one run of a program did."""

    result: int
    data: bytes
    duration_ns: int


def run_once(program_fd: int, data: bytes, context: bytes = b"", repeat: int = 1) -> ProgramRun:
    """BPF_PROG_TEST_RUN: one packet, starting at its link header, through one program."""
    data_in = ctypes.create_string_buffer(data, len(data))
    data_out = ctypes.create_string_buffer(_TEST_OUT_BYTES)
    context_in = ctypes.create_string_buffer(context, max(len(context), 1))
    attr = struct.pack(
        "=IIIIQQIIIIQQ",
        program_fd,
        0,
        len(data),
        _TEST_OUT_BYTES,
        ctypes.addressof(data_in),
        ctypes.addressof(data_out),
        repeat,
        0,
        len(context),
        0,
        ctypes.addressof(context_in) if context else 0,
        0,
    )
    _, out = bpf_call(Command.PROG_TEST_RUN, attr)
    result, _, size = struct.unpack_from("=III", out, 4)
    duration = struct.unpack_from("=I", out, 36)[0]
    return ProgramRun(result, data_out.raw[:size], duration)
