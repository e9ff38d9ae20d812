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
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "armv7l": 386, "ppc64le": 361}
_ATTR_BYTES = 160
_INFO_BYTES = 256
_PROG_INFO_NAME = slice(64, 80)
_BATCH_ENTRIES = 1024
_LOG_BYTES = 4 << 20
# bpf_map_info: type id key_size value_size max_entries map_flags name
_MAP_INFO = struct.Struct("=6I16s")
# map_type key value entries flags, inner_map_fd numa_node, map_name, map_ifindex btf_fd key value
_MAP_CREATE = struct.Struct("=5I8x16s4xIII")
# prog_type insn_cnt insns license log_level log_size log_buf, kern_version prog_flags, prog_name
_PROG_LOAD = struct.Struct("=IIQQIIQ4xI16s")
# batch.in_batch out_batch keys values count map_fd
_BATCH = struct.Struct("=QQQQII")

_PSEUDO_KFUNC_CALL = 2
_SCHED_CLS, _PROBE_READ_KERNEL = 3, 113  # enum bpf_prog_type, bpf_func_id
_XDP, _XDP_HAS_FRAGS = 6, 1 << 5  # enum bpf_prog_type, BPF_F_XDP_HAS_FRAGS
XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2
_BPF_XDP, _BPF_TCX_INGRESS, _BPF_TCX_EGRESS = 37, 46, 47  # enum bpf_attach_type

_libc = ctypes.CDLL(None, use_errno=True)


class _Command(enum.IntEnum):
    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_GET_FD_BY_ID = 13
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    BTF_LOAD = 18
    MAP_LOOKUP_BATCH = 24
    LINK_CREATE = 28
    LINK_DETACH = 34


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

    def summed(self, index: int) -> int:
        """One counter of a per-CPU array, over all CPUs; 0 where there is none."""
        raw = self.lookup(index.to_bytes(4, sys.byteorder)) or b""
        return sum(int.from_bytes(raw[at : at + 8], sys.byteorder) for at in range(0, len(raw), 8))

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
        """All entries of a hash map; what comes and goes meanwhile may be missed.

        A system call for every 1024 of them (kernel 5.6), a millisecond each: the caller may
        pause between any two entries.
        """
        size = _BATCH_ENTRIES
        cursor = ctypes.create_string_buffer(max(self._key_bytes, 8))
        following = ctypes.create_string_buffer(max(self._key_bytes, 8))
        start = 0
        keys = values = ctypes.create_string_buffer(0)
        while True:
            if len(keys) != self._key_bytes * size:
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
                _split(keys, self._key_bytes, count),
                _split(values, self._value_bytes, count),
                strict=True,
            )
            if code:
                return
            cursor.raw = following.raw
            start = ctypes.addressof(cursor)


def _split(buffer: "ctypes.Array[ctypes.c_char]", size: int, count: int) -> list[bytes]:
    raw = memoryview(buffer)
    return [raw[at : at + size].tobytes() for at in range(0, size * count, size)]


def possible_cpus() -> int:
    """The kernel keeps one per-CPU value for each CPU that could ever come."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.replace(",", "-").rsplit("-", 1)[-1]) + 1


def probe() -> None:
    """Make and drop the smallest map. Raises OSError where bpf(2) is refused to us."""
    array, key_bytes, value_bytes, entries = 2, 4, 4, 1
    os.close(
        _bpf(_Command.MAP_CREATE, struct.pack("=IIII", array, key_bytes, value_bytes, entries))
    )


def reads_kernel() -> bool:
    """Whether a program of ours may call bpf_probe_read_kernel(): neither lockdown for
    confidentiality nor a lack of CAP_PERFMON forbids it."""
    return _is_taken(
        "reads_kernel",
        (0xBF, 0xA1, 0, 0),  # r1 = r10
        (0x07, 0x01, 0, -8),  # r1 += -8
        (0xB7, 0x02, 0, 8),  # r2 = 8
        (0xB7, 0x03, 0, 0),  # r3 = 0
        (0x85, 0, 0, _PROBE_READ_KERNEL),
        (0xB7, 0x00, 0, 0),  # r0 = 0
        (0x95, 0, 0, 0),
    )


def casts_skb(function: int, at: int) -> bool:
    """Whether a program may read the byte `at` of the kernel's own struct sk_buff through
    bpf_cast_to_kern_ctx(), whose id in the kernel's BTF is `function`."""
    return _is_taken(
        "casts_skb",
        (0x85, _PSEUDO_KFUNC_CALL << 4, 0, function),
        (0x71, 0x00, at, 0),  # r0 = *(u8 *)(r0 + at)
        (0x95, 0, 0, 0),
    )


def _is_taken(name: str, *instructions: tuple[int, int, int, int]) -> bool:
    """Whether the kernel loads this TC program: opcode, registers, offset and value of each."""
    code = b"".join(struct.pack("=BBhi", *one) for one in instructions)
    try:
        os.close(load_program(_SCHED_CLS, code, name))
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class MapSpec:
    """What a map is made of; `kind` is enum bpf_map_type."""

    kind: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int
    locked: bool = False
    """Its value begins with a struct bpf_spin_lock."""

    def as_list(self) -> list[int]:
        """The fields, in order."""
        return [
            self.kind,
            self.key_bytes,
            self.value_bytes,
            self.entries,
            self.flags,
            self.locked,
        ]


def map_spec(fd: int, locked: bool) -> tuple[str, MapSpec]:
    """Name, as far as 15 characters go, and making of a map. Raises OSError."""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    attr = struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info))
    _bpf(_Command.OBJ_GET_INFO_BY_FD, attr)
    kind, _, key_bytes, value_bytes, entries, flags, name = _MAP_INFO.unpack_from(info.raw)
    spec = MapSpec(kind, key_bytes, value_bytes, entries, flags, locked)
    return name.rstrip(b"\0").decode(), spec


def create_map(spec: MapSpec, name: str) -> int:
    """A descriptor. Raises OSError."""
    btf_fd = _load_lock_btf(spec.key_bytes, spec.value_bytes) if spec.locked else 0
    key_type, value_type = (_BTF_KEY, _BTF_VALUE) if spec.locked else (0, 0)
    attr = _MAP_CREATE.pack(
        spec.kind,
        spec.key_bytes,
        spec.value_bytes,
        spec.entries,
        spec.flags,
        name.encode()[:15],
        btf_fd,
        key_type,
        value_type,
    )
    try:
        return _bpf(_Command.MAP_CREATE, attr)
    finally:
        if btf_fd:
            os.close(btf_fd)


# type ids in the BTF below
_BTF_KEY, _BTF_VALUE = 3, 4


def _load_lock_btf(key_bytes: int, value_bytes: int) -> int:
    """The least BTF that lets a map's value begin with a spin lock (kernel 5.1).

    1: int u32, 2: struct bpf_spin_lock { 1 val; }, 3: struct key {}, 4: struct value { 2 lock; }
    """
    strings = b"\0u32\0bpf_spin_lock\0val\0key\0value\0lock\0"

    def at(word: bytes) -> int:
        return strings.index(b"\0" + word + b"\0") + 1

    integer, structure = 1 << 24, 4 << 24
    types = struct.pack("=IIII", at(b"u32"), integer, 4, 32)
    types += struct.pack("=III", at(b"bpf_spin_lock"), structure | 1, 4)
    types += struct.pack("=III", at(b"val"), 1, 0)
    types += struct.pack("=III", at(b"key"), structure, key_bytes)
    types += struct.pack("=III", at(b"value"), structure | 1, value_bytes)
    types += struct.pack("=III", at(b"lock"), 2, 0)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    blob = header + types + strings
    data = ctypes.create_string_buffer(blob, len(blob))
    return _bpf(_Command.BTF_LOAD, struct.pack("=QQI", ctypes.addressof(data), 0, len(blob)))


def load_program(kind: int, instructions: bytes, name: str, with_frags: bool = False) -> int:
    """A descriptor. `kind`: enum bpf_prog_type. Raises OSError; the verifier's last words are its
    file name.

    `with_frags`: XDP takes frames in several buffers (MTU 9000) where the kernel has them, since
    5.18. Not for generic XDP: with it, what a program answers is lost (6.18).
    """
    if kind == _XDP and with_frags:
        try:
            return _load_program(kind, instructions, name, _XDP_HAS_FRAGS)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    return _load_program(kind, instructions, name, 0)


def _load_program(kind: int, instructions: bytes, name: str, flags: int) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    count = len(instructions) // 8
    addresses = (ctypes.addressof(code), ctypes.addressof(licence))
    try:
        return _bpf(
            _Command.PROG_LOAD,
            _PROG_LOAD.pack(kind, count, *addresses, 0, 0, 0, flags, name.encode()[:15]),
        )
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        attr = _PROG_LOAD.pack(
            *(kind, count, *addresses, 1, _LOG_BYTES, ctypes.addressof(log)),
            *(flags, name.encode()[:15]),
        )
        _call(_Command.PROG_LOAD, attr)
        words = log.value.decode(errors="replace").strip().splitlines()
        error.filename = f"{name}: {words[-2] if len(words) > 1 else 'no word of the verifier'}"
        raise


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


def has_tcx(ifindex: int) -> bool:
    """Whether the kernel knows links at the TC hooks of an interface (6.6)."""
    try:
        _bpf(_Command.PROG_QUERY, struct.pack("=II", ifindex, _BPF_TCX_EGRESS))
    except OSError:
        return False
    return True


def attach_tcx(program_fd: int, ifindex: int, ingress: bool) -> int:
    """A link (kernel 6.6) that holds the program, behind those of others, while it is open or
    pinned."""
    hook = _BPF_TCX_INGRESS if ingress else _BPF_TCX_EGRESS
    return _bpf(_Command.LINK_CREATE, struct.pack("=III", program_fd, ifindex, hook))


def detach_link(link_fd: int) -> None:
    """Detach at once; without this the kernel does so some time after the last user is gone."""
    _bpf(_Command.LINK_DETACH, struct.pack("=I", link_fd))


def link_ifindex(link_fd: int) -> int:
    """The interface that an XDP or tcx link holds a program at, 0 once it was detached."""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    attr = struct.pack("=IIQ", link_fd, _INFO_BYTES, ctypes.addressof(info))
    _bpf(_Command.OBJ_GET_INFO_BY_FD, attr)
    # bpf_link_info: type id prog_id, padding, xdp.ifindex or tcx.ifindex
    ifindex: int = struct.unpack_from("=I", info, 16)[0]
    return ifindex


def program_name(program_id: int) -> str:
    """The name of any program, "" where the kernel does not tell (CAP_SYS_ADMIN)."""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    try:
        fd = _bpf(_Command.PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0))
    except OSError:
        return ""
    try:
        attr = struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info))
        _bpf(_Command.OBJ_GET_INFO_BY_FD, attr)
    except OSError:
        return ""
    finally:
        os.close(fd)
    return info.raw[_PROG_INFO_NAME].rstrip(b"\0").decode(errors="replace")
