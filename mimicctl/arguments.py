# SPDX-License-Identifier: GPL-2.0-only
"""The command line: from argv to a Request, or to the text that --help and its like ask for.

The options of `run` and `reload` come from the table of settings. Options may stand before or
after the interface, short ones may be put together, long ones cut short.
"""

from __future__ import annotations

import getopt
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mimicd import __version__
from mimicd.core.errors import EXIT_USAGE, MimicError
from mimicd.core.settings import SETTINGS

PROGRAM = "mimicctl"
_FILE_KEY = "file"
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
    name: str
    summary: str
    interface: str
    """ "needed", "optional" or ""."""
    options: tuple[Option, ...]
    details: str = ""
    """More about it for its own help."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be done."""

    command: str
    interface: str = ""
    address: str | None = None
    """Bus to use, None for the usual one."""
    texts: dict[str, list[str]] = field(default_factory=dict)
    """Configuration key -> texts as given, in their order."""
    file: str | None = None
    switches: frozenset[str] = frozenset()
    """Options without an argument: "json", "detach", "check", "connections", "process"."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A text to print, and nothing else to do."""

    text: str


_COMMON = (
    Option("", "--address", "ADDRESS", "the bus to use instead of the system bus", "address"),
    Option("-?", "--help", "", "print this help", "help"),
    Option("", "--usage", "", "print a short usage line", "usage"),
    Option("-V", "--version", "", "print the version", "version"),
)

_JSON = Option("", "--json", "", "print JSON, for programs", "json")

_SETTING_OPTIONS = tuple(
    Option(flag.short, flag.long, "" if flag.text else row.metavar, flag.help, row.key, flag.text)
    for row in SETTINGS
    for flag in row.flags
)

COMMANDS = (
    Command(
        "run",
        "disguise the flows of an interface until Ctrl-C",
        "needed",
        (
            *_SETTING_OPTIONS,
            Option("", "--detach", "", "leave it running and return", "detach"),
            Option("", "--check", "", "only check the settings", "check"),
            *_COMMON,
        ),
    ),
    Command(
        "show",
        "show an interface and its connections, or all of them",
        "optional",
        (
            Option("-c", "--connections", "", "show only the connections", "connections"),
            Option("-p", "--process", "", "show only process and interface", "process"),
            _JSON,
            *_COMMON,
        ),
    ),
    Command("stop", "stop an interface", "needed", _COMMON),
    Command("list", "list the running interfaces", "", (_JSON, *_COMMON)),
    Command(
        "reload",
        "apply changed settings to what runs",
        "optional",
        (*_SETTING_OPTIONS, *_COMMON),
        "Without settings it reads /etc/mimic/<interface>.conf, without an interface that of every"
        " running one that has such a file.",
    ),
    Command("monitor", "print what happens until Ctrl-C", "optional", (_JSON, *_COMMON)),
)


def parse_arguments(argv: Sequence[str]) -> Request | Answer:
    """Read the arguments after the program's name. Raises UsageError."""
    given, rest = _parse(argv, _COMMON, permute=False, command="")
    answer = _answer(given, None)
    if answer is not None:
        return answer
    if not rest:
        raise UsageError("no command given", f"commands: {_command_names()}")
    command = next((one for one in COMMANDS if one.name == rest[0]), None)
    if command is None:
        raise UsageError(f"there is no command {rest[0]!r}", f"commands: {_command_names()}")
    more, operands = _parse(rest[1:], command.options, permute=True, command=command.name)
    return _answer(more, command) or _request(command, [*given, *more], operands)


def _parse(
    argv: Sequence[str], options: Iterable[Option], permute: bool, command: str
) -> tuple[list[tuple[Option, str]], list[str]]:
    """The options with their arguments, and the operands."""
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
        words = f"{PROGRAM} {command}".strip()
        raise UsageError(exc.msg, f"{words} --help lists the options") from None
    return [(by_name[name], value) for name, value in pairs], operands


def _answer(given: Iterable[tuple[Option, str]], command: Command | None) -> Answer | None:
    for option, _value in given:
        match option.key:
            case "help":
                return Answer(help_text(command))
            case "usage":
                return Answer(usage_line(command) + "\n")
            case "version":
                return Answer(f"{PROGRAM} {__version__}\n")
    return None


def _request(
    command: Command, given: Iterable[tuple[Option, str]], operands: Sequence[str]
) -> Request:
    if len(operands) > (1 if command.interface else 0):
        extra = operands[1] if command.interface else operands[0]
        raise UsageError(
            f"{command.name} does not know what to do with {extra!r}", usage_line(command)
        )
    if command.interface == "needed" and not operands:
        raise UsageError(f"{command.name} needs an interface", usage_line(command))
    if operands and not operands[0]:
        raise UsageError("the interface has an empty name", usage_line(command))
    texts: dict[str, list[str]] = {}
    switches = set()
    single: dict[str, str] = {}
    for option, value in given:
        if option.key in ("address", _FILE_KEY):
            single[option.key] = value
        elif option in _SETTING_OPTIONS:
            texts.setdefault(option.key, []).append(option.text or value)
        else:
            switches.add(option.key)
    return Request(
        command=command.name,
        interface=operands[0] if operands else "",
        address=single.get("address"),
        texts=texts,
        file=single.get(_FILE_KEY),
        switches=frozenset(switches),
    )


def usage_line(command: Command | None) -> str:
    if command is None:
        return f"Usage: {PROGRAM} [OPTION...] COMMAND [ARGUMENT...]"
    interface = {"needed": " <interface>", "optional": " [<interface>]", "": ""}
    return f"Usage: {PROGRAM} {command.name} [OPTION...]{interface[command.interface]}"


def help_text(command: Command | None) -> str:
    """The help of one command, of the whole program for None."""
    if command is None:
        lines = [usage_line(None), "Asks mimicd, which sends chosen UDP flows as TCP.", ""]
        lines += [f"  {one.name:<{_COMMAND_WIDTH}}{one.summary}" for one in COMMANDS]
        lines += ["", *_option_lines(_COMMON), "", f"{PROGRAM} COMMAND --help tells more."]
    else:
        text = f"{command.summary[0].upper()}{command.summary[1:]}. {command.details}"
        lines = [usage_line(command), *textwrap.wrap(text, _HELP_WIDTH), ""]
        lines += _option_lines(command.options)
    return "\n".join(lines) + "\n"


def _option_lines(options: Iterable[Option]) -> list[str]:
    lines = []
    for option in options:
        short = f"{option.short}, " if option.short else "    "
        argument = f"={option.metavar}" if option.metavar else ""
        head = f"  {short}{option.long}{argument}"
        if len(head) >= _OPTION_WIDTH:
            lines.append(head)
            head = ""
        indent = " " * _OPTION_WIDTH
        text = textwrap.wrap(option.help, _HELP_WIDTH - _OPTION_WIDTH)
        lines.append(f"{head:<{_OPTION_WIDTH}}{text[0]}")
        lines += [indent + line for line in text[1:]]
    return lines


def _command_names() -> str:
    return ", ".join(command.name for command in COMMANDS)
