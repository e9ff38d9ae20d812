# SPDX-License-Identifier: GPL-2.0-only
"""Command lines as data: options and commands, how argv is read, and what --help says of them.

Both programs are made of these, and so are their manual pages and shell completions. The options
that are about settings come from the table in `settings`. Options may stand before or after the
operands of a command, short ones may be put together, long ones cut short.
"""

from __future__ import annotations

import getopt
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mimicd.core.errors import EXIT_USAGE, MimicError
from mimicd.core.settings import SETTINGS
from mimicd.core.terminal import printable

_HELP_WIDTH = 79
_OPTION_WIDTH = 30
_COMMAND_WIDTH = 12


class UsageError(MimicError):
    """The command line makes no sense."""

    error_name = "Usage"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True)
class Option:
    short: str
    """ "-f", or "" if there is none."""
    long: str
    metavar: str
    """What stands for its argument; "" if it takes none."""
    help: str
    key: str
    """Setting or name of the switch that it is about."""
    text: str = ""
    """What a setting's option without an argument stands for."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command, or for the name "" the program without one."""

    name: str
    summary: str
    operands: str
    """What stands behind the options in the usage line."""
    options: tuple[Option, ...]
    details: str = ""
    """More about it for its own help."""

    def words(self, program: str) -> str:
        """ "mimicctl run"."""
        return f"{program} {self.name}".strip()


HELP_OPTIONS = (
    Option("-?", "--help", "", "print this help", "help"),
    Option("", "--usage", "", "print a short usage line", "usage"),
    Option("-V", "--version", "", "print the version", "version"),
)
"""At every level of every program."""

SETTING_OPTIONS = tuple(
    Option(flag.short, flag.long, "" if flag.text else row.metavar, flag.help, row.key, flag.text)
    for row in SETTINGS
    for flag in row.flags
)


def read_arguments(
    argv: Sequence[str], options: Iterable[Option], permute: bool, words: str
) -> tuple[list[tuple[Option, str]], list[str]]:
    """The options with their arguments, and the operands. Raises UsageError.

    Without `permute` the first operand ends the options. `words`: the command, for the hint.
    """
    by_name: dict[str, Option] = {}
    shorts, longs = "", []
    for option in options:
        takes = bool(option.metavar)
        by_name[option.long] = option
        longs.append(option.long[2:] + ("=" if takes else ""))
        if option.short:
            by_name[option.short] = option
            shorts += option.short[1] + (":" if takes else "")
    parse = getopt.gnu_getopt if permute else getopt.getopt
    try:
        pairs, operands = parse(list(argv), shorts, longs)
    except getopt.GetoptError as exc:
        raise UsageError(printable(exc.msg), f"{words} --help lists the options") from None
    return [(by_name[name], value) for name, value in pairs], operands


def usage_line(program: str, command: Command) -> str:
    words = ["Usage:", command.words(program), "[OPTION...]", command.operands]
    return " ".join(word for word in words if word)


def help_text(
    program: str, command: Command, commands: Sequence[Command] = (), common: str = ""
) -> str:
    """The help of one command; `commands` are those below it, `common` a last line."""
    text = f"{command.summary[0].upper()}{command.summary[1:]}. {command.details}".strip()
    lines = [usage_line(program, command), *textwrap.wrap(text, _HELP_WIDTH), ""]
    if commands:
        lines += [f"  {one.name:<{_COMMAND_WIDTH}}{one.summary}" for one in commands]
        lines.append("")
    for option in command.options:
        lines += _option_lines(option)
    if common:
        lines += ["", common]
    return "\n".join(lines) + "\n"


def _option_lines(option: Option) -> list[str]:
    short = f"{option.short}, " if option.short else "    "
    argument = f"={option.metavar}" if option.metavar else ""
    head = f"  {short}{option.long}{argument}"
    lines = []
    if len(head) >= _OPTION_WIDTH:
        lines.append(head)
        head = ""
    indent = " " * _OPTION_WIDTH
    text = textwrap.wrap(option.help, _HELP_WIDTH - _OPTION_WIDTH)
    lines.append(f"{head:<{_OPTION_WIDTH}}{text[0]}")
    return lines + [indent + line for line in text[1:]]
