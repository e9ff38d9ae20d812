# SPDX-License-Identifier: GPL-2.0-only
"""What this process serves, for those beside it and for the one that comes after it.

A locked file for each interface says that somebody serves it, and another one how to go on.
"""

from pathlib import Path
from typing import Protocol

from mimicd import state
from mimicd.claims import Claim, claim
from mimicd.core.errors import AlreadyRunningError
from mimicd.logs import WARNING
from mimicd.state import SavedInterface


class TellFunction(Protocol):
    """Takes a line about an interface; level as in logs."""

    def __call__(self, interface: str, level: int, text: str) -> None:
        """Take it."""


class Records:
    """By key: an ifindex, or state.waiting_key() of an interface that is waited for."""

    def __init__(self, tell: TellFunction) -> None:
        self.folder: Path = state.state_folder()
        self._tell = tell
        self._claims: dict[str, Claim] = {}

    def load(self) -> list[SavedInterface]:
        """Of all processes of this network namespace, living or gone."""
        return state.load(self.folder)

    def claim(self, interface: str, key: str) -> None:
        """Raises AlreadyRunningError where another process serves the interface."""
        if key in self._claims:
            return
        try:
            found = claim(self.folder, key)
        except OSError as error:
            self._tell(interface, WARNING, f"cannot lock its state: {error}")
            return
        if found is None:
            raise AlreadyRunningError(
                f"{interface} is running already, served by another mimicd",
                f"`mimicctl stop {interface}` ends it, or Ctrl-C where it runs in the foreground",
            )
        self._claims[key] = found

    def write(self, saved: SavedInterface) -> None:
        """A disk that is full keeps nobody from running."""
        try:
            state.save(self.folder, saved)
        except OSError as error:
            self._tell(saved.name, WARNING, f"cannot save its state: {error}")

    def has(self, key: str) -> bool:
        """Whether it is written down; somebody may have removed it."""
        return state.is_saved(self.folder, key)

    def forget(self, key: str) -> None:
        """It is served no more."""
        state.remove(self.folder, key)
        self._release(key)

    def release_all(self) -> None:
        """Leave what is written to the next process."""
        for key in list(self._claims):
            self._release(key)

    def _release(self, key: str) -> None:
        ours = self._claims.pop(key, None)
        if ours is not None:
            ours.release()
