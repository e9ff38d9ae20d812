# SPDX-License-Identifier: GPL-2.0-only
"""Whether a driver says that it has native XDP: the generic netlink family "netdev" (Linux 6.3)."""

import contextlib
import socket
import struct

_NETLINK_GENERIC, _GENL_ID_CTRL = 16, 0x10
_CTRL_GETFAMILY, _CTRL_FAMILY_ID, _CTRL_FAMILY_NAME = 3, 1, 2
_DEV_GET, _DEV_IFINDEX, _DEV_XDP_FEATURES = 1, 1, 3
_NLM_F_REQUEST, _NLMSG_ERROR = 1, 2
_XDP_BASIC = 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_GENERIC = struct.Struct("=BBH")  # genlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, with these four bytes, and type


def has_native_xdp(ifindex: int) -> bool | None:
    """None where the kernel does not tell."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC) as netlink:
            netlink.settimeout(1)
            netlink.bind((0, 0))
            found = _ask(netlink, _GENL_ID_CTRL, _CTRL_GETFAMILY, _CTRL_FAMILY_NAME, b"netdev\0")
            family = int.from_bytes(found[_CTRL_FAMILY_ID], "little")
            index = struct.pack("=I", ifindex)
            found = _ask(netlink, family, _DEV_GET, _DEV_IFINDEX, index)
            return bool(int.from_bytes(found[_DEV_XDP_FEATURES], "little") & _XDP_BASIC)
    except (OSError, KeyError):
        return None


def _ask(
    netlink: socket.socket, family: int, command: int, kind: int, data: bytes
) -> dict[int, bytes]:
    """The attributes of the answer; none for an error."""
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data
    body = _GENERIC.pack(command, 1, 0) + attribute + bytes(-len(attribute) % 4)
    netlink.send(_HEADER.pack(_HEADER.size + len(body), family, _NLM_F_REQUEST, 1, 0) + body)
    answer = netlink.recv(1 << 16)
    if _HEADER.unpack_from(answer)[1] == _NLMSG_ERROR:
        return {}
    found: dict[int, bytes] = {}
    at = _HEADER.size + _GENERIC.size
    with contextlib.suppress(struct.error):
        while at < len(answer):
            length, kind = _ATTRIBUTE.unpack_from(answer, at)
            found[kind] = answer[at + _ATTRIBUTE.size : at + length]
            at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return found
