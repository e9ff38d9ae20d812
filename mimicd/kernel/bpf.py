# SPDX-License-Identifier: GPL-2.0-only
"""bpf(2): maps, pins, links. Works on file descriptors alone, so it needs neither BCC nor LLVM.

Every function raises OSError, with the command's name as file name, as the system call fails.
Attribute layouts are those of union bpf_attr in include/uapi/linux/bpf.h; all of them are padded
to one size, since the kernel accepts trailing zeros.
"""

import ctypes
import enum
import errno
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "armv7l": 386, "ppc64le": 361}
_ATTR_BYTES = 160
_PROG_INFO_BYTES = 256
_PROG_INFO_NAME = slice(64, 80)
_TEST_OUT_BYTES = 32768
_BATCH_ENTRIES = 1024
# batch.in_batch out_batch keys values count map_fd
_BATCH = struct.Struct("=QQQQII")

XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2
_BPF_XDP = 37  # enum bpf_attach_type

_libc = ctypes.CDLL(None, use_errno=True)


class _Command(enum.IntEnum):
    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    OBJ_GET_INFO_BY_FD = 15
    MAP_LOOKUP_BATCH = 24
    LINK_CREATE = 28


def _call(command: _Command, attr: bytes) -> tuple[int, int, bytes]:
    """Result, errno (0 where it succeeded), and the attributes as the kernel left them."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) has no known number on {platform.machine()}")
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    result = _libc.syscall(number, int(command), buffer, _ATTR_BYTES)
    return result, ctypes.get_errno() if result < 0 else 0, buffer.raw


def _bpf(command: _Command, attr: bytes) -> int:
    result, code, _ = _call(command, attr)
    if code:
        raise OSError(code, os.strerror(code), f"bpf {command.name}")
    return result


class Map:
    """One BPF map. `fd` stays the owner's to close. Not for use by several threads at once."""

    def __init__(self, fd: int, key_bytes: int, value_bytes: int) -> None:
        self.fd = fd
        self._key_bytes = key_bytes
        self._value_bytes = value_bytes
        self._key = ctypes.create_string_buffer(key_bytes)
        self._value = ctypes.create_string_buffer(value_bytes)
        self._attr = struct.pack(
            "=IIQQ", fd, 0, ctypes.addressof(self._key), ctypes.addressof(self._value)
        )
        # whatever a command does not read must be zero, or it is EINVAL
        self._delete_attr = struct.pack("=IIQ", fd, 0, ctypes.addressof(self._key))

    def lookup(self, key: bytes) -> bytes | None:
        """The value, or None."""
        self._key.raw = key
        try:
            _bpf(_Command.MAP_LOOKUP_ELEM, self._attr)
        except FileNotFoundError:
            return None
        return self._value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Write one value."""
        self._key.raw = key
        self._value.raw = value
        _bpf(_Command.MAP_UPDATE_ELEM, self._attr)

    def delete(self, key: bytes) -> bool:
        """Whether there was such a key."""
        self._key.raw = key
        try:
            _bpf(_Command.MAP_DELETE_ELEM, self._delete_attr)
        except FileNotFoundError:
            return False
        return True

    def all_keys(self) -> list[bytes]:
        """All keys, one call each: for tries, which know no batches."""
        found: list[bytes] = []
        following = ctypes.create_string_buffer(self._key_bytes)
        current = 0
        while True:
            attr = struct.pack("=IIQQ", self.fd, 0, current, ctypes.addressof(following))
            try:
                _bpf(_Command.MAP_GET_NEXT_KEY, attr)
            except FileNotFoundError:
                return found
            found.append(following.raw)
            self._key.raw = following.raw
            current = ctypes.addressof(self._key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries of a hash map, in batches; what comes and goes meanwhile may be missed."""
        size = _BATCH_ENTRIES
        cursor = ctypes.create_string_buffer(max(self._key_bytes, 8))
        following = ctypes.create_string_buffer(max(self._key_bytes, 8))
        start = 0
        while True:
            keys = ctypes.create_string_buffer(self._key_bytes * size)
            values = ctypes.create_string_buffer(self._value_bytes * size)
            pointers = (start, *map(ctypes.addressof, (following, keys, values)))
            attr = _BATCH.pack(*pointers, size, self.fd)
            _, code, out = _call(_Command.MAP_LOOKUP_BATCH, attr)
            if code == errno.ENOSPC:  # one hash bucket holds more than a batch
                size *= 2
                continue
            if code not in (0, errno.ENOENT):
                raise OSError(code, os.strerror(code), "bpf MAP_LOOKUP_BATCH")
            count = _BATCH.unpack_from(out)[4]
            yield from zip(
                _split(keys.raw, self._key_bytes, count),
                _split(values.raw, self._value_bytes, count),
                strict=True,
            )
            if code:
                return
            cursor.raw = following.raw
            start = ctypes.addressof(cursor)


def _split(raw: bytes, size: int, count: int) -> list[bytes]:
    return [raw[at : at + size] for at in range(0, size * count, size)]


def probe() -> None:
    """Make and drop the smallest map. Raises OSError where bpf(2) is refused to us."""
    array, key_bytes, value_bytes, entries = 2, 4, 4, 1
    os.close(
        _bpf(_Command.MAP_CREATE, struct.pack("=IIII", array, key_bytes, value_bytes, entries))
    )


def pin(fd: int, path: Path) -> None:
    """Give a map, program or link a name in a bpffs."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_Command.OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))


def open_pin(path: Path) -> int:
    """A file descriptor of what is pinned there."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_Command.OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))


def attach_xdp(program_fd: int, ifindex: int, native: bool) -> int:
    """A link (kernel 5.9) that holds the program at the interface while it is open or pinned.

    EBUSY: another program is there. EOPNOTSUPP and others: the driver has no native XDP.
    """
    flags = XDP_FLAGS_DRV_MODE if native else XDP_FLAGS_SKB_MODE
    return _bpf(_Command.LINK_CREATE, struct.pack("=IIII", program_fd, ifindex, _BPF_XDP, flags))


def program_name(program_id: int) -> str:
    """The name of any program, "" where the kernel does not tell (CAP_SYS_ADMIN)."""
    info = ctypes.create_string_buffer(_PROG_INFO_BYTES)
    try:
        fd = _bpf(_Command.PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0))
    except OSError:
        return ""
    try:
        attr = struct.pack("=IIQ", fd, _PROG_INFO_BYTES, ctypes.addressof(info))
        _bpf(_Command.OBJ_GET_INFO_BY_FD, attr)
    except OSError:
        return ""
    finally:
        os.close(fd)
    return info.raw[_PROG_INFO_NAME].rstrip(b"\0").decode(errors="replace")


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
    _, code, out = _call(_Command.PROG_TEST_RUN, attr)
    if code:
        raise OSError(code, os.strerror(code), "bpf PROG_TEST_RUN")
    result, _, size = struct.unpack_from("=III", out, 4)
    duration = struct.unpack_from("=I", out, 36)[0]
    return ProgramRun(result, data_out.raw[:size], duration)
