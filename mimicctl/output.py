# SPDX-License-Identifier: GPL-2.0-only
"""Where words go: data to stdout, talk to stderr, colour only where a person looks."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import Any, TextIO

from mimicd.core.errors import MimicError
from mimicd.core.terminal import colour_wanted


class Output:
    """The two streams of the process."""

    def __init__(self) -> None:
        self.colour = _is_for_people(sys.stdout)
        self.columns = _columns(sys.stdout)
        """Of the terminal that data goes to, None for anything else."""
        self.talk_colour = _is_for_people(sys.stderr)

    def data(self, text: str) -> None:
        """What was asked for, ending in a newline; it is out when this returns."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def json(self, value: Any) -> None:
        self.data(json.dumps(value, indent=2) + "\n")

    def json_line(self, value: Any) -> None:
        self.data(json.dumps(value) + "\n")

    def talk(self, text: str) -> None:
        """One line about what goes on."""
        print(f"mimicctl: {text}", file=sys.stderr, flush=True)

    def log(self, line: str) -> None:
        """One line of the daemon's log."""
        print(line, file=sys.stderr, flush=True)

    def error(self, error: MimicError) -> None:
        self.talk(str(error))
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr, flush=True)


def person_is_there() -> bool:
    """Whether somebody could be asked for a password."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _columns(stream: TextIO) -> int | None:
    # The size of a terminal that does not know its own is 0.
    return (shutil.get_terminal_size((0, 0)).columns or None) if stream.isatty() else None


def _is_for_people(stream: TextIO) -> bool:
    return colour_wanted(stream.isatty(), os.environ)
