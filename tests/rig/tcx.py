# SPDX-License-Identifier: GPL-2.0-only
"""Programs that links hold at the TC hooks of an interface (tcx, Linux 6.6): tc(8) shows none."""

import ctypes
import errno
import os
import platform
import struct

from mimicd.kernel.bpf import load_program

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "armv7l": 386, "ppc64le": 361}
_ATTR_BYTES = 128
_PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _LINK_GET_FD_BY_ID = 8, 9, 13, 30
_OBJ_GET_INFO_BY_FD, _PROG_QUERY, _LINK_DETACH = 15, 16, 34
_HOOKS = {"ingress": 46, "egress": 47}  # enum bpf_attach_type
_MOST = 64  # BPF_MPROG_MAX
_INFO_BYTES = 256
_PROG_INFO_NAME = slice(64, 80)

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attr: bytes) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    result = int(_libc.syscall(_SYSCALL[platform.machine()], command, buffer, _ATTR_BYTES))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), f"bpf command {command}")
    return result, buffer.raw


def tcx_programs(ifindex: int, hook: str) -> list[tuple[int, str]]:
    """(id, name) of those at "ingress" or "egress", in the order in which they run; to be asked
    within the interface's network namespace."""
    return [(program, _name(program)) for program, _ in _query(ifindex, hook)]


def detach_tcx(ifindex: int, *hooks: str) -> None:
    """As somebody would who clears the hooks."""
    for hook in hooks:
        for program, link in _query(ifindex, hook):
            if link:
                fd, _ = _bpf(_LINK_GET_FD_BY_ID, struct.pack("=I", link))
                command, attr = _LINK_DETACH, struct.pack("=I", fd)
            else:
                fd, _ = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=I", program))
                command, attr = _PROG_DETACH, struct.pack("=III", ifindex, fd, _HOOKS[hook])
            try:
                _bpf(command, attr)
            finally:
                os.close(fd)


def fill_tcx(ifindex: int, hook: str) -> None:
    """As many programs as the hook takes, which do nothing, until they are detached."""
    sched_cls, go_on = 3, bytes.fromhex("b7000000ffffffff 9500000000000000")
    for _ in range(_MOST + 1):
        fd = load_program(sched_cls, go_on, "somebody")
        try:
            _bpf(_PROG_ATTACH, struct.pack("=III", ifindex, fd, _HOOKS[hook]))
        except OSError as error:
            if error.errno == errno.ERANGE:
                return
            raise
        finally:
            os.close(fd)


def _query(ifindex: int, hook: str) -> list[tuple[int, int]]:
    """(program id, link id); nothing where the kernel has no tcx, or the interface is gone."""
    programs, links = (ctypes.c_uint32 * _MOST)(), (ctypes.c_uint32 * _MOST)()
    # target_ifindex attach_type query_flags attach_flags, prog_ids, count, prog_attach_flags,
    # link_ids
    attr = struct.pack(
        "=4IQI4xQQ",
        *(ifindex, _HOOKS[hook], 0, 0, ctypes.addressof(programs), _MOST, 0),
        ctypes.addressof(links),
    )
    try:
        _, out = _bpf(_PROG_QUERY, attr)
    except OSError:
        return []
    (count,) = struct.unpack_from("=I", out, 24)
    return list(zip(programs[:count], links[:count], strict=True))


def _name(program: int) -> str:
    info = ctypes.create_string_buffer(_INFO_BYTES)
    fd, _ = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=I", program))
    try:
        _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info)))
    finally:
        os.close(fd)
    return info.raw[_PROG_INFO_NAME].rstrip(b"\0").decode()
