# SPDX-License-Identifier: GPL-2.0-only
"""Carries out what the core asks for: frames onto the interface, and entries deleted."""

import errno
import logging

from mimicd.core import abi
from mimicd.core.abi import ConnEntry, Operation
from mimicd.core.connection import State
from mimicd.core.errors import FailedError
from mimicd.core.flows import Action, Command, Forget, Resend
from mimicd.core.frames import command_frame
from mimicd.kernel.bpf import Map
from mimicd.kernel.netlink import Link
from mimicd.kernel.packet_socket import PacketSocket

log = logging.getLogger(__name__)


class Outlet:
    """Of one interface, from `open` to `close`."""

    def __init__(self, conns: Map) -> None:
        self._conns = conns
        self._held: PacketSocket | None = None
        self._commands: PacketSocket | None = None
        self._name = ""
        self._failures = 0

    def open(self, link: Link, link_type: str, config: abi.Config) -> None:
        """Raises FailedError."""
        self._name = link.name
        has_link_header = link_type == "eth"
        try:
            self._held = PacketSocket(link.ifindex, config.resend_mark, has_link_header)
            self._commands = PacketSocket(link.ifindex, config.command_mark, has_link_header)
        except OSError as error:
            raise FailedError(
                f"cannot open a packet socket on {link.name}: {error.strerror}",
                "mimicd needs CAP_NET_RAW, or root",
            ) from error

    def close(self) -> None:
        """Whatever is asked for from here on is not done."""
        for socket in (self._held, self._commands):
            if socket is not None:
                socket.close()
        self._held = self._commands = None

    def act(self, action: Action, entry: ConnEntry | None = None) -> None:
        """`entry`: as it was just read, where it was."""
        match action:
            case Resend(key, frame, generation):
                # ENOBUFS comes from behind the program, which has counted it as sent again
                if self._send(self._held, frame) not in (0, errno.ENOBUFS):
                    self.act(Command(key, Operation.RELEASE, generation, 1))
            case Command(key, operation, generation, argument):
                entry = entry or self._entry(key)
                if entry is not None:
                    payload = abi.encode_command(operation, generation, argument)
                    self._send(self._commands, command_frame(entry.link_header, key, payload))
            case Forget(key, generation):
                current = self._entry(key)
                if (
                    current is not None
                    and current.state is State.IDLE
                    and current.generation == generation
                ):
                    # A datagram that opens it between look and deletion is sent again by its
                    # sender, as any lost one.
                    self._conns.delete(key)

    def take_failures(self) -> int:
        """How many frames could not be sent since the last time."""
        failures, self._failures = self._failures, 0
        return failures

    def _entry(self, key: bytes) -> ConnEntry | None:
        raw = self._conns.lookup(key)
        return abi.decode_conn(raw) if raw else None

    def _send(self, socket: PacketSocket | None, frame: bytes) -> int:
        """0, or the number of the error."""
        if socket is None:
            return errno.ENXIO
        try:
            socket.send(frame)
        except OSError as error:
            # A full queue or an interface that is down; deadlines try again.
            if error.errno not in (errno.ENOBUFS, errno.ENETDOWN, errno.ENXIO, errno.EAGAIN):
                log.warning("%s: cannot send a frame: %s", self._name, error)
            self._failures += 1
            return error.errno or errno.EIO
        return 0
