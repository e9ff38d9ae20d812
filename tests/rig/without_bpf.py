# SPDX-License-Identifier: GPL-2.0-only
"""Runs a command that may not call bpf(2), as in a container with a seccomp profile.

without_bpf.py COMMAND [ARGUMENT...]
"""

import ctypes
import errno
import os
import platform
import struct
import sys

_BPF = {"x86_64": 321, "aarch64": 280}
# linux/prctl.h, linux/seccomp.h
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_RET_ERRNO, _RET_ALLOW = 0x00050000, 0x7FFF0000
# linux/filter.h: load a word, jump if equal, return
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_INSN = struct.Struct("=HBBI")


def forbid_bpf() -> None:
    """EPERM for this process and what it becomes. Needs CAP_SYS_ADMIN."""
    code = b"".join(
        _INSN.pack(*one)
        for one in (
            (_LOAD, 0, 0, 0),  # seccomp_data.nr
            (_JUMP_EQUAL, 0, 1, _BPF[platform.machine()]),
            (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM),
            (_RETURN, 0, 0, _RET_ALLOW),
        )
    )
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: length, pointer
    program = struct.pack("@HP", len(code) // _INSN.size, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, program):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    forbid_bpf()
    os.execvp(sys.argv[1], sys.argv[1:])
