# SPDX-License-Identifier: GPL-2.0-only
"""The command line of mimicctl: from argv to a Request, or to the text that --help and its like
ask for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mimicd import __version__
from mimicd.core import options
from mimicd.core.options import HELP_OPTIONS, SETTING_OPTIONS, Command, Option, UsageError
from mimicd.core.values import LEVELS

PROGRAM = "mimicctl"
_FILE_KEY = "file"
_NEEDED, _OPTIONAL = "<interface>", "[<interface>]"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be done."""

    command: str
    interface: str = ""
    level: str = ""
    """Of `log`."""
    address: str | None = None
    """Bus or varlink socket to use, None for the usual ones."""
    netns: str = ""
    """Network namespace whose daemon is asked, "" for the usual one."""
    texts: dict[str, list[str]] = field(default_factory=dict)
    """Configuration key -> texts as given, in their order."""
    file: str | None = None
    switches: frozenset[str] = frozenset()
    """Options without an argument: "json", "detach", "check", "wait", "connections", "process"."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A text to print, and nothing else to do."""

    text: str


_COMMON = (
    Option(
        "", "--address", "ADDRESS", "the bus to use, or unix:/path of a varlink socket", "address"
    ),
    Option("", "--netns", "NAME", "ask the mimicd of a network namespace", "netns"),
    *HELP_OPTIONS,
)

_JSON = Option("", "--json", "", "print JSON, for programs", "json")

WHOLE = Command(
    "", "asks mimicd, which sends chosen UDP flows as TCP", "COMMAND [ARGUMENT...]", _COMMON
)
"""mimicctl without a command."""

COMMANDS = (
    Command(
        "run",
        "disguise the flows of an interface until Ctrl-C",
        _NEEDED,
        (
            *SETTING_OPTIONS,
            Option("", "--detach", "", "leave it running and return", "detach"),
            Option("", "--check", "", "only check the settings", "check"),
            Option("", "--wait", "", "wait until the interface is there and up", "wait"),
            *_COMMON,
        ),
    ),
    Command(
        "show",
        "show an interface and its connections, or all of them",
        _OPTIONAL,
        (
            Option("-c", "--connections", "", "show only the connections", "connections"),
            Option("-p", "--process", "", "show only process and interface", "process"),
            _JSON,
            *_COMMON,
        ),
    ),
    Command("stop", "stop an interface", _NEEDED, _COMMON),
    Command("list", "list the running interfaces", "", (_JSON, *_COMMON)),
    Command(
        "reload",
        "apply changed settings to what runs",
        _OPTIONAL,
        (*SETTING_OPTIONS, *_COMMON),
        "Without settings it reads /etc/mimic/<interface>.conf, without an interface that of every"
        " running one that has such a file.",
    ),
    Command(
        "check",
        "check settings, and what could keep an interface from running",
        _OPTIONAL,
        (
            *SETTING_OPTIONS,
            Option("", "--probe", "", "ask the peers too whether they answer", "probe"),
            _JSON,
            *_COMMON,
        ),
        "Every fault of the settings is told; this needs no daemon. Without settings it reads"
        " /etc/mimic/<interface>.conf, if there is one, without an interface every"
        " /etc/mimic/*.conf. For an interface mimicd then looks at privileges, kernel, link, XDP,"
        " offloads, MTU, firewall, names and WireGuard. Nothing is changed. Exit code 1: something"
        " failed.",
    ),
    Command(
        "log",
        "say more or less while it runs",
        f"<level> {_OPTIONAL}",
        _COMMON,
        f"A level is {', '.join(LEVELS[:-1])} or {LEVELS[-1]}, or its number from 0. Without an"
        " interface it is that of the daemon and all interfaces. It lasts until the next reload.",
    ),
    Command("monitor", "print what happens until Ctrl-C", _OPTIONAL, (_JSON, *_COMMON)),
)


def parse_arguments(argv: Sequence[str]) -> Request | Answer:
    """Read the arguments after the program's name. Raises UsageError."""
    given, rest = options.read_arguments(argv, _COMMON, permute=False, words=PROGRAM)
    answer = _answer(given, WHOLE)
    if answer is not None:
        return answer
    if not rest:
        raise UsageError("no command given", f"commands: {_command_names()}")
    command = next((one for one in COMMANDS if one.name == rest[0]), None)
    if command is None:
        raise UsageError(f"there is no command {rest[0]!r}", f"commands: {_command_names()}")
    more, operands = options.read_arguments(
        rest[1:], command.options, permute=True, words=command.words(PROGRAM)
    )
    return _answer(more, command) or _request(command, [*given, *more], operands)


def _answer(given: Iterable[tuple[Option, str]], command: Command) -> Answer | None:
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
    by_name = _read_operands(command, operands)
    texts: dict[str, list[str]] = {}
    switches = set()
    single: dict[str, str] = {}
    for option, value in given:
        if option.key in ("address", "netns", _FILE_KEY):
            single[option.key] = value
        elif option in SETTING_OPTIONS:
            texts.setdefault(option.key, []).append(option.text or value)
        else:
            switches.add(option.key)
    return Request(
        command=command.name,
        interface=by_name.get("interface", ""),
        level=by_name.get("level", ""),
        address=single.get("address"),
        netns=_checked_netns(single.get("netns", "")),
        texts=texts,
        file=single.get(_FILE_KEY),
        switches=frozenset(switches),
    )


def _checked_netns(name: str) -> str:
    if "/" in name or name in (".", ".."):
        raise UsageError(f"{name!r} is not the name of a network namespace", "see `ip netns`")
    return name


def _read_operands(command: Command, operands: Sequence[str]) -> dict[str, str]:
    """The operands by the names that they have in the usage line."""
    wanted = command.operands.split()
    names = [word.strip("[<>]") for word in wanted]
    if len(operands) > len(wanted):
        extra = operands[len(wanted)]
        raise UsageError(
            f"{command.name} does not know what to do with {extra!r}", usage_line(command)
        )
    by_name = dict(zip(names, operands, strict=False))
    for word, name in zip(wanted, names, strict=True):
        if name not in by_name and not word.startswith("["):
            article = "an" if name[0] in "aeiou" else "a"
            raise UsageError(f"{command.name} needs {article} {name}", usage_line(command))
        if by_name.get(name) == "":
            raise UsageError(f"the {name} has an empty name", usage_line(command))
    return by_name


def usage_line(command: Command) -> str:
    return options.usage_line(PROGRAM, command)


def help_text(command: Command) -> str:
    """The help of one command, or of the whole program."""
    if command is WHOLE:
        return options.help_text(
            PROGRAM, command, COMMANDS, f"{PROGRAM} COMMAND --help tells more."
        )
    return options.help_text(PROGRAM, command)


def _command_names() -> str:
    return ", ".join(command.name for command in COMMANDS)
