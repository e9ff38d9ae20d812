# SPDX-License-Identifier: GPL-2.0-only
"""A configuration file: "key = value" lines, "#" comments, blank lines.

In: the file's text and its name for messages. Out: key -> texts, each of which knows its line
and column. A comment may also follow a value, after a space: no value has a "#" in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from mimicd.core.errors import InvalidConfigError, Located, Problem, quote
from mimicd.core.settings import BY_KEY, check_texts, unknown_key

_COMMENT = re.compile(r"(?:^|\s)#.*", re.DOTALL)
_BYTE_ORDER_MARK = "\ufeff"


def parse_config_text(text: str, name: str) -> dict[str, list[Located]]:
    """Read a file. Raises InvalidConfigError with every fault as "name:line:column: ...".

    Every text in the result is one that `settings.build_config` accepts. A key that stands in
    the file several times has several texts, in their order.
    """
    found: dict[str, list[Located]] = {}
    problems: list[Problem] = []
    for line in _lines(text, name):
        bare = _trim(line)
        key_text, equals, value_text = bare.partition("=")
        key = _trim(_part(bare, key_text, 0))
        if not equals or not key:
            problems.append(_not_a_pair(bare).located(bare))
        elif key not in BY_KEY:
            problems.append(unknown_key(key).located(key))
        else:
            value = _trim(_part(bare, value_text, len(key_text) + 1))
            found.setdefault(key, []).append(value)
    problems += check_texts(found)
    if problems:
        raise InvalidConfigError.of(sorted(problems, key=lambda p: (p.line, p.column)))
    return found


def format_config_text(texts: Mapping[str, str | Sequence[str]]) -> str:
    """A file with these texts, a line each; the inverse of `parse_config_text`."""
    lines = []
    for key, given in texts.items():
        lines += [f"{key} = {text}\n" for text in ([given] if isinstance(given, str) else given)]
    return "".join(lines)


def _lines(text: str, name: str) -> Iterator[Located]:
    """The lines that hold something, without comments."""
    # Not str.splitlines, which also ends lines where no editor does (form feed, U+2028).
    for number, line in enumerate(text.removeprefix(_BYTE_ORDER_MARK).split("\n"), 1):
        bare = _COMMENT.sub("", line)
        if bare.strip():
            yield Located(bare, name, number, 1)


def _not_a_pair(line: str) -> Problem:
    hint = "a line is key = value, or begins with # as a comment"
    if line.startswith("="):
        return Problem(f"there is no key in front of = in {quote(line)}", hint)
    return Problem(f"expected key = value, found {quote(line)}", hint)


def _part(whole: Located, text: str, offset: int) -> Located:
    return Located(text, whole.name, whole.line, whole.column + offset)


def _trim(part: Located) -> Located:
    return _part(part, part.strip(), len(part) - len(part.lstrip()))
