# SPDX-License-Identifier: GPL-2.0-only
"""The texts of single settings: "2:3", "random", "debug", "true".

Each `parse_` takes a text and the value that left-out parts fall back to, and raises
InvalidConfigError with the offset of the bad part. Each `format_` is its inverse.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

from mimicd.core.errors import InvalidConfigError, Problem, quote
from mimicd.core.model import (
    PADDING_MAX,
    PADDING_RANDOM,
    TIMER_MAX,
    Handshake,
    Keepalive,
    Strict,
)

LEVELS = ("error", "warn", "info", "debug", "trace")
"""Log levels by number."""

MORE, LESS = "more", "less"
"""Verbosity one step up or down from what was given before; what -v and -q stand for."""

# More than any key or word in use; comparing longer ones would only cost time.
_SUGGESTION_LIMIT = 40
_FRAGMENT_MIN = 3
# IFNAMSIZ of linux/if.h, without the zero at its end
_INTERFACE_BYTES = 15


def parse_handshake(text: str, fallback: Handshake) -> Handshake:
    """Read "interval:retry"."""
    interval_s, retry = _parse_numbers(
        text, ("interval", "retry"), (fallback.interval_s, fallback.retry)
    )
    return Handshake(interval_s, retry)


def format_handshake(value: Handshake) -> str:
    return f"{value.interval_s}:{value.retry}"


def parse_keepalive(text: str, fallback: Keepalive) -> Keepalive:
    """Read "time:interval:retry:stale"."""
    time_s, interval_s, retry, stale_s = _parse_numbers(
        text,
        ("time", "interval", "retry", "stale"),
        (fallback.time_s, fallback.interval_s, fallback.retry, fallback.stale_s),
    )
    return Keepalive(time_s, interval_s, retry, stale_s)


def format_keepalive(value: Keepalive) -> str:
    return f"{value.time_s}:{value.interval_s}:{value.retry}:{value.stale_s}"


def _parse_numbers(text: str, names: tuple[str, ...], fallback: tuple[int, ...]) -> list[int]:
    shape = ":".join(names)
    parts = text.split(":")
    if len(parts) != len(names):
        raise InvalidConfigError(
            f"{quote(text)} has {len(parts)} of the {len(names)} parts of {shape}"
            if len(parts) < len(names)
            else f"{quote(text)} has more than the {len(names)} parts of {shape}",
            f'a number may be left out, its colon not: "{fallback[0]}{":" * (len(names) - 1)}"',
        )
    numbers: list[int] = []
    problems: list[Problem] = []
    offset = 0
    for name, part, default in zip(names, parts, fallback, strict=True):
        digits = part.strip()
        number = parse_decimal(digits, TIMER_MAX) if digits else default
        if number is None:
            message = f"{name} {quote(digits)} is not a number from 0 to {TIMER_MAX}"
            hint = f"write {shape} in whole numbers, durations in seconds"
            problems.append(Problem(message, hint, offset + len(part) - len(part.lstrip())))
        else:
            numbers.append(number)
        offset += len(part) + 1
    if problems:
        raise InvalidConfigError.of(problems)
    return numbers


def parse_padding(text: str, fallback: int) -> int:
    """Read a number of bytes or "random"."""
    del fallback
    if text == "random":
        return PADDING_RANDOM
    size = parse_decimal(text, PADDING_MAX)
    if size is None:
        raise InvalidConfigError(
            f"{quote(text)} is neither a number of bytes from 0 to {PADDING_MAX} nor random",
            "both ends need the same padding",
        )
    return size


def format_padding(value: int) -> str:
    return "random" if value == PADDING_RANDOM else str(value)


def parse_boolean(text: str, fallback: bool) -> bool:
    """Read true, false, 1 or 0 (also yes, no, on and off)."""
    del fallback
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off"):
        return False
    raise InvalidConfigError(f"{quote(text)} is neither true nor false")


def format_boolean(value: bool) -> str:
    return "true" if value else "false"


def parse_strict(text: str, fallback: Strict) -> Strict:
    """Read true, false (and what else means these) or always."""
    del fallback
    if text == Strict.ALWAYS.value:
        return Strict.ALWAYS
    try:
        return Strict.RUNNING if parse_boolean(text, False) else Strict.NO
    except InvalidConfigError:
        raise InvalidConfigError(f"{quote(text)} is neither true, false nor always") from None


def format_strict(value: Strict) -> str:
    return value.value


def parse_verbosity(text: str, fallback: int) -> int:
    """Read a level's name or number; numbers above the last level mean the last level."""
    top = len(LEVELS) - 1
    if text in LEVELS:
        return LEVELS.index(text)
    if text == MORE:
        return min(fallback + 1, top)
    if text == LESS:
        return max(fallback - 1, 0)
    number = parse_decimal(text, TIMER_MAX)
    if number is None:
        raise InvalidConfigError(
            f"{quote(text)} is not a log level, expected a number from 0 to {top}"
            f" or {_alternatives(LEVELS)}",
            suggestion(text, LEVELS),
        )
    return min(number, top)


def format_verbosity(value: int) -> str:
    return LEVELS[value]


def parse_interface(text: str, fallback: str) -> str:
    """Read the name of a network interface, as the kernel would accept it."""
    del fallback
    size = len(text.encode(errors="surrogatepass"))
    if size > _INTERFACE_BYTES or text in (".", "..") or re.search(r"[\s/:%]", text):
        raise InvalidConfigError(
            f"{quote(text)} is not the name of an interface", "`ip link` lists the interfaces"
        )
    return text


def choice_of(*choices: str) -> Callable[[str, str], str]:
    """A parser that accepts exactly `choices`."""

    def parse_choice(text: str, fallback: str) -> str:
        del fallback
        if text not in choices:
            raise InvalidConfigError(
                f"{quote(text)} is unknown, expected {_alternatives(choices)}",
                suggestion(text, choices),
            )
        return text

    return parse_choice


def _alternatives(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def parse_decimal(text: str, maximum: int) -> int | None:
    """A number from 0 to `maximum` in ASCII digits; None if it is not one."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    if len(digits) > len(str(maximum)):
        return None  # int() itself refuses thousands of digits
    number = int(digits or "0")
    return number if number <= maximum else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """A hint with the known word nearest to a misspelt one, "" if none is near."""
    folded = word.casefold()
    if len(folded) > _SUGGESTION_LIMIT:
        return ""
    candidates = list(known)
    near = difflib.get_close_matches(folded, candidates, 1)
    if not near and len(folded) >= _FRAGMENT_MIN:
        near = [candidate for candidate in candidates if folded in candidate]
    return f"did you mean {near[0]}?" if near else ""
