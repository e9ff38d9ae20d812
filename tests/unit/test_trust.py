# SPDX-License-Identifier: GPL-2.0-only
"""What comes from outside, off the wire or from a caller, is never a command or a format.

Read from the source by ast: no shell is ever started, and what is formatted is written in the
program.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("mimicd", "mimicctl", "kaminari")
LOGGERS = {"log", "_daemon", "_interfaces"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
SHELLS |= {"subprocess_shell", "eval", "exec", "compile"}
PROGRAMS = {"run", "Popen", "call", "check_call", "check_output", "create_subprocess_exec"}


def calls(text: str) -> Iterator[tuple[str, str, ast.Call]]:
    """Of each call: whose ("" if nobody's or not a name), of what name, and itself."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Attribute(value=ast.Name(id=owner), attr=name):
                    yield owner, name, node
                case ast.Attribute(attr=name) | ast.Name(id=name):
                    yield "", name, node


def faults(text: str) -> list[int]:
    """Lines on which a text that the program did not write may be a command or a format."""
    lines = []
    for owner, name, call in calls(text):
        if owner in LOGGERS and name in LEVELS:
            wrong = not written(call.args[1 if name == "log" else 0])
        elif name in PROGRAMS and owner in ("subprocess", "asyncio"):
            wrong = any(one.arg == "shell" for one in call.keywords)
        else:
            wrong = name in SHELLS and owner != "re"
        if wrong:
            lines.append(call.lineno)
    return lines


def written(format_: ast.expr) -> bool:
    """Whether it is a text in the program, as it is."""
    return isinstance(format_, ast.Constant) and isinstance(format_.value, str)


def test_no_text_from_outside_is_a_command_or_a_format() -> None:
    sources = [path for package in PRODUCT for path in (ROOT / package).rglob("*.py")]
    assert sources
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in sources for line in faults(path.read_text())
    ]
    assert found == []


def test_what_would_be_a_fault_is_seen() -> None:
    for bad in (
        "log.info(text)",
        "log.info(f'{name} is up')",
        "_interfaces.log(level, text)",
        "subprocess.run(words, shell=True)",
        "asyncio.create_subprocess_shell(words)",
        "os.system(words)",
        "eval(words)",
    ):
        assert faults(bad) == [1], bad
    for good in ("log.info('%s', text)", "re.compile(text)", "subprocess.run([name])"):
        assert faults(good) == [], good
