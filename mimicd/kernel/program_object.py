# SPDX-License-Identifier: GPL-2.0-only
"""Compiled programs as data: instructions, and the maps that they name. Loads into the kernel.

What the compiler makes once can be loaded again without it, on the same kernel. An instruction
that refers to a map is stored with the map's name, and gets its descriptor when it is loaded:

  ld_imm64: opcode 0x18, src_reg 1 (BPF_PSEUDO_MAP_FD), imm = descriptor   (uapi/linux/bpf.h)
"""

import base64
import json
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from mimicd.core.errors import AttachError
from mimicd.kernel import bpf
from mimicd.kernel.bpf import MapSpec

_INSN = struct.Struct("=BBhi")
_LD_IMM64 = 0x18
_PSEUDO_MAP_FD = 1
_CALL, _PSEUDO_KFUNC_CALL = 0x85, 2
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Program:
    """One program; `maps` tells which instruction refers to which map."""

    kind: int
    """enum bpf_prog_type."""
    instructions: bytes
    maps: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class ProgramObject:
    """Programs and maps by name."""

    programs: Mapping[str, Program]
    maps: Mapping[str, MapSpec]

    def encode(self) -> bytes:
        """As a text that can be kept in a file."""
        programs = {
            name: [
                program.kind,
                base64.b64encode(program.instructions).decode(),
                {str(index): map_name for index, map_name in program.maps.items()},
            ]
            for name, program in self.programs.items()
        }
        maps = {name: spec.as_list() for name, spec in self.maps.items()}
        return json.dumps({"format": _FORMAT, "programs": programs, "maps": maps}).encode()

    def load(self, with_frags: bool = False) -> dict[str, int]:
        """Descriptors of all programs and maps; they are the caller's to close.

        `with_frags`: see bpf.load_program.

        Raises AttachError, and then nothing is left open.
        """
        fds: dict[str, int] = {}
        try:
            for name, spec in self.maps.items():
                fds[name] = bpf.create_map(spec, name)
            for name, program in self.programs.items():
                code = _with_descriptors(program, fds)
                fds[name] = bpf.load_program(program.kind, code, name, with_frags)
        except OSError as error:
            for fd in fds.values():
                os.close(fd)
            raise AttachError(
                f"the kernel refuses the BPF programs or their maps: {error.strerror}",
                f"{error.filename}; mimicd needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root",
            ) from error
        return fds


def decode_object(raw: bytes) -> ProgramObject:
    """The inverse of encode(). Raises ValueError, KeyError or TypeError where it is none."""
    fields = json.loads(raw)
    if fields["format"] != _FORMAT:
        raise ValueError("another format")
    programs = {
        name: Program(kind, base64.b64decode(code), {int(at): one for at, one in maps.items()})
        for name, (kind, code, maps) in fields["programs"].items()
    }
    return ProgramObject(
        programs, {name: MapSpec(*values) for name, values in fields["maps"].items()}
    )


def merged(objects: Iterable[ProgramObject]) -> ProgramObject:
    """The programs of all, and the maps that they share."""
    programs: dict[str, Program] = {}
    maps: dict[str, MapSpec] = {}
    for one in objects:
        programs |= one.programs
        maps |= one.maps
    return ProgramObject(programs, maps)


def named_maps(instructions: bytes, names: Mapping[int, str]) -> Program:
    """A program out of instructions that hold descriptors; `names` are those of the maps."""
    code, maps = bytearray(instructions), {}
    for at in range(0, len(code), _INSN.size):
        opcode, registers, offset, value = _INSN.unpack_from(code, at)
        if opcode == _LD_IMM64 and registers >> 4 == _PSEUDO_MAP_FD:
            maps[at // _INSN.size] = names[value]
            _INSN.pack_into(code, at, opcode, registers, offset, 0)
    return Program(0, bytes(code), maps)


def with_kernel_calls(instructions: bytes, numbers: Collection[int]) -> bytes:
    """The compiler knows calls of helpers alone; those of these numbers, ids in the kernel's BTF,
    become calls of kernel functions (BPF_PSEUDO_KFUNC_CALL in uapi/linux/bpf.h)."""
    code = bytearray(instructions)
    for at in range(0, len(code), _INSN.size):
        opcode, registers, offset, value = _INSN.unpack_from(code, at)
        if opcode == _CALL and not registers and value in numbers:
            _INSN.pack_into(code, at, opcode, _PSEUDO_KFUNC_CALL << 4, offset, value)
    return bytes(code)


def _with_descriptors(program: Program, fds: Mapping[str, int]) -> bytes:
    code = bytearray(program.instructions)
    for index, name in program.maps.items():
        opcode, registers, offset, _ = _INSN.unpack_from(code, index * _INSN.size)
        _INSN.pack_into(code, index * _INSN.size, opcode, registers, offset, fds[name])
    return bytes(code)
