# SPDX-License-Identifier: GPL-2.0-only
"""Log records for journald, with fields: its native protocol, without a library.

A datagram of fields: "NAME=value\\n", or, for a value of several lines, "NAME\\n", its length in
bytes (64 bit, little endian), the value, "\\n". What does not fit a datagram goes in a sealed
memory file, whose descriptor is sent instead. See systemd's "Native Journal Protocol".

A record's attributes `interface` and `connection` (given to the logger in `extra`) become the
fields INTERFACE and CONNECTION: `journalctl INTERFACE=eth0`.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")

_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG = 7
_PATIENCE_S = 0.5
"""How long a journald that does not read may hold up the daemon."""
_OWN_FIELDS = {"interface": "INTERFACE", "connection": "CONNECTION"}


def priority(level: int) -> int:
    """The priority of syslog(3) for a level of `logging`."""
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG)


def encode_field(name: str, value: str) -> bytes:
    """One field of a record."""
    raw = value.encode(errors="backslashreplace")
    if b"\n" not in raw:
        return name.encode() + b"=" + raw + b"\n"
    return name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"


class JournalHandler(logging.Handler):
    """Sends records to journald. `identifier`: SYSLOG_IDENTIFIER, what lines begin with."""

    def __init__(self, identifier: str, path: Path | None = None) -> None:
        """`path`: of its socket, if not SOCKET. Raises OSError where journald cannot be reached."""
        super().__init__()
        self._identifier = identifier
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_PATIENCE_S)
        try:
            # It outlives a restart of journald: the socket itself is systemd's.
            self._socket.connect(str(path or SOCKET))
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises; while journald is away, what it would have got is lost."""
        with contextlib.suppress(OSError):
            self._send(self.encode(record))

    def encode(self, record: logging.LogRecord) -> bytes:
        """The datagram of one record."""
        text, interface = self.format(record), getattr(record, "interface", "")
        fields = {
            "MESSAGE": f"{interface}: {text}" if interface else text,
            "PRIORITY": str(priority(record.levelno)),
            "SYSLOG_IDENTIFIER": self._identifier,
            "SYSLOG_PID": str(os.getpid()),
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
        }
        for attribute, name in _OWN_FIELDS.items():
            value = getattr(record, attribute, "")
            if value:
                fields[name] = str(value)
        return b"".join(encode_field(name, value) for name, value in fields.items())

    def _send(self, raw: bytes) -> None:
        try:
            self._socket.send(raw)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_file(raw)

    def _send_file(self, raw: bytes) -> None:
        fd = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(fd, "wb") as file:
            file.write(raw)
            file.flush()
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([], [rights])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()
