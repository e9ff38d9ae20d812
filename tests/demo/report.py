# SPDX-License-Identifier: GPL-2.0-only
"""What the demonstration prints: headings, what happens, and the list of checks that ends it."""

import sys
from dataclasses import dataclass, field
from typing import TextIO

_GREEN, _RED, _BOLD, _PLAIN = "\033[32m", "\033[31m", "\033[1m", "\033[0m"


@dataclass(frozen=True)
class Check:
    """One thing that had to be so."""

    claim: str
    passed: bool
    seen: str
    """The figures that decided it."""


@dataclass
class Report:
    """Prints as it goes and keeps the checks."""

    out: TextIO = sys.stdout
    checks: list[Check] = field(default_factory=list)
    _headings: int = 0

    def heading(self, text: str) -> None:
        self._headings += 1
        self._print()
        self._print(self._coloured(_BOLD, f"{self._headings}. {text}"))

    def say(self, text: str) -> None:
        self._print(f"   {text}".rstrip())

    def command(self, host: str, words: str) -> None:
        """A command as somebody would type it at that host."""
        self._print(f"   {host}$ {words}")

    def quote(self, text: str) -> None:
        """What a program printed, as it is."""
        for line in text.splitlines():
            self._print(f"      {line}")

    def check(self, claim: str, passed: bool, seen: str) -> None:
        self.checks.append(Check(claim, passed, seen))
        if not passed:
            self.say(self._coloured(_RED, f"failed: {claim} ({seen})"))

    def close(self) -> int:
        """Print the checks; the exit code, 1 if one failed or there were none."""
        self._print()
        self._print(self._coloured(_BOLD, "Checks"))
        width = max((len(check.claim) for check in self.checks), default=0)
        for check in self.checks:
            words = self._coloured(_GREEN, "passed") if check.passed else self._failed()
            self._print(f"   {words}  {check.claim:{width}}  {check.seen}".rstrip())
        failed = sum(not check.passed for check in self.checks)
        self._print()
        self._print(f"{len(self.checks) - failed} passed, {failed} failed")
        return int(failed > 0 or not self.checks)

    def _failed(self) -> str:
        return self._coloured(_RED, "FAILED")

    def _coloured(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self.out.isatty() else text

    def _print(self, text: str = "") -> None:
        # Flushed: whoever watches through a pipe sees each step when it happens.
        print(text, file=self.out, flush=True)
