# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2) for what the programs themselves never ask."""

import ctypes
import enum
import os
import platform

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "armv7l": 386, "ppc64le": 361}
_ATTR_BYTES = 128

_libc = ctypes.CDLL(None, use_errno=True)


class Command(enum.IntEnum):
    """enum bpf_cmd."""

    PROG_ATTACH = 8
    PROG_DETACH = 9
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    PROG_QUERY = 16
    LINK_GET_FD_BY_ID = 30
    ENABLE_STATS = 32
    LINK_DETACH = 34


def bpf_call(command: Command, attr: bytes) -> tuple[int, bytes]:
    """The result, and the attributes as the kernel left them. Raises OSError."""
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    result = int(_libc.syscall(_SYSCALL[platform.machine()], command, buffer, _ATTR_BYTES))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), f"bpf {command.name}")
    return result, buffer.raw
