# SPDX-License-Identifier: GPL-2.0-only
"""Captures the frames of one interface to a pcap file, from a known first to a known last one.

A capture on a host's own interface sees finished frames (after TC egress) on the way out, and
what XDP has left on the way in. A capture on the router sees what was on the wire. Plain UDP of a
veth still has the unfinished checksum of offload there; tshark calls that one bad.
"""

import secrets
import signal
import socket
import subprocess
from pathlib import Path
from typing import Self

from tests.rig.analysis import Analysis, analyze
from tests.rig.namespace import Namespace, RigError, wait_until

# IEEE 802 local experimental ethertype: no host does anything with it.
MARKER_ETHERTYPE = 0x88B5
KERNEL_BUFFER_KIB = 64 << 10
READY_WITHIN_S = 10.0


class Capture:
    """tcpdump on one interface while the context is open; everything sent inside is in the file."""

    def __init__(
        self,
        namespace: Namespace,
        interface: str,
        path: Path,
        expression: str = "",
        snapshot_bytes: int = 2048,
    ) -> None:
        """`expression` is a pcap-filter(7); `snapshot_bytes` 0 keeps whole frames.

        The interface "nflog:5" of a router shows what its firewall called invalid.
        """
        self.path = path
        self._namespace = namespace
        self._interface = interface
        self._is_link = ":" not in interface
        argv = [
            *("tcpdump", "-n", "-U", "--immediate-mode", "-Z", "root"),
            *("-i", interface, "-w", str(path), "-s", str(snapshot_bytes)),
            *("-B", str(KERNEL_BUFFER_KIB)),
        ]
        if expression:
            argv.append(f"({expression}) or ether proto {MARKER_ETHERTYPE:#x}")
        self._words = path.with_name(path.name + ".log")
        with self._words.open("wb") as log:
            self._process = namespace.start(*argv, stderr=log)
        try:
            wait_until(self._is_listening, READY_WITHIN_S, f"tcpdump listening on {interface}")
        except BaseException:
            self._kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        if kind is None:
            self.stop()
        else:
            self._kill()

    def stop(self) -> None:
        """Wait until all frames so far are in the file, end tcpdump. Harmless when repeated.

        RigError if the capture lost frames: what it shows would prove nothing.
        """
        if self._process.returncode is not None:
            return
        try:
            if self._is_link:
                self._await_marker()
            self._process.send_signal(signal.SIGINT)
            self._process.wait(READY_WITHIN_S)
        finally:
            self._kill()
        words = self._words.read_text(errors="replace")
        if "\n0 packets dropped by kernel" not in words:
            raise RigError(f"the capture on {self._interface} is not whole: {words.strip()}")

    def analysis(self, payloads: bool = False) -> Analysis:
        """Stop, and let tshark judge what was captured."""
        self.stop()
        return analyze(self.path, payloads, without_ethertype=MARKER_ETHERTYPE)

    def _is_listening(self) -> bool:
        words = self._words.read_text(errors="replace")
        if self._process.poll() is not None:
            raise RigError(f"tcpdump on {self._interface} ended at once: {words.strip()}")
        return "listening on" in words

    def _await_marker(self) -> None:
        """Ending, tcpdump drops what is in its buffer: let it see a last frame of ours first."""
        marker = b"end of capture " + secrets.token_bytes(16)
        addresses = b"\x02\x00\x00\x00\x00\x00" * 2
        frame = addresses + MARKER_ETHERTYPE.to_bytes(2, "big") + marker
        with self._namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as packet:
            packet.bind((self._interface, 0))
            try:
                packet.send(frame)
            except OSError as exc:
                raise RigError(
                    f"the capture on {self._interface} cannot be closed: {exc} (is the link down?)"
                ) from exc
        wait_until(lambda: self._ends_with(marker), READY_WITHIN_S, "last frame in the capture")

    def _ends_with(self, marker: bytes) -> bool:
        # Another frame may follow the marker, so look at more than the very end.
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - (1 << 20)))
            return marker in file.read()

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        try:
            self._process.wait(READY_WITHIN_S)
        except subprocess.TimeoutExpired as exc:
            raise RigError(f"tcpdump (process {self._process.pid}) cannot be ended") from exc
