# SPDX-License-Identifier: GPL-2.0-only
"""How many lines a log gets at most, so that nobody on the network can fill it. Pure."""

LINES_PER_S = 1000
"""Of one interface. A peer that opens and ends connections makes a line of each."""


class LineBudget:
    """Lines of the present second; those beyond it are counted, not said."""

    def __init__(self) -> None:
        self._left = LINES_PER_S
        self._untold = 0

    def take(self) -> bool:
        """Whether one more line may be said."""
        if not self._left:
            self._untold += 1
            return False
        self._left -= 1
        return True

    def renew(self) -> int:
        """A second is over: how many lines were left out in it."""
        untold, self._untold = self._untold, 0
        self._left = LINES_PER_S
        return untold
