# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's own command line.

mimicd [OPTION...]                         serve interfaces on the bus
mimicd run [OPTION...] <interface>         one interface in the foreground, no bus
mimicd check [OPTION...] <interface>       what could keep it from running
mimicd guard [OPTION...] <interface>       no flow leaves it undisguised

The options of all are those of `mimicctl run`: both come from the table of settings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mimicd import __version__
from mimicd.core.config_text import parse_config_text
from mimicd.core.manager import Options
from mimicd.core.options import (
    HELP_OPTIONS,
    SETTING_OPTIONS,
    Command,
    Option,
    UsageError,
    help_text,
    read_arguments,
    usage_line,
)
from mimicd.core.settings import build_config, merge_texts, notes_on

PROGRAM = "mimicd"

PLACE_OPTIONS = (
    Option(
        "", "--netns", "NAME", "the network namespace that this process was started in", "netns"
    ),
    Option(
        "",
        "--socket-group",
        "GROUP",
        "who may look through the varlink socket",
        "socket_group",
    ),
)
"""What `mimicd` and `mimicd run` both take."""

SERVE = Command(
    "",
    "sends chosen UDP flows of an interface as TCP, rewritten in the kernel",
    "",
    (
        Option("", "--address", "ADDRESS", "the bus to use instead of the system bus", "address"),
        Option("", "--no-bus", "", "use no bus, and serve the varlink socket alone", "no-bus"),
        *PLACE_OPTIONS,
        Option("-v", "--verbose", "", "log more, may be repeated", "verbose"),
        Option("-q", "--quiet", "", "log less, may be repeated", "quiet"),
        *HELP_OPTIONS,
    ),
    "Without a command it serves interfaces on the bus, for mimicctl and others.",
)

RUN = Command(
    "run",
    "serve one interface until Ctrl-C, without a bus",
    "<interface>",
    (
        *SETTING_OPTIONS,
        Option("", "--check", "", "only check the settings", "check"),
        *PLACE_OPTIONS,
        *HELP_OPTIONS,
    ),
)

CHECK = Command(
    "check",
    "look for what could keep an interface from running",
    "<interface>",
    (
        *SETTING_OPTIONS,
        Option("", "--probe", "", "ask the peers too whether they answer", "probe"),
        *HELP_OPTIONS,
    ),
    "It needs neither a daemon nor a bus and changes nothing. Exit code 1: something failed.",
)

GUARD = Command(
    "guard",
    "drop the flows of filters while nothing disguises them",
    "<interface>",
    (
        *SETTING_OPTIONS,
        Option("", "--off", "", "take the guard off", "off"),
        *HELP_OPTIONS,
    ),
    "It stays, whatever becomes of mimicd, until --off or the next guard takes its place. It needs"
    " neither a daemon nor a bus.",
)

COMMANDS = (RUN, CHECK, GUARD)


@dataclass(frozen=True, slots=True)
class Invocation:
    """What the daemon was started for."""

    text: str = ""
    """To be printed instead of anything else."""
    interface: str = ""
    """To be served in the foreground; "" = serve on the bus."""
    checks: bool = False
    """Only look whether the interface could be served."""
    guards: bool | None = None
    """Only put the guard on, or take it off."""
    options: Options = field(default_factory=dict)
    address: str | None = None
    uses_bus: bool = True
    """Whether to serve on a bus; never with `interface`."""
    netns: str = ""
    """Name of the network namespace that this process is in; "" = not to be told apart."""
    socket_group: str = ""
    """Group that may open the varlink socket; "" = root alone."""
    argv: tuple[str, ...] = ()
    """What was parsed, to be parsed again when files may have changed."""
    verbosity: int = 0
    """How many more -v than -q."""
    notes: tuple[str, ...] = ()
    """What is accepted but should be said."""


def parse_command_line(argv: Sequence[str]) -> Invocation:
    """Read the arguments after the program's name. Raises MimicError."""
    given, rest = read_arguments(argv, SERVE.options, permute=False, words=PROGRAM)
    answer = _answer(given, SERVE)
    if answer:
        return Invocation(text=answer)
    address, verbosity, uses_bus = None, 0, True
    place: dict[str, str] = {}
    for option, value in given:
        match option.key:
            case "address":
                address = value
            case "no-bus":
                uses_bus = False
            case "netns" | "socket_group":
                place[option.key] = value
            case "verbose":
                verbosity += 1
            case "quiet":
                verbosity -= 1
    if not uses_bus and address is not None:
        raise UsageError("--no-bus and --address exclude one another", "leave one of them out")
    if not rest:
        return _placed(Invocation(address=address, uses_bus=uses_bus, verbosity=verbosity), place)
    command = next((one for one in COMMANDS if one.name == rest[0]), None)
    if command is None:
        raise UsageError(f"mimicd has no command {rest[0]!r}", "mimicd --help lists what it has")
    name = command.name
    if address is not None:
        raise UsageError(f"mimicd {name} uses no bus", f"leave --address out, or leave {name} out")
    invocation = _parse_command(command, rest[1:], verbosity, place)
    return replace(_placed(invocation, place), argv=tuple(argv))


def _placed(invocation: Invocation, place: dict[str, str]) -> Invocation:
    netns, group = place.get("netns", ""), place.get("socket_group", "")
    return replace(invocation, netns=netns, socket_group=group)


def _answer(given: Iterable[tuple[Option, str]], command: Command) -> str:
    """The text that one of the options asks for, "" if none does."""
    for option, _value in given:
        match option.key:
            case "help":
                if command is SERVE:
                    return help_text(PROGRAM, SERVE, COMMANDS, "mimicd run --help tells more.")
                return help_text(PROGRAM, command)
            case "usage":
                return usage_line(PROGRAM, command) + "\n"
            case "version":
                return f"{PROGRAM} {__version__}\n"
    return ""


def _parse_command(
    command: Command, argv: Sequence[str], verbosity: int, place: dict[str, str]
) -> Invocation:
    words = command.words(PROGRAM)
    given, operands = read_arguments(argv, command.options, permute=True, words=words)
    answer = _answer(given, command)
    if answer:
        return Invocation(text=answer)
    texts: dict[str, list[str]] = {}
    file_texts: Options = {}
    check = probe = off = False
    for option, value in given:
        if option.key == "check":
            check = True
        elif option.key == "probe":
            probe = True
        elif option.key == "off":
            off = True
        elif option.key == "file":
            file_texts = read_options(value)
        elif option in PLACE_OPTIONS:
            place[option.key] = value
        else:
            texts.setdefault(option.key, []).append(option.text or value)
    if len(operands) != 1 or not operands[0]:
        raise UsageError(f"{command.name} needs one interface", usage_line(PROGRAM, command))
    options = merge_texts(file_texts, texts)
    if command is CHECK and probe:
        options["probe"] = "true"
    if check:
        build_config(options)
        return Invocation(text=f"{operands[0]}: the settings are good\n")
    return Invocation(
        interface=operands[0],
        checks=command is CHECK,
        guards=not off if command is GUARD else None,
        options=options,
        verbosity=verbosity,
        notes=(*notes_on(file_texts), *notes_on(texts)),
    )


def read_options(name: str) -> Options:
    """The options in a configuration file. Raises UsageError or InvalidConfigError."""
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot read {name}: {reason}", "check the path after -F") from None
    return parse_config_text(text, name)
