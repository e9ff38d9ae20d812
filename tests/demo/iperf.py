# SPDX-License-Identifier: GPL-2.0-only
"""iperf3 in UDP mode from one host to another.

iperf3 opens a TCP connection of its own beside the measured flow, to the same port of the server.
Only the UDP flow may match a filter, so it gets a port of its own at the client.
"""

import json
from dataclasses import dataclass

from tests.rig.namespace import RigError, wait_until
from tests.rig.network import Host

SERVER_PORT = 5201
# Below the ports that the kernel gives out (ip_local_port_range): iperf3's TCP never gets it.
CLIENT_PORT = 5200
DATAGRAM_BYTES = 1400


@dataclass(frozen=True)
class Throughput:
    """What arrived at the server, as iperf3 counted it."""

    mbit_per_s: float
    """Of UDP payload."""
    datagrams: int
    """Sent."""
    lost: int

    def __str__(self) -> str:
        lost_percent = 100 * self.lost / self.datagrams if self.datagrams else 100
        return f"{self.mbit_per_s:.0f} Mbit/s arrive, {lost_percent:.1f} % lost"


def command(server: Host, rate: str, seconds: int) -> str:
    """As somebody would type it; `rate` as iperf3's -b takes it, "0" for as fast as it can."""
    return (
        f"iperf3 --client {server.address(4)} --udp -b {rate} -l {DATAGRAM_BYTES} -t {seconds} "
        f"--cport {CLIENT_PORT}"
    )


def measure(client: Host, server: Host, rate: str, seconds: int) -> Throughput:
    """Run server and client once, IPv4; RigError if they do not come to an end."""
    listener = server.namespace.start("iperf3", "--server", "--one-off", "-p", str(SERVER_PORT))
    try:
        wait_until(lambda: _is_listening(server), 5, "iperf3 server listening")
        done = client.namespace.run(
            *command(server, rate, seconds).split(), "--json", check=False, timeout_s=seconds + 30
        )
    finally:
        listener.kill()
        listener.wait()
    return _parse(done.stdout)


def _is_listening(server: Host) -> bool:
    sockets = server.namespace.run("ss", "-Htln", f"sport = :{SERVER_PORT}").stdout
    return bool(sockets.strip())


def _parse(text: str) -> Throughput:
    try:
        answer = json.loads(text)
    except json.JSONDecodeError as exc:
        raise RigError(f"iperf3 printed no result: {text.strip()[:200]!r}") from exc
    if error := answer.get("error"):
        raise RigError(f"iperf3: {error}")
    received = answer["end"]["sum_received"]
    return Throughput(
        mbit_per_s=received["bits_per_second"] / 1e6,
        datagrams=received["packets"],
        lost=received["lost_packets"],
    )
