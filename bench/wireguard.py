# SPDX-License-Identifier: GPL-2.0-only
"""TCP through WireGuard through an arm: iperf3 in wireguard-go, which runs in user space.

The in-kernel WireGuard is faster, so that its share of the time is smaller and the arm's larger.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench.machine import Strangers, idle_s
from bench.session import Session
from bench.traffic import Receiver
from tests.rig.daemon import Program
from tests.rig.namespace import RigError, wait_until
from tests.rig.network import Host

MTU_BYTES = 1400
"""The same for every arm: the largest that is disguised over IPv6, rounded down."""
ADDRESSES = {"server": "10.78.0.2", "client": "10.78.0.1"}
IPERF_PORT = 5201
SECONDS_FACTOR = 3
"""TCP takes a while to find its rate."""
READY_WITHIN_S = 10.0
CONNECT_WITHIN_MS = 15_000
SOCKETS = Path("/run/wireguard")


def wireguard(session: Session, seconds: float) -> dict[str, float]:
    """Throughput of one TCP connection, and processor time of the whole machine for it."""
    with _tunnel(session):
        return _throughput(session.net.a, session.net.b, max(1, round(seconds * SECONDS_FACTOR)))


@contextlib.contextmanager
def _tunnel(session: Session) -> Iterator[None]:
    """WireGuard on the ports of the load, whose receiver makes room meanwhile."""
    net = session.net
    ends = {"server": net.b, "client": net.a}
    keys = {side: _run(net.a, "wg", "genkey").strip() for side in ends}
    public = {
        side: net.a.namespace.run("wg", "pubkey", stdin=key).stdout.strip()
        for side, key in keys.items()
    }
    address, port = session.target()
    endpoint = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    peer = {
        "server": ["peer", public["client"], "allowed-ips", f"{ADDRESSES['client']}/32"],
        "client": ["peer", public["server"], "allowed-ips", f"{ADDRESSES['server']}/32"],
    }
    peer["client"] += ["endpoint", endpoint]
    session.receiver.close()
    try:
        with contextlib.ExitStack() as stack:
            for side, host in ends.items():
                # The interface's control socket has its name, in a folder of the whole machine.
                dev = f"wg{os.getpid() % 10_000_000}{side[0]}"
                stack.enter_context(_interface(host, dev, session.folder / f"{dev}.log"))
                key = session.folder / f"{dev}.key"
                key.write_text(keys[side], encoding="ascii")
                listen = ["listen-port", str(session.listener()[1])] if side == "server" else []
                _run(host, "wg", "set", dev, "private-key", str(key), *listen, *peer[side])
                _run(host, "ip", "address", "add", f"{ADDRESSES[side]}/24", "dev", dev)
                _run(host, "ip", "link", "set", dev, "mtu", str(MTU_BYTES), "up")
            yield
    finally:
        session.receiver = Receiver(session.load, net.b.namespace, *session.listener())


@contextlib.contextmanager
def _interface(host: Host, dev: str, log: Path) -> Iterator[None]:
    program = Program(host, ["wireguard-go", "--foreground", dev], log, os.environ)
    try:
        program.start()

        def is_up() -> bool:
            program.check_running()
            return (SOCKETS / f"{dev}.sock").exists()

        wait_until(is_up, READY_WITHIN_S, f"wireguard-go serves {dev}")
        yield
    finally:
        program.end()


def _throughput(client: Host, server: Host, seconds: int) -> dict[str, float]:
    argv = ["iperf3", "--server", "--one-off", "--bind", ADDRESSES["server"]]
    listener = server.namespace.start(*argv)
    try:
        wait_until(lambda: _is_listening(server), READY_WITHIN_S, "iperf3 listens")
        strangers, idle_before_s, start_s = Strangers(), idle_s(), time.monotonic()
        done = client.namespace.run(
            *("iperf3", "--client", ADDRESSES["server"], "--time", str(seconds), "--json"),
            *("--connect-timeout", str(CONNECT_WITHIN_MS)),
            check=False,
            timeout_s=seconds + 60,
        )
        wall_s, idle_spent_s = time.monotonic() - start_s, idle_s() - idle_before_s
        others_s = strangers.share() * wall_s
    finally:
        listener.kill()
        listener.wait()
    received = _received(done.stdout)
    busy_s = wall_s * (os.cpu_count() or 1) - idle_spent_s - others_s
    gbit = received["bytes"] * 8 / 1e9
    values = {"wireguard.mbps": received["bits_per_second"] / 1e6}
    return values | ({"wireguard.cpu_per_gbit_ms": busy_s * 1000 / gbit} if gbit else {})


def _received(text: str) -> dict[str, float]:
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        raise RigError(f"iperf3 printed no result: {text.strip()[:200]!r}") from None
    if error := answer.get("error"):
        raise RigError(f"iperf3: {error}")
    return dict(answer["end"]["sum_received"])


def _is_listening(server: Host) -> bool:
    return bool(_run(server, "ss", "-Htln", f"sport = :{IPERF_PORT}").strip())


def _run(host: Host, *argv: str) -> str:
    return host.namespace.run(*argv).stdout
