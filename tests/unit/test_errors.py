# SPDX-License-Identifier: GPL-2.0-only
"""mimicd.core.errors: one tree, one sentence each, nothing lost on the way."""

from __future__ import annotations

import pickle

import pytest

from mimicd.core import errors
from mimicd.core.errors import InvalidConfigError, Located, MimicError, Problem, quote

TREE = [
    (errors.InvalidConfigError, "InvalidConfig", 2),
    (errors.NameResolutionError, "NameResolution", 2),
    (errors.NoSuchInterfaceError, "NoSuchInterface", 1),
    (errors.InterfaceDownError, "InterfaceDown", 1),
    (errors.AlreadyRunningError, "AlreadyRunning", 1),
    (errors.NotRunningError, "NotRunning", 1),
    (errors.AttachError, "AttachFailed", 1),
    (errors.XdpBusyError, "XdpBusy", 1),
    (errors.MissingDependencyError, "MissingDependency", 1),
    (errors.NotAuthorizedError, "NotAuthorized", 4),
    (errors.BusError, "Bus", 3),
    (errors.FailedError, "Failed", 1),
]


@pytest.mark.parametrize(("error", "name", "exit_code"), TREE)
def test_an_error_has_its_published_name_and_exit_code(
    error: type[MimicError], name: str, exit_code: int
) -> None:
    assert (error.error_name, error.exit_code) == (name, exit_code)


def test_the_table_above_has_every_error_of_the_module() -> None:
    defined = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, MimicError) and value is not MimicError
    }
    assert defined == {error for error, _, _ in TREE}


@pytest.mark.parametrize(("error", "name", "_exit_code"), TREE)
def test_a_bus_error_name_leads_back_to_its_error(
    error: type[MimicError], name: str, _exit_code: int
) -> None:
    found = errors.error_from_name(name, "it broke", "mend it")
    assert (type(found), str(found), found.hint) == (error, "it broke", "mend it")


def test_an_unknown_bus_error_name_gives_the_general_error() -> None:
    assert type(errors.error_from_name("FromTheFuture", "it broke")) is errors.FailedError


def test_a_busy_xdp_hook_is_an_attach_error() -> None:
    assert issubclass(errors.XdpBusyError, errors.AttachError)


def test_an_error_shows_its_message_and_keeps_its_hint() -> None:
    error = errors.NotRunningError("eth0 is not running", "start it")
    assert (str(error), error.message, error.hint) == ("eth0 is not running",) * 2 + ("start it",)
    assert errors.NotRunningError("eth0 is not running").hint == ""


def test_a_pickled_error_keeps_hint_and_problems() -> None:
    error = InvalidConfigError.of([Problem("a", "b", 3), Problem("c")])
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.hint) == (InvalidConfigError, str(error), error.hint)
    assert back.problems == error.problems


def test_one_problem_becomes_a_message_and_a_hint() -> None:
    error = InvalidConfigError.of([Problem("padding is odd", "make it even", 4)])
    assert (str(error), error.hint) == ("padding is odd", "make it even")
    assert error.problems == (Problem("padding is odd", "make it even", 4),)


def test_several_problems_take_a_line_each_with_their_hints() -> None:
    text = Located("x", "eth0.conf", 3, 7)
    error = InvalidConfigError.of([Problem("first", "do this"), Problem("second").located(text)])
    assert str(error) == "first (do this)\neth0.conf:3:7: second"
    assert error.hint == ""


def test_an_error_raised_by_a_parser_is_its_own_only_problem() -> None:
    assert InvalidConfigError("bad", "hint", 5).problems == (Problem("bad", "hint", 5),)


def test_a_problem_is_placed_by_the_column_of_its_text_and_its_offset_in_it() -> None:
    problem = Problem("bad", offset=2).moved(3)
    assert problem.offset == 5
    assert problem.located("from no file").where == ""
    assert problem.located(Located("abcdefg", "a.conf", 4, 10)).where == "a.conf:4:15"


def test_a_located_text_is_its_text() -> None:
    text = Located("2:3", "a.conf", 4, 10)
    assert text == "2:3"
    assert {"2:3": 1}[text] == 1
    assert (text.name, text.line, text.column) == ("a.conf", 4, 10)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", '"plain"'),
        ("", '""'),
        ("\x1b[2J\n\r\0", '"\\x1b[2J\\n\\r\\x00"'),
        ("b\u00fccher", '"b\u00fccher"'),
        ("\u202e\u2028", '"\\u202e\\u2028"'),
        ("x" * 80, '"' + "x" * 80 + '"'),
        ("x" * 81, '"' + "x" * 80 + '..."'),
    ],
)
def test_a_quoted_text_cannot_write_to_a_terminal(text: str, shown: str) -> None:
    assert quote(text) == shown
