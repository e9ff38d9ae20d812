# SPDX-License-Identifier: GPL-2.0-only
"""The data path under test at both hosts of a network, and what its wire must not show."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.rig.analysis import Report
from tests.rig.attachments import attachments
from tests.rig.capture import Capture
from tests.rig.daemon import Foreground
from tests.rig.network import Host, Network

TRANSPORT = "tcp or udp"
# Any frame of the usual MTU is whole in it. The capture's buffer has slots of this size: larger
# ones were so few that a burst filled them.
WHOLE_FRAME_BYTES = 2048


@contextlib.contextmanager
def disguised(
    net: Network, at_a: Sequence[str], at_b: Sequence[str], xdp_mode: str = "auto"
) -> Iterator[None]:
    """Run the data path at A and B with these filters, until the context is left.

    What fails inside says what both had to say.
    """
    with _running(net.a, at_a, xdp_mode) as a, _running(net.b, at_b, xdp_mode) as b:
        try:
            # Both compile at the same time.
            for program in (a, b):
                program.await_attached()
            yield
        except BaseException as exc:
            for host, program in (("A", a), ("B", b)):
                exc.add_note(f"{host} said: {program.log.strip()}")
            raise


def remote_and_local(net: Network, family: int, port: int, settings: str = "") -> tuple[str, str]:
    """The filters of A and of B for the flows to one port of B, with the same settings."""
    address = net.b.address(family)
    end = f"{address}:{port}" if family == 4 else f"[{address}]:{port}"
    return f"remote={end}{settings}", f"local={end}{settings}"


def wire_capture(
    net: Network, path: Path, snapshot_bytes: int = WHOLE_FRAME_BYTES, side: str = "a"
) -> Capture:
    """What A and B put on the wire, seen between the firewall and the host on one side."""
    interface = net.router.interface(side)
    return Capture(net.router.namespace, interface, path, TRANSPORT, snapshot_bytes)


def xdp_modes(host: Host) -> set[str]:
    """How XDP is attached at a host: "native", "generic"."""
    return {line.split()[-1] for line in attachments(host).xdp}


def data_segments(report: Report) -> int:
    """How many segments carry a datagram: all of them push, and nothing else does."""
    return sum("P" in letters for letters in report.flag_sequence)


def handshakes(report: Report) -> list[str]:
    """The flag letters of the segments that open a connection, in order."""
    return [letters for letters in report.flag_sequence if "S" in letters]


def _running(host: Host, filters: Sequence[str], xdp_mode: str) -> Foreground:
    options = [word for text in filters for word in ("-f", text)]
    return Foreground(host, "run", "-x", xdp_mode, *options, host.interface)
