# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's log: which lines are shown, and what they look like to people and to journald."""

import io
import logging
import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimicd import logs
from mimicd.core import terminal
from mimicd.core.values import LEVELS

daemon = logging.getLogger("mimicd.somewhere")


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """The log of a daemon that got so many more -v than -q; loggers are as before when it ends."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), logging.getLogger("mimicd").level
    stream = io.StringIO()
    logs.set_up(getattr(request, "param", 0), stream, {})
    yield stream
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
    logging.getLogger("mimicd").setLevel(level)
    logs._Shift.by = 0


def say_everything(verbosity: int) -> None:
    for level, name in enumerate(LEVELS):
        logs.write("eth0", level, name, verbosity)


@pytest.mark.parametrize("verbosity", range(5))
def test_an_interface_is_heard_as_far_as_its_verbosity_goes(
    stream: io.StringIO, verbosity: int
) -> None:
    say_everything(verbosity)
    expected = [f"{name:<5} eth0: {name}" for name in LEVELS[: verbosity + 1]]
    assert stream.getvalue().splitlines() == expected


@pytest.mark.parametrize(
    ("stream", "verbosity", "heard"),
    [(1, 2, 4), (2, 2, 5), (9, 0, 5), (-1, 2, 2), (-9, 4, 1)],
    indirect=["stream"],
)
def test_the_daemons_own_options_shift_what_is_heard(
    stream: io.StringIO, verbosity: int, heard: int
) -> None:
    say_everything(verbosity)
    assert len(stream.getvalue().splitlines()) == heard


@pytest.mark.parametrize(("stream", "heard"), [(0, 1), (1, 2), (-1, 0)], indirect=["stream"])
def test_the_daemon_itself_is_heard_from_info_on(stream: io.StringIO, heard: int) -> None:
    daemon.info("serving")
    daemon.debug("details")
    assert len(stream.getvalue().splitlines()) == heard


def test_the_daemons_level_changes_while_it_runs(stream: io.StringIO) -> None:
    daemon.debug("too early")
    logs.set_daemon_level(logs.DEBUG)
    daemon.debug("in time")
    logs.set_daemon_level(logs.ERROR)
    daemon.warning("too late")
    logs.write("eth0", logs.WARNING, "has a level of its own")
    assert stream.getvalue() == "debug in time\nwarn  eth0: has a level of its own\n"


def test_a_line_carries_interface_and_connection(stream: io.StringIO) -> None:
    records: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        records.append(record)
        return False

    handler = logging.Handler()
    handler.addFilter(keep)
    logging.getLogger().addHandler(handler)
    logs.write("eth0", logs.INFO, "a => b :: established", connection="a => b")
    (record,) = records
    assert (vars(record)["interface"], vars(record)["connection"]) == ("eth0", "a => b")
    assert stream.getvalue() == "info  eth0: a => b :: established\n"


def test_journald_gets_a_priority_for_every_line(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        formatter = logs.formatter_for(stream, environ)
        # The variable is inherited: it says nothing of a stream that leads elsewhere.
        elsewhere = logs.formatter_for(stream, {"JOURNAL_STREAM": f"{status.st_dev}:1"})
    shown = []
    for level, number in enumerate(logs._NUMBERS):
        record = logging.makeLogRecord(
            {"levelno": number, "msg": "one\ntwo", "interface": "eth0" if level else ""}
        )
        assert logs.level_of(record) == level
        shown.append(formatter.format(record))
    assert shown[0] == "<3>one\n<3>two"
    assert shown[1:] == [f"<{n}>eth0: one\n<{n}>two" for n in (4, 6, 7, 7)]
    assert elsewhere.format(record) == "trace eth0: one\ntwo"


def test_a_reader_who_stops_reading_costs_lines_and_no_time() -> None:
    reading, writing = os.pipe()
    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    with os.fdopen(reading, "rb", 0) as reader, os.fdopen(writing, "w") as stream:
        logs.set_up(0, stream, {})
        try:
            # a pipe holds 64 KiB
            for number in range(10_000):
                logs.write("eth0", logs.INFO, f"line {number}")
            shown = reader.read(1 << 20)
            logs.write("eth0", logs.INFO, "there is room again")
            rest = reader.read(1 << 20).decode().splitlines()
        finally:
            for handler in set(root.handlers) - set(handlers):
                root.removeHandler(handler)
    lost = 10_000 - shown.count(b"\n")
    assert lost > 0
    assert rest == [
        f"warn  {lost} lines of the log are lost, nobody read them",
        "info  eth0: there is room again",
    ]


@pytest.mark.parametrize(
    ("environ", "colour"),
    [
        ({}, True),
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
    ],
)
def test_only_a_terminal_gets_colour(environ: dict[str, str], colour: bool) -> None:
    assert terminal.colour_wanted(True, environ) is colour
    assert not terminal.colour_wanted(False, environ)
    ours, theirs = pty.openpty()
    record = logging.makeLogRecord({"levelno": logging.ERROR, "msg": "no\x1b[2J"})
    with os.fdopen(ours), os.fdopen(theirs, "w") as stream:
        shown = logs.formatter_for(stream, environ).format(record)
    assert shown == ("\x1b[31merror\x1b[0m no\\x1b[2J" if colour else "error no\\x1b[2J")
