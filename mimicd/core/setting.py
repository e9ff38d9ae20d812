# SPDX-License-Identifier: GPL-2.0-only
"""What is known of one setting: a row of the table in `settings`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from mimicd.core.errors import InvalidConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Flag:
    """One command-line option."""

    short: str
    long: str
    help: str
    text: str = ""
    """The setting's text that an option without an argument stands for; "" = it takes one."""


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One row. `parse` takes a text and the value that left-out parts fall back to."""

    key: str
    parse: Callable[[str, T], T]
    format: Callable[[T], str]
    default: T
    flags: tuple[Flag, ...]
    metavar: str
    """What stands for the argument in help."""
    help: str
    """What it does and which texts it takes, for the manual."""
    signature: str = "s"
    """D-Bus type of the option; "" = a flag that is neither file key nor option."""
    per_filter: bool = False
    """Whether a filter may have its own."""
    field: str = ""
    """Where the value goes in FlowSettings (per_filter) or InterfaceConfig; "" = nowhere."""
    choices: tuple[str, ...] = ()
    """The words that it takes, or, where it takes others too, those that are worth a completion."""
    note: str = ""
    """What to tell somebody who sets it to anything but the default."""

    @property
    def repeatable(self) -> bool:
        return self.signature == "as"

    def read(self, text: str, fallback: T) -> T:
        """Parse `text`, spaces around it aside. Raises InvalidConfigError that names the key."""
        bare = text.strip()
        if not bare:
            raise InvalidConfigError(f"{self.key} has no value", f"expected {self.metavar}")
        try:
            return self.parse(bare, fallback)
        except InvalidConfigError as exc:
            indent = len(text) - len(text.lstrip())
            raise InvalidConfigError.of(
                [
                    replace(problem.moved(indent), message=f"{self.key}: {problem.message}")
                    for problem in exc.problems
                ]
            ) from None
