# SPDX-License-Identifier: GPL-2.0-only
"""Makes the completions of mimicctl and mimicd: python3 -m completions.build FOLDER [ZSH_FOLDER]

The folder gets bash-completion/completions/, zsh/site-functions/ and fish/vendor_completions.d/,
as they stand under /usr/share. Distributions have other names than site-functions for theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimicctl import arguments
from mimicd import command_line
from mimicd.core.options import Command, Option
from mimicd.core.settings import BY_KEY
from mimicd.core.values import LEVELS


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    whole: Command
    """What it takes before, or without, a command."""
    commands: tuple[Command, ...]


PROGRAMS = (
    Program(arguments.PROGRAM, arguments.WHOLE, arguments.COMMANDS),
    Program(command_line.PROGRAM, command_line.SERVE, (command_line.RUN,)),
)

FILES = "files"
INTERFACES = "interfaces"


def argument_choices(option: Option) -> Sequence[str] | str | None:
    """Words for the argument of an option, or FILES; () for one that nothing is known of."""
    if not option.metavar:
        return None
    if option.key == "file":
        return FILES
    row = BY_KEY.get(option.key)
    return row.choices if row is not None else ()


def operand_choices(command: Command) -> Sequence[str]:
    """Words for its operands; INTERFACES stands for the names of interfaces."""
    names = [word.strip("[<>]") for word in command.operands.split()]
    words: list[str] = []
    for name in names:
        words += {"interface": [INTERFACES], "level": LEVELS}.get(name, ())
    return words


def long_options(command: Command) -> list[str]:
    return [option.long for option in command.options]


# --- bash ---

_BASH = """\
# Made by completions/build.py
_{name}()
{{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command= word
    # bash takes --option=value for three words
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in
        {commands}) command=$word; break ;;
        esac
    done
    COMPREPLY=()
    case "$command $previous" in
{arguments}
    esac
    case $command in
{operands}
    esac
    word=${{word//{interfaces}/$(ls /sys/class/net 2>/dev/null)}}
    COMPREPLY=($(compgen -W "$word" -- "$current"))
}}
_{name}_words()
{{
    COMPREPLY=($(compgen -W "$1" -- "$current"))
    [[ ${{COMPREPLY[0]}} != *= ]] || compopt -o nospace 2>/dev/null
}}
complete -F _{name} {name}
"""


def bash(program: Program) -> str:
    cases: dict[str, list[str]] = {}
    for command in (program.whole, *program.commands):
        for option in command.options:
            choices = argument_choices(option)
            if choices is None:
                continue
            if choices == FILES:
                action = 'COMPREPLY=($(compgen -f -- "$current"))'
            else:
                action = f'_{program.name}_words "{" ".join(choices)}"'
            patterns = cases.setdefault(action, [])
            patterns += [f'"{command.name} {n}"' for n in (option.short, option.long) if n]
    arguments_ = [
        f"    {'|'.join(patterns)}) {action}; return ;;" for action, patterns in cases.items()
    ]
    names = [command.name for command in program.commands]
    operands = [_bash_case("''", [*names, *long_options(program.whole)])]
    operands += [
        _bash_case(one.name, [*operand_choices(one), *long_options(one)])
        for one in program.commands
    ]
    return _BASH.format(
        name=program.name,
        commands="|".join(names),
        arguments="\n".join(arguments_),
        operands="\n".join(operands),
        interfaces=INTERFACES,
    )


def _bash_case(pattern: str, words: Sequence[str]) -> str:
    return f'    {pattern}) word="{" ".join(words)}" ;;'


# --- zsh ---


def zsh(program: Program) -> str:
    lines = [f"#compdef {program.name}", "# Made by completions/build.py", "local state line"]
    lines += ["_arguments -C \\"]
    lines += [f"    {spec} \\" for spec in _zsh_specs(program.whole)]
    lines += ["    '1:command:->command' '*::argument:->argument'", "case $state in", "command)"]
    described = " ".join(_quoted(f"{c.name}:{c.summary}") for c in program.commands)
    lines += [f"    local -a commands=({described})", "    _describe command commands ;;"]
    lines += ["argument)", "    case $line[1] in"]
    for command in program.commands:
        lines += [f"    {command.name})", "        _arguments \\"]
        lines += [f"            {spec} \\" for spec in _zsh_specs(command)]
        lines += [f"            {' '.join(_zsh_operands(command))} ;;"]
    return "\n".join([*lines, "    esac ;;", "esac"]) + "\n"


def _zsh_specs(command: Command) -> Iterator[str]:
    for option in command.options:
        choices = argument_choices(option)
        action = ""
        if choices is not None:
            words = "_files" if choices == FILES else f"({' '.join(choices)})" if choices else ""
            action = f":{option.metavar.replace(':', ' ')}:{words}"
        text = option.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
        if option.short:
            plus, equals = ("+", "=") if choices is not None else ("", "")
            yield _quoted(f"*{option.short}{plus}[{text}]{action}")
            yield _quoted(f"*{option.long}{equals}[{text}]{action}")
        else:
            yield _quoted(f"*{option.long}{'=' if choices is not None else ''}[{text}]{action}")


def _zsh_operands(command: Command) -> Iterator[str]:
    for number, word in enumerate(command.operands.split(), 1):
        name = word.strip("[<>]")
        words = {"interface": "_net_interfaces", "level": f"({' '.join(LEVELS)})"}.get(name, "")
        yield _quoted(f"{number}:{name}:{words}")


# --- fish ---


def fish(program: Program) -> str:
    name = program.name
    lines = ["# Made by completions/build.py", f"complete -c {name} -f"]
    names = " ".join(command.name for command in program.commands)
    no_command = _quoted(f"not __fish_seen_subcommand_from {names}")
    for command in program.commands:
        words = f"-a {command.name} -d {_quoted(command.summary)}"
        lines.append(f"complete -c {name} -n {no_command} {words}")
    for option in program.whole.options:
        lines.append(f"complete -c {name} -n {no_command} {_fish_option(option)}")
    for command in program.commands:
        condition = _quoted(f"__fish_seen_subcommand_from {command.name}")
        operands = " ".join(operand_choices(command))
        operands = operands.replace(INTERFACES, "(__fish_print_interfaces)")
        if operands:
            lines.append(f'complete -c {name} -n {condition} -a "{operands}"')
        for option in command.options:
            lines.append(f"complete -c {name} -n {condition} {_fish_option(option)}")
    return "\n".join(lines) + "\n"


def _fish_option(option: Option) -> str:
    words = [f"-s {_quoted(option.short[1:])}"] if option.short else []
    words.append(f"-l {option.long[2:]}")
    choices = argument_choices(option)
    if choices == FILES:
        words.append("-r -F")
    elif choices is not None:
        words.append(f"-x -a {_quoted(' '.join(choices))}" if choices else "-x")
    return " ".join([*words, f"-d {_quoted(option.help)}"])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def files(zsh_folder: str = "site-functions") -> dict[str, str]:
    """Path under /usr/share -> text."""
    made: dict[str, str] = {}
    for program in PROGRAMS:
        made[f"bash-completion/completions/{program.name}"] = bash(program)
        made[f"zsh/{zsh_folder}/_{program.name}"] = zsh(program)
        made[f"fish/vendor_completions.d/{program.name}.fish"] = fish(program)
    return made


def main() -> int:
    """Write every file below the folder named by the first argument."""
    if len(sys.argv) not in (2, 3):
        print("usage: python3 -m completions.build FOLDER [ZSH_FOLDER]", file=sys.stderr)
        return 2
    for name, text in files(*sys.argv[2:]).items():
        file = Path(sys.argv[1]) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
