# SPDX-License-Identifier: GPL-2.0-only
"""Makes the manual pages: python3 -m man.build FOLDER

The folder gets one for each section, as man(1) wants it: man -M FOLDER mimicctl shows a page.
A page is its *.in file, in roff (groff_man(7)), with lines of the form @directive argument@
replaced by what the tables of settings, commands and tunnel options say:

  @title NAME SECTION@   the page's title line
  @commands@             every command of mimicctl with its options
  @options NAME@         options: "common" of mimicctl, "mimicd", "mimicd run"
  @keys@                 every key of a configuration file
  @tunnel client@        the options of kaminaric; "server": those of kaminaris
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kaminari.options import TABLE, Role
from mimicctl import arguments
from mimicd import __version__, command_line
from mimicd.core.options import SETTING_OPTIONS, Command, Option
from mimicd.core.settings import BY_KEY

FOLDER = Path(__file__).parent
PAGES = tuple(sorted(path.name.removesuffix(".in") for path in FOLDER.glob("*.in")))

# Where the options that are about settings are explained.
_SETTING_COMMAND = next(one for one in arguments.COMMANDS if one.name == "run")

_DIRECTIVE = re.compile(r"@([a-z]+)((?: [^@]*)?)@")


def page(name: str) -> str:
    """The page `name`, such as "mimicctl.1", in roff."""
    lines: list[str] = ['.\\" Made from a template and the tables of the program: see man/build.py']
    for line in (FOLDER / f"{name}.in").read_text(encoding="utf-8").splitlines():
        directive = _DIRECTIVE.fullmatch(line)
        if directive is None:
            lines.append(line)
        else:
            lines += _DIRECTIVES[directive[1]](directive[2].strip())
    return "\n".join(lines) + "\n"


def roff(text: str) -> str:
    """`text` as it is to be read: nothing in it is a request or an escape."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def prose(text: str) -> str:
    """The same for sentences, in which a hyphen is one."""
    return roff(text).replace("\\-", "-")


def _title(argument: str) -> Iterator[str]:
    name, section = argument.split()
    yield f'.TH {name.upper()} {section} "" "mimicd {__version__}" "mimicd"'


def _commands(_argument: str) -> Iterator[str]:
    for command in arguments.COMMANDS:
        yield f".SS {command.name}"
        yield from _command_line(command)
        yield ".PP"
        yield prose(f"{command.summary[0].upper()}{command.summary[1:]}.")
        if command.details:
            yield prose(command.details)
        told = {option.long for option in arguments.WHOLE.options}
        if command is not _SETTING_COMMAND and set(SETTING_OPTIONS) <= set(command.options):
            yield f"It takes the settings of \\fB{_SETTING_COMMAND.name}\\fR as well."
            told |= {option.long for option in SETTING_OPTIONS}
        yield from _entries(one for one in command.options if one.long not in told)


def _command_line(command: Command) -> Iterator[str]:
    words = [f"\\fB{arguments.PROGRAM} {command.name}\\fR", "[\\fIOPTION\\fR...]"]
    for word in command.operands.split():
        words.append(re.sub(r"<(.*)>", r"\\fI\1\\fR", word))
    yield ".PP"
    yield " ".join(words)


def _options(which: str) -> Iterator[str]:
    commands = {
        "common": arguments.WHOLE,
        "mimicd": command_line.SERVE,
        "mimicd run": command_line.RUN,
        "mimicd check": command_line.CHECK,
        "mimicd guard": command_line.GUARD,
    }
    yield from _entries(commands[which].options)


def _entries(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        yield ".TP"
        names = [f"\\fB{roff(name)}\\fR" for name in (option.short, option.long) if name]
        metavar = f"=\\fI{roff(option.metavar)}\\fR" if option.metavar else ""
        yield ", ".join(names) + metavar
        yield prose(f"{option.help[0].upper()}{option.help[1:]}.")
        row = BY_KEY.get(option.key)
        if row is not None and not option.text:
            # The page of the configuration file explains what all of them have in common.
            yield f"See \\fB{roff(row.key)}\\fR in"
            yield ".BR mimic.conf (5)."


def _keys(_argument: str) -> Iterator[str]:
    for row in BY_KEY.values():
        yield ".TP"
        yield f"\\fB{roff(row.key)}\\fR = \\fI{roff(row.metavar)}\\fR"
        yield prose(row.help)
        if row.default is not None:
            yield f"The default is \\fB{roff(row.format(row.default))}\\fR."
        if row.per_filter:
            yield "A filter may have its own."


def _tunnel(role_name: str) -> Iterator[str]:
    role = Role(role_name)
    for row in TABLE:
        if role in row.roles:
            yield ".TP"
            metavar = f"=\\fI{roff(row.metavar)}\\fR" if row.metavar else ""
            yield f"\\fB{roff(row.key)}\\fR{metavar}"
            yield prose(f"{row.help[0].upper()}{row.help[1:]}.")


_DIRECTIVES: dict[str, Callable[[str], Iterator[str]]] = {
    "title": _title,
    "commands": _commands,
    "options": _options,
    "keys": _keys,
    "tunnel": _tunnel,
}


def main() -> int:
    """Write every page into the folder named by the only argument."""
    if len(sys.argv) != 2:
        print("usage: python3 -m man.build FOLDER", file=sys.stderr)
        return 2
    for name in PAGES:
        file = Path(sys.argv[1]) / f"man{name[-1]}" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page(name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
