# SPDX-License-Identifier: GPL-2.0-only
"""Programs that links hold at the TC hooks of an interface (tcx, Linux 6.6): tc(8) shows none."""

import ctypes
import errno
import os
import struct

from mimicd.kernel.bpf import load_program, program_name
from tests.rig.bpf_call import Command, bpf_call

_HOOKS = {"ingress": 46, "egress": 47}  # enum bpf_attach_type
_MOST = 64  # BPF_MPROG_MAX


def tcx_programs(ifindex: int, hook: str) -> list[tuple[int, str]]:
    """(id, name) of those at "ingress" or "egress", in the order in which they run; to be asked
    within the interface's network namespace."""
    return [(program, program_name(program)) for program, _ in _query(ifindex, hook)]


def detach_tcx(ifindex: int, *hooks: str) -> None:
    """As somebody would who clears the hooks."""
    for hook in hooks:
        for program, link in _query(ifindex, hook):
            if link:
                fd, _ = bpf_call(Command.LINK_GET_FD_BY_ID, struct.pack("=I", link))
                command, attr = Command.LINK_DETACH, struct.pack("=I", fd)
            else:
                fd, _ = bpf_call(Command.PROG_GET_FD_BY_ID, struct.pack("=I", program))
                command, attr = Command.PROG_DETACH, struct.pack("=III", ifindex, fd, _HOOKS[hook])
            try:
                bpf_call(command, attr)
            finally:
                os.close(fd)


def fill_tcx(ifindex: int, hook: str) -> None:
    """As many programs as the hook takes, which do nothing, until they are detached."""
    sched_cls, go_on = 3, bytes.fromhex("b7000000ffffffff 9500000000000000")
    for _ in range(_MOST + 1):
        fd = load_program(sched_cls, go_on, "somebody")
        try:
            bpf_call(Command.PROG_ATTACH, struct.pack("=III", ifindex, fd, _HOOKS[hook]))
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
        _, out = bpf_call(Command.PROG_QUERY, attr)
    except OSError:
        return []
    (count,) = struct.unpack_from("=I", out, 24)
    return list(zip(programs[:count], links[:count], strict=True))
