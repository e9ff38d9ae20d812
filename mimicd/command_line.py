# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's own command line.

mimicd [--address ADDRESS] [-v] [-q]       serve interfaces on the bus
mimicd run [OPTION...] INTERFACE           one interface in the foreground, no bus

The options of `run` are those of `mimicctl run`: both come from the table of settings.
"""

import getopt
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mimicd import __version__
from mimicd.core.config_text import parse_config_text
from mimicd.core.errors import EXIT_USAGE, MimicError
from mimicd.core.manager import Options
from mimicd.core.settings import SETTINGS, merge_texts

USAGE = """\
usage: mimicd [--address ADDRESS] [-v] [-q]
       mimicd run [OPTION...] INTERFACE
"""

_HELP = (
    USAGE
    + """
Sends chosen UDP flows of an interface as fake TCP, rewritten in the kernel.

Without a command it serves interfaces on the bus, for mimicctl and others:
  --address ADDRESS   the bus to use instead of the system bus
  -v, --verbose       log more (twice: everything)
  -q, --quiet         log less
With `run` it serves one interface until Ctrl-C, without a bus:
"""
)


class UsageError(MimicError):
    """The command line makes no sense."""

    error_name = "Usage"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True)
class Invocation:
    """What the daemon was started for."""

    text: str = ""
    """To be printed instead of anything else."""
    interface: str = ""
    """To be served in the foreground; "" = serve on the bus."""
    options: Options = field(default_factory=dict)
    address: str | None = None
    argv: tuple[str, ...] = ()
    """What was parsed, to be parsed again when files may have changed."""
    verbosity: int = 0
    """How many more -v than -q."""


def parse_command_line(argv: Sequence[str]) -> Invocation:
    """Read the arguments after the program's name. Raises MimicError."""
    given, rest = _getopt(
        argv, "?Vvq", ["address=", "help", "usage", "version", "verbose", "quiet"], getopt.getopt
    )
    address, verbosity = None, 0
    for name, value in given:
        match name:
            case "-?" | "--help":
                return Invocation(text=_HELP + _run_options())
            case "--usage":
                return Invocation(text=USAGE)
            case "-V" | "--version":
                return Invocation(text=f"mimicd {__version__}\n")
            case "--address":
                address = value
            case "-v" | "--verbose":
                verbosity += 1
            case "-q" | "--quiet":
                verbosity -= 1
    if not rest:
        return Invocation(address=address, verbosity=verbosity)
    if rest[0] != "run":
        raise UsageError(f"mimicd has no command {rest[0]!r}", "mimicd --help lists what it has")
    if address is not None:
        raise UsageError("mimicd run uses no bus", "leave --address out, or leave run out")
    return replace(_parse_run(rest[1:], verbosity), argv=tuple(argv))


def _getopt(
    argv: Sequence[str], shorts: str, longs: list[str], parse: object
) -> tuple[list[tuple[str, str]], list[str]]:
    assert callable(parse)
    try:
        given, rest = parse(list(argv), shorts, longs)
    except getopt.GetoptError as error:
        raise UsageError(error.msg, "mimicd --help lists the options") from None
    return given, rest


def _parse_run(argv: Sequence[str], verbosity: int) -> Invocation:
    shorts, longs = "?", ["help"]
    rows = {}
    for row in SETTINGS:
        for flag in row.flags:
            takes = not flag.text
            rows[flag.long] = (row, flag)
            longs.append(flag.long[2:] + ("=" if takes else ""))
            if flag.short:
                rows[flag.short] = (row, flag)
                shorts += flag.short[1] + (":" if takes else "")
    given, operands = _getopt(argv, shorts, longs, getopt.gnu_getopt)
    texts: dict[str, list[str]] = {}
    file_texts: Options = {}
    for name, value in given:
        if name in ("-?", "--help"):
            return Invocation(text=_HELP + _run_options())
        row, flag = rows[name]
        if row.key == "file":
            file_texts = read_options(value)
        else:
            texts.setdefault(row.key, []).append(flag.text or value)
    if len(operands) != 1 or not operands[0]:
        raise UsageError("run needs one interface", "usage: mimicd run [OPTION...] INTERFACE")
    return Invocation(
        interface=operands[0], options=merge_texts(file_texts, texts), verbosity=verbosity
    )


def read_options(name: str) -> Options:
    """The options in a configuration file. Raises UsageError or InvalidConfigError."""
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot read {name}: {reason}", "check the path after -F") from None
    return parse_config_text(text, name)


def _run_options() -> str:
    lines = []
    for row in SETTINGS:
        for flag in row.flags:
            metavar = "" if flag.text else f" {row.metavar}"
            names = ", ".join(name for name in (flag.short, flag.long) if name)
            lines.append(f"  {names + metavar:<29} {flag.help}\n")
    return "".join(lines)
