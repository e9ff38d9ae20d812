# SPDX-License-Identifier: GPL-2.0-only
"""Runs mimicd as on a kernel before 5.18: XDP programs that call helpers of that age are refused.

without_xdp_bytes.py [ARGUMENT...]
"""

import struct
import sys

from mimicd.__main__ import main
from mimicd.kernel import bpf

_XDP = 6  # enum bpf_prog_type
_CALL = 0x85
_SINCE_5_18 = {188, 189, 190}  # bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes
_NOT_YET = 100_000
_INSN = struct.Struct("=BBhi")

_load_program = bpf.load_program


def load_program(kind: int, instructions: bytes, name: str, with_frags: bool = False) -> int:
    """The kernel itself says no: it knows no helper of that number."""
    if kind == _XDP:
        instructions = b"".join(map(_as_before, _INSN.iter_unpack(instructions)))
    return _load_program(kind, instructions, name, with_frags)


def _as_before(insn: tuple[int, int, int, int]) -> bytes:
    opcode, registers, offset, value = insn
    is_helper = opcode == _CALL and not registers >> 4
    return _INSN.pack(
        opcode, registers, offset, _NOT_YET if is_helper and value in _SINCE_5_18 else value
    )


if __name__ == "__main__":
    bpf.load_program = load_program
    sys.exit(main())
