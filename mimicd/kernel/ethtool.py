# SPDX-License-Identifier: GPL-2.0-only
"""Features of an interface, by the ioctl of linux/ethtool.h; to look takes no privilege."""

import ctypes
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946  # linux/sockios.h
_IFREQ = struct.Struct("16sP16x")
_VALUE = struct.Struct("=II")

# ETHTOOL_GRXCSUM GTXCSUM GTSO GGSO GGRO, and GFLAGS, of which one bit is LRO
_GET = {"rx-checksum": 0x14, "tx-checksum": 0x16, "tso": 0x1E, "gso": 0x23, "gro": 0x2B}
_GET_FLAGS, _FLAG_LRO = 0x25, 1 << 15
# ETHTOOL_STXCSUM SSG STSO SGSO
_CUTTING = (0x17, 0x19, 0x1F, 0x24)


def features(name: str) -> dict[str, bool]:
    """Those that the interface tells about: checksums, "tso", "gso", "gro", "lro"."""
    found: dict[str, bool] = {}
    for feature, command in (*_GET.items(), ("lro", _GET_FLAGS)):
        try:
            value = _ask(name, command, 0)
        except OSError:
            continue
        found[feature] = bool(value & _FLAG_LRO if command == _GET_FLAGS else value)
    return found


def switch_cutting_off(name: str) -> None:
    """No checksum, scatter, TSO and GSO: the kernel finishes whatever is sent. Raises OSError."""
    for command in _CUTTING:
        _ask(name, command, 0)


def _ask(name: str, command: int, value: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        buffer = bytearray(_VALUE.pack(command, value))
        pointer = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        request = _IFREQ.pack(name.encode(), ctypes.addressof(pointer))
        fcntl.ioctl(control, _SIOCETHTOOL, request)
        return int(_VALUE.unpack(buffer)[1])
