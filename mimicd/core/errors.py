# SPDX-License-Identifier: GPL-2.0-only
"""Every error a user or a bus client can meet.

    MimicError
     +-- InvalidConfigError      a setting, filter or file is not understood
     +-- NameResolutionError     a host name in a filter has no address
     +-- NoSuchInterfaceError
     +-- InterfaceDownError
     +-- AlreadyRunningError
     +-- NotRunningError
     +-- AttachError             the kernel refused the programs
     |    +-- XdpBusyError       somebody else's XDP program is there
     +-- MissingDependencyError
     +-- NotAuthorizedError
     +-- BusError                the bus or the daemon is not reachable
     +-- FailedError             anything else, said in one sentence

A message is one sentence: what failed, on what, why. The hint, if any, says what to do next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_NOT_AUTHORIZED = 4

# D-Bus error names are this plus an error's `error_name`.
ERROR_PREFIX = "org.mimicd1.Error."


class MimicError(Exception):
    """One sentence about what failed, and a hint.

    `error_name` is the tail of the D-Bus error name, `exit_code` what a command exits with.
    """

    error_name: ClassVar[str] = "Failed"
    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # BaseException would rebuild from `args` alone and lose the hint.
        return (type(self), (self.message, self.hint), self.__dict__)


class Located(str):
    """A text that knows where in which file it stands; lines and columns count from 1."""

    __slots__ = ("column", "line", "name")

    name: str
    line: int
    column: int

    def __new__(cls, text: str, name: str, line: int, column: int) -> Located:
        located = super().__new__(cls, text)
        located.name, located.line, located.column = name, line, column
        return located


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in a configuration, and where it is if the text came from a file."""

    message: str
    hint: str = ""
    offset: int = 0
    """Where the bad part starts in the text that was read, in characters."""
    name: str = ""
    line: int = 0
    """From 1; 0 = the text came from no file."""
    column: int = 0

    @property
    def where(self) -> str:
        """ "file:line:column", or "" when the text came from no file."""
        return f"{self.name}:{self.line}:{self.column}" if self.line else ""

    def moved(self, by: int) -> Problem:
        """The same fault in a text in which the one that was read starts at `by`."""
        return replace(self, offset=self.offset + by)

    def located(self, text: object) -> Problem:
        """The same fault with the place of `text`, the one that was read, if it has any."""
        if not isinstance(text, Located):
            return self
        return replace(self, name=text.name, line=text.line, column=text.column + self.offset)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.line else self.message


class InvalidConfigError(MimicError):
    """A setting, filter or configuration file is not understood; `problems` has each fault."""

    error_name = "InvalidConfig"
    exit_code = EXIT_USAGE

    def __init__(self, message: str, hint: str = "", offset: int = 0) -> None:
        super().__init__(message, hint)
        self.problems: tuple[Problem, ...] = (Problem(message, hint, offset),)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> InvalidConfigError:
        """One error that tells all of `problems` (at least one), a line each, in their order.

        With several, each line carries its own hint and the error has none.
        """
        if len(problems) == 1:
            error = cls(str(problems[0]), problems[0].hint)
        else:
            error = cls("\n".join(_line_of(problem) for problem in problems))
        error.problems = tuple(problems)
        return error


def _line_of(problem: Problem) -> str:
    return f"{problem} ({problem.hint})" if problem.hint else str(problem)


def quote(text: str, limit: int = 80) -> str:
    """`text` in double quotes for a message, made fit for one by `escape`."""
    return f'"{escape(text, limit)}"'


def escape(text: str, limit: int = 80) -> str:
    """`text` for a message: control characters escaped, long text cut.

    It may come from the wire or the bus, so it must not be able to write to a terminal.
    """
    if len(text) > limit:
        text = text[:limit] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class NameResolutionError(MimicError):
    error_name = "NameResolution"
    exit_code = EXIT_USAGE


class NoSuchInterfaceError(MimicError):
    error_name = "NoSuchInterface"


class InterfaceDownError(MimicError):
    error_name = "InterfaceDown"


class AlreadyRunningError(MimicError):
    error_name = "AlreadyRunning"


class NotRunningError(MimicError):
    error_name = "NotRunning"


class AttachError(MimicError):
    error_name = "AttachFailed"


class XdpBusyError(AttachError):
    error_name = "XdpBusy"


class MissingDependencyError(MimicError):
    error_name = "MissingDependency"


class NotAuthorizedError(MimicError):
    error_name = "NotAuthorized"
    exit_code = EXIT_NOT_AUTHORIZED


class BusError(MimicError):
    error_name = "Bus"
    exit_code = EXIT_UNREACHABLE


class FailedError(MimicError):
    error_name = "Failed"


def error_from_name(error_name: str, message: str, hint: str = "") -> MimicError:
    """The error that a D-Bus error's tail stands for; an unknown tail gives a FailedError."""
    return _BY_NAME.get(error_name, FailedError)(message, hint)


def _subclasses(cls: type[MimicError]) -> Iterator[type[MimicError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


_BY_NAME: dict[str, type[MimicError]] = {cls.error_name: cls for cls in _subclasses(MimicError)}
