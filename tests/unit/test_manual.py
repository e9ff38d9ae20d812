# SPDX-License-Identifier: GPL-2.0-only
"""The manual pages and the examples: complete, free of warnings, and every line of them works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kaminari.options import TABLE, Role, parse_options
from man.build import PAGES, page
from mimicctl.arguments import COMMANDS, WHOLE, Request, parse_arguments
from mimicd.command_line import RUN, SERVE, parse_command_line
from mimicd.core.config_text import parse_config_text
from mimicd.core.settings import BY_KEY, build_config, merge_texts, notes_on

ROOT = Path(__file__).resolve().parents[2]
CONFIG_EXAMPLES = sorted((ROOT / "systemd").glob("*.conf.example"))
TRACE = re.compile(r"\S+ => \S+ :: (sent|received) - len=\d+, [A-Z,]+ seq=\d+, ack=\d+")


def examples(name: str) -> list[list[str]]:
    """The lines of each example of a page, as they are read."""
    found = re.findall(r"^\.EX\n(.*?)^\.EE$", page(name), re.MULTILINE | re.DOTALL)
    return [[plain(line) for line in one.splitlines() if line] for one in found]


def plain(line: str) -> str:
    return line.replace(r"\-", "-").replace(r"\e", "\\").replace(r"\&", "")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_formatted_without_a_warning(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(page(name))
    for argv in (
        ["groff", "-man", "-Tutf8", "-ww", "-rCHECKSTYLE=3", "-z", str(file)],
        ["man", "--warnings=w", "-l", str(file)],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    shown = done.stdout
    assert shown.startswith(f"{name[:-2].upper()}({name[-1]})")
    assert "@" not in shown.replace("mimic@", "")


def test_the_pages_are_written_where_man_looks_for_them(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "man.build", str(tmp_path)], cwd=ROOT, check=True, timeout=30
    )
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*")}
    assert files == {f"man{name[-1]}/{name}" for name in PAGES}
    shown = subprocess.run(
        ["man", "-M", str(tmp_path), "mimic.conf"], capture_output=True, timeout=30, check=True
    )
    assert b"mimic.conf - settings" in shown.stdout


def test_every_command_option_and_key_is_on_its_page() -> None:
    ctl, daemon, conf = (plain(page(name)) for name in ("mimicctl.1", "mimicd.8", "mimic.conf.5"))
    for command in COMMANDS:
        assert f".SS {command.name}\n" in ctl
    for text, commands in ((ctl, (WHOLE, *COMMANDS)), (daemon, (SERVE, RUN))):
        for command in commands:
            for option in command.options:
                assert f"\\fB{option.long}\\fR" in text
                assert not option.short or f"\\fB{option.short}\\fR, " in text
    for row in BY_KEY.values():
        assert f"\\fB{row.key}\\fR = \\fI{row.metavar}\\fR" in conf
        assert row.help in conf
    for role, name in ((Role.CLIENT, "kaminaric.1"), (Role.SERVER, "kaminaris.1")):
        for tunnel_row in TABLE:
            assert (f"\\fB{tunnel_row.key}\\fR" in plain(page(name))) == (role in tunnel_row.roles)


def commands_of_pages() -> list[str]:
    found = [
        line
        for name in PAGES
        for lines in examples(name)
        for line in lines
        if re.match(r"(mimic|kamin)", line)
    ]
    readme = (ROOT / "README.md").read_text()
    found += re.findall(r"^\w+# (mimic\w+ [^&\n]*?)(?: +#.*)?$", readme, re.MULTILINE)
    assert len(found) >= 15
    return found


@pytest.mark.parametrize("line", commands_of_pages())
def test_a_command_in_an_example_is_accepted(line: str, tmp_path: Path) -> None:
    program, *argv = shlex.split(line)
    if program.startswith("kaminari"):
        role = Role.CLIENT if program == "kaminaric" else Role.SERVER
        assert parse_options(argv[2], role)[1] == []
        return
    if "-F" in argv:
        file = tmp_path / "eth0.conf"
        file.write_text("filter = remote=192.0.2.1:1\n")
        argv[argv.index("-F") + 1] = str(file)
    if program == "mimicd":
        given = parse_command_line(argv)
        assert given.interface or given.text
        return
    request = parse_arguments(argv)
    assert isinstance(request, Request)
    texts = merge_texts({}, request.texts)
    if texts:
        build_config(texts)


@pytest.mark.parametrize("lines", examples("mimic.conf.5"), ids=lambda lines: lines[0])
def test_a_configuration_in_an_example_is_accepted(lines: list[str]) -> None:
    texts = parse_config_text("\n".join(lines), "example")
    assert build_config(texts).filters
    assert notes_on(texts) == []


def test_the_lines_of_the_trace_look_like_those_of_the_log() -> None:
    (lines,) = (lines for lines in examples("mimicd.8") if " :: " in lines[0])
    for line in lines:
        assert TRACE.fullmatch(line)


@pytest.mark.parametrize("file", CONFIG_EXAMPLES, ids=lambda file: file.name)
def test_every_line_of_an_example_file_is_accepted(file: Path) -> None:
    text = file.read_text()
    assert build_config(parse_config_text(text, file.name)).filters
    everything = parse_config_text(
        re.sub(r"^#(?=[a-z_.]+ = )", "", text, flags=re.MULTILINE), file.name
    )
    assert build_config(everything)
    assert set(everything) >= {"filter", "padding", "handshake", "keepalive", "log.verbosity"}
