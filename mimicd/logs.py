# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's log: what is shown, also when that changes while it runs, and what a line is like.

A line about an interface is shown by that interface's log.verbosity, any other by the daemon's
own level; -v and -q of the daemon shift both. Lines go to stderr, with the level's name. Where
stderr leads to journald they are records with fields, or, if its socket cannot be used, lines
with the priority that it reads (sd-daemon(3)).

A record about an interface has it as the attribute `interface`, and `connection`, both ends in
words, where it is about one.
"""

import contextlib
import logging
import os
import select
import sys
from collections.abc import Mapping
from typing import TextIO

from mimicd.core.terminal import colour_wanted, log_line
from mimicd.core.values import LEVELS
from mimicd.journal import JournalHandler

ERROR, WARNING, INFO, DEBUG, TRACE = range(len(LEVELS))

_NUMBERS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, 5)
"""Of the library, by level."""
_PRIORITIES = (3, 4, 6, 7, 7)
"""Of syslog(3), by level."""

_daemon = logging.getLogger("mimicd")
# What an interface's verbosity lets pass is shown, whatever the level of the daemon.
_interfaces = logging.getLogger("mimicd.interfaces")
_interfaces.setLevel(_NUMBERS[TRACE])


class _Shift:
    """How many more -v than -q the daemon got."""

    by = 0


def set_up(
    shift: int, stream: TextIO = sys.stderr, environ: Mapping[str, str] = os.environ
) -> None:
    """Log to `stream`. `shift`: how many more -v than -q."""
    logging.getLogger().addHandler(_handler_for(stream, environ))
    _Shift.by = shift
    set_daemon_level(INFO)
    # what libraries say below a warning concerns nobody here
    for name in ("asyncio", "pyroute2"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _handler_for(stream: TextIO, environ: Mapping[str, str]) -> logging.Handler:
    if is_journal(stream, environ):
        with contextlib.suppress(OSError):
            return JournalHandler("mimicd")
    handler = _Handler(stream)
    handler.setFormatter(formatter_for(stream, environ))
    return handler


def set_daemon_level(level: int) -> None:
    """Of the lines that are about no interface."""
    _daemon.setLevel(_NUMBERS[shifted(level)])


def shifted(level: int) -> int:
    """What is shown where `level` was asked for."""
    return max(ERROR, min(level + _Shift.by, TRACE))


def write(
    interface: str, level: int, text: str, verbosity: int = INFO, connection: str = ""
) -> None:
    """A line about an interface whose log.verbosity is `verbosity`."""
    if level <= shifted(verbosity):
        extra = {"interface": interface, "connection": connection}
        _interfaces.log(_NUMBERS[level], "%s", text, extra=extra)


def level_of(record: logging.LogRecord) -> int:
    """0 (error) to 4 (trace)."""
    return next((at for at, number in enumerate(_NUMBERS) if record.levelno >= number), TRACE)


def formatter_for(stream: TextIO, environ: Mapping[str, str]) -> logging.Formatter:
    """That of journald, where `stream` leads there, else that of people."""
    if is_journal(stream, environ):
        return _JournalFormatter()
    return _PeopleFormatter(colour_wanted(stream.isatty(), environ))


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether systemd connected `stream` to journald: see JOURNAL_STREAM in systemd.exec(5).

    The variable is inherited by those whose output goes elsewhere, so it names the file.
    """
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Handler(logging.StreamHandler[TextIO]):
    """Waits for nobody: a terminal that was stopped, or a pipe that nobody empties, costs lines,
    not handshakes. How many is said once there is room again.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lost = 0
        self._room: select.poll | None = None
        with contextlib.suppress(OSError, ValueError):  # not a file
            poller = select.poll()
            poller.register(stream.fileno(), select.POLLOUT)
            self._room = poller

    def emit(self, record: logging.LogRecord) -> None:
        # A pipe has room when it takes PIPE_BUF bytes at once (pipe(7)), more than a line has.
        if self._room is not None and not self._room.poll(0):
            self._lost += 1
            return
        if self._lost:
            words, self._lost = f"{self._lost} lines of the log are lost, nobody read them", 0
            super().emit(logging.makeLogRecord({"levelno": logging.WARNING, "msg": words}))
        super().emit(record)


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        interface = getattr(record, "interface", "")
        text = super().format(record)
        prefix = f"<{_PRIORITIES[level_of(record)]}>"
        first = f"{prefix}{interface}: " if interface else prefix
        return first + text.replace("\n", f"\n{prefix}")


class _PeopleFormatter(logging.Formatter):
    def __init__(self, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = super().format(record).split("\n")
        interface = getattr(record, "interface", "")
        # the rest is a traceback
        return "\n".join([log_line(interface, level_of(record), first, self._colour), *rest])
