# SPDX-License-Identifier: GPL-2.0-only
"""Asks WireGuard for its port and its peers: the kernel, or the program that stands in for it."""

import asyncio
import errno
import os
import socket
from pathlib import Path

from mimicd.core import wireguard
from mimicd.core.wireguard import Tunnel

SOCKETS = Path("/var/run/wireguard")
"""Where wireguard-go and its like listen, as wg(8) expects it."""

_TIMEOUT_S = 2.0
_READ_BYTES = 65536
_ANSWER_BYTES_MAX = 32 << 20


async def read_tunnel(name: str, kind: str) -> Tunnel:
    """How it stands now. `kind`: of the link, as the kernel calls it.

    Raises OSError: ENOENT where nothing answers for such an interface; or ValueError where the
    answer is not understood.
    """
    if kind == "wireguard":
        return await asyncio.to_thread(_ask_kernel, name)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await _ask_program(name)
    except ConnectionRefusedError:
        raise FileNotFoundError(errno.ENOENT, "its program has ended") from None


async def _ask_program(name: str) -> Tunnel:
    reader, writer = await asyncio.open_unix_connection(SOCKETS / f"{name}.sock")
    try:
        writer.write(wireguard.GET_REQUEST)
        answer = bytearray()
        while not answer.endswith(b"\n\n"):
            more = await reader.read(_READ_BYTES)
            answer += more
            if not more or len(answer) > _ANSWER_BYTES_MAX:
                break
        return wireguard.parse_answer(answer.decode(errors="replace"))
    finally:
        writer.close()


def _ask_kernel(name: str) -> Tunnel:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, wireguard.GENERIC_NETLINK) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        netlink.bind((0, 0))
        netlink.send(wireguard.encode_family_request(1))
        family = wireguard.decode_family(netlink.recv(_READ_BYTES))
        if family is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        netlink.send(wireguard.encode_device_request(family, name, 2))
        answer = b""
        while not wireguard.is_last(part := netlink.recv(_READ_BYTES)):
            answer += part
            if len(answer) > _ANSWER_BYTES_MAX:
                raise ValueError("the answer has no end")
        answer += part
    code = wireguard.error_of(answer)
    if code:
        raise OSError(code, os.strerror(code))
    return wireguard.decode_device(answer, family)
