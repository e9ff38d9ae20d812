# SPDX-License-Identifier: GPL-2.0-only
"""What this process serves, for those beside it and for the one that comes after it.

A locked file for each interface says that somebody serves it, and another one how to go on.
"""

from pathlib import Path

from mimicd import state
from mimicd.audience import Audience
from mimicd.claims import Claim, claim
from mimicd.core.errors import AlreadyRunningError
from mimicd.logs import WARNING
from mimicd.state import SavedInterface


class Records:
    """By key: an ifindex, or state.waiting_key() of an interface that is waited for."""

    def __init__(self, tell: Audience) -> None:
        self.folder: Path = state.state_folder()
        self._tell = tell
        self._claims: dict[str, Claim] = {}

    def load(self) -> list[SavedInterface]:
        """Of all processes of this network namespace, living or gone."""
        return state.load(self.folder)

    def claim(self, interface: str, key: str) -> None:
        """Raises AlreadyRunningError where it is served, by another process or by this one."""
        try:
            found = claim(self.folder, key)
        except OSError as error:
            self._tell.log(interface, WARNING, f"cannot lock its state: {error}")
            return
        if found is None:
            raise AlreadyRunningError(
                f"{interface} is running already, served by another mimicd",
                f"`mimicctl stop {interface}` ends it, or Ctrl-C where it runs in the foreground",
            )
        self._claims[key] = found

    def has_claimed(self, key: str) -> bool:
        """Whether this process serves it."""
        return key in self._claims

    def write(self, saved: SavedInterface) -> None:
        """A disk that is full keeps nobody from running."""
        try:
            state.save(self.folder, saved)
        except OSError as error:
            self._tell.log(saved.name, WARNING, f"cannot save its state: {error}")

    def has(self, key: str) -> bool:
        """Whether it is written down; somebody may have removed it."""
        return state.is_saved(self.folder, key)

    def forget(self, key: str) -> None:
        """It is served no more."""
        state.remove(self.folder, key)
        self.release(key)

    def release_all(self) -> None:
        """Leave what is written to the next process."""
        for key in list(self._claims):
            self.release(key)

    def release(self, key: str) -> None:
        """Leave one of them."""
        ours = self._claims.pop(key, None)
        if ours is not None:
            ours.release()
