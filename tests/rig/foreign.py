# SPDX-License-Identifier: GPL-2.0-only
"""Things of somebody else on an interface, which mimicd has to leave alone."""

import ctypes
import os
import platform
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from mimicd.kernel import bpf
from tests.rig.namespace import RigError
from tests.rig.network import Host

NAME = "somebody_xdp"

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD = 5
_PROG_TYPE_XDP = 6
_XDP_PASS = 2
# r0 = XDP_PASS; exit
_PASS_ALL = struct.pack("<BBhi", 0xB7, 0, 0, _XDP_PASS) + struct.pack("<BBhi", 0x95, 0, 0, 0)
# prog_type insn_cnt insns license, then log and kernel version, prog_flags, prog_name
_ATTR = struct.Struct("=IIQQ20xI16s")


def _load() -> int:
    code = ctypes.create_string_buffer(_PASS_ALL, len(_PASS_ALL))
    licence = ctypes.create_string_buffer(b"GPL")
    attr = ctypes.create_string_buffer(
        _ATTR.pack(
            _PROG_TYPE_XDP,
            len(_PASS_ALL) // 8,
            ctypes.addressof(code),
            ctypes.addressof(licence),
            0,
            NAME.encode(),
        ),
        128,
    )
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.syscall(_SYSCALL[platform.machine()], _PROG_LOAD, attr, 128))
    if fd < 0:
        raise RigError(f"cannot load an XDP program: {os.strerror(ctypes.get_errno())}")
    return fd


@contextmanager
def foreign_xdp(host: Host) -> Iterator[None]:
    """A program that lets everything pass is attached to the host's interface meanwhile."""
    program = _load()
    try:
        link = host.namespace.call(
            lambda: bpf.attach_xdp(program, socket.if_nametoindex(host.interface), native=False)
        )
    finally:
        os.close(program)
    try:
        yield
    finally:
        os.close(link)
