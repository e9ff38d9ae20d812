# SPDX-License-Identifier: GPL-2.0-only
"""A checksum over the whole frame that the kernel keeps (CHECKSUM_COMPLETE) stays true on TC.

NICs form one. Here it comes from a VXLAN whose outer checksum was verified in software: the kernel
keeps the rest of that sum for what is inside, and counts an error where it does not fit.
"""

import contextlib
import socket

from tests.rig.daemon import Foreground
from tests.rig.namespace import wait_until
from tests.rig.network import Host, Network

PORT, REPEATED = 5300, 20
SIZES_BYTES = (1, 11, 12, 13, 64, 65, 333, 1001, 1300)
ADDRESSES = ("10.9.0.1", "10.9.0.2")


def add_vxlan(host: Host, other: Host, address: str) -> None:
    host.set_offload(tx=False)
    local, remote = host.address(), other.address()
    for command in (
        f"link add vx0 type vxlan id 7 local {local} remote {remote} dstport 4789 udpcsum dev eth0",
        f"address add {address}/24 dev vx0",
        "link set vx0 up",
    ):
        host.namespace.run("ip", *command.split())


def checksum_errors(host: Host) -> int:
    names, values = (
        line.split()[1:]
        for line in host.namespace.run("cat", "/proc/net/snmp").stdout.splitlines()
        if line.startswith("Udp:")
    )
    return int(values[names.index("InCsumErrors")])


def test_datagrams_out_of_a_vxlan_fit_the_sum_that_the_kernel_keeps(
    direct_network: Network,
) -> None:
    net = direct_network
    add_vxlan(net.a, net.b, ADDRESSES[0])
    add_vxlan(net.b, net.a, ADDRESSES[1])
    end = f"{ADDRESSES[1]}:{PORT}"
    with contextlib.ExitStack() as stack:
        for host, filter_ in ((net.a, f"remote={end}"), (net.b, f"local={end}")):
            program = stack.enter_context(
                Foreground(host, "run", "-x", "none", "-f", filter_, "vx0")
            )
            program.await_words("attached")
        receiver = stack.enter_context(net.b.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receiver.bind((ADDRESSES[1], PORT))
        receiver.setblocking(False)
        sender = stack.enter_context(net.a.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender.connect((ADDRESSES[1], PORT))
        for size in SIZES_BYTES:
            for number in range(REPEATED):
                datagram = bytes((number + at) % 256 for at in range(size))
                sender.send(datagram)
                assert wait_until(lambda: taken(receiver), 5, f"{size} bytes") == datagram
    assert checksum_errors(net.b) == 0


def taken(udp: socket.socket) -> bytes | None:
    try:
        return udp.recv(2048)
    except BlockingIOError:
        return None
