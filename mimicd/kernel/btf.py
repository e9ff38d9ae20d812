# SPDX-License-Identifier: GPL-2.0-only
"""Where members of kernel structs lie, read from the running kernel's BTF.

A minimal reader of the format in Documentation/bpf/btf.rst: it walks the type section
once, looking for one struct by name, and descends into its anonymous members.
"""

import bisect
import itertools
import mmap
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_HEADER = struct.Struct(
    "<HBBIIIII"
)  # magic version flags hdr_len type_off type_len str_off str_len
_MAGIC = 0xEB9F
_TYPE = struct.Struct("<III")  # name_off info size_or_type
_MEMBER = struct.Struct("<III")  # name_off type offset

_INT, _ARRAY, _STRUCT, _UNION, _ENUM, _FUNC, _FUNC_PROTO, _VAR, _DATASEC = (
    *(1, 3, 4, 5, 6, 12),
    *(13, 14, 15),
)
_DECL_TAG, _ENUM64 = 17, 19


@dataclass(frozen=True, slots=True)
class Member:
    """A member's place in its struct."""

    offset_bits: int
    size_bits: int
    """Width of a bit field, 0 for any other member."""


class Btf:
    """The types of one BTF blob. Raises ValueError where it is not BTF."""

    def __init__(self, blob: bytes | mmap.mmap) -> None:
        """It is read where it is, so it must stay."""
        if len(blob) < _HEADER.size or int.from_bytes(blob[:2], "little") != _MAGIC:
            raise ValueError("not a little-endian BTF blob")
        _, _, _, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(blob)
        if len(blob) < header + max(type_off + type_len, str_off + str_len):
            raise ValueError("a BTF blob that is cut")
        self._blob = blob
        self._types = range(header + type_off, header + type_off + type_len)
        self._strings = range(header + str_off, header + str_off + str_len)
        self._at = array("I", (0,))
        """Where each type stands in the blob, by its number; a list is ten times as large."""
        self._at.extend(self._walk())

    def members(self, name: str) -> dict[str, Member]:
        """All named members of `struct name`, those of anonymous parts included.

        Raises KeyError where the kernel has no such struct.
        """
        wanted = self._name(name)
        if not wanted:
            raise KeyError(name)
        for at in itertools.islice(self._at, 1, None):
            name_off, info, _ = _TYPE.unpack_from(self._blob, at)
            if name_off == wanted and info >> 24 & 0x1F == _STRUCT and info & 0xFFFF:
                return dict(self._members(at, 0))
        raise KeyError(name)

    def function(self, name: str) -> int:
        """The id by which programs call a function. Raises KeyError where there is none."""
        wanted = self._name(name)
        for linkage in (0, 1) if wanted else ():
            record = struct.pack("<II", wanted, _FUNC << 24 | linkage)
            at = self._blob.find(record, self._types.start, self._types.stop)
            while at >= 0:
                # the same bytes may stand within another type
                number = bisect.bisect_left(self._at, at, lo=1)
                if number < len(self._at) and self._at[number] == at:
                    return number
                at = self._blob.find(record, at + 1, self._types.stop)
        raise KeyError(name)

    def _members(self, at: int, base_bits: int) -> Iterator[tuple[str, Member]]:
        _, info, _ = _TYPE.unpack_from(self._blob, at)
        for index in range(info & 0xFFFF):
            name_off, type_id, offset = _MEMBER.unpack_from(self._blob, at + 12 + 12 * index)
            size = 0
            if info >> 31:  # the struct has bit fields: the width is in the high byte
                size, offset = offset >> 24, offset & 0xFFFFFF
            target = self._at[type_id]
            kind = _TYPE.unpack_from(self._blob, target)[1] >> 24 & 0x1F if type_id else 0
            if not name_off and kind in (_STRUCT, _UNION):
                yield from self._members(target, base_bits + offset)
            elif name_off:
                yield self._string(name_off), Member(base_bits + offset, size)

    def _name(self, text: str) -> int:
        """How types say that they have this name; 0 where none has it."""
        strings = self._strings
        at = self._blob.find(b"\0" + text.encode() + b"\0", strings.start, strings.stop)
        return 0 if at < 0 else at + 1 - strings.start

    def _string(self, offset: int) -> str:
        start = self._strings.start + offset
        return self._blob[start : self._blob.find(b"\0", start)].decode()

    def _walk(self) -> Iterator[int]:
        at = self._types.start
        while at < self._types.stop:
            yield at
            info = int.from_bytes(self._blob[at + 4 : at + 8], "little")
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            at += 12
            if kind in (_INT, _VAR, _DECL_TAG):
                at += 4
            elif kind in (_STRUCT, _UNION, _DATASEC, _ENUM64):
                at += 12 * count
            elif kind in (_ENUM, _FUNC_PROTO):
                at += 8 * count
            elif kind == _ARRAY:
                at += 12


def read_blob(path: Path) -> mmap.mmap:
    """In pages of its own, which are given back when it is closed: on the heap its megabytes would
    stay for good. Raises OSError, or ValueError for an empty file."""
    with path.open("rb") as file:
        blob = mmap.mmap(-1, os.fstat(file.fileno()).st_size)
        file.readinto(blob)
    return blob


def skb_defines(kernel: Btf) -> dict[str, int]:
    """Macros for bpf/rewrite.c that say where struct sk_buff keeps its checksum state.

    Raises KeyError or ValueError where the kernel's BTF does not tell.
    """
    members = kernel.members("sk_buff")
    summed = members["ip_summed"]
    return {
        "SKB_IP_SUMMED_AT": summed.offset_bits // 8,
        "SKB_IP_SUMMED_SHIFT": summed.offset_bits % 8,
        "SKB_CSUM_START_AT": members["csum_start"].offset_bits // 8,
        "SKB_CSUM_OFFSET_AT": members["csum_offset"].offset_bits // 8,
        "SKB_HEAD_AT": members["head"].offset_bits // 8,
        "SKB_DATA_AT": members["data"].offset_bits // 8,
    }
