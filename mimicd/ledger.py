# SPDX-License-Identifier: GPL-2.0-only
"""Changes of the roster that the next daemon must know of: each is written down as it is made.

A process may be killed at any time, so there is no later.
"""

from dataclasses import replace

from mimicd import state
from mimicd.audience import Audience
from mimicd.core.errors import AlreadyRunningError
from mimicd.core.model import InterfaceConfig
from mimicd.core.sources import Known
from mimicd.logs import WARNING
from mimicd.records import Records
from mimicd.roster import Roster, Served
from mimicd.state import Phase
from mimicd.waiting import Waiting


class Ledger:
    """Keeps `records` as the roster is."""

    def __init__(self, roster: Roster, records: Records, tell: Audience) -> None:
        self._roster = roster
        self._records = records
        self._tell = tell

    def add(self, served: Served) -> None:
        """It runs, and is not waited for if it was."""
        self._roster.add(served)
        self.save(served)
        self.wait_no_more(served.instance.name)

    def save(self, served: Served, phase: Phase = Phase.RUNNING) -> None:
        """It, or what follows it, has changed."""
        holder = self._roster.holder_of(served.instance.name)
        self._records.write(served.saved(phase, holder))

    def wait_for(
        self, name: str, config: InterfaceConfig, started_at: float, known: Known
    ) -> Waiting:
        """Run `name` again once there is such an interface."""
        waiting = Waiting(name, config, started_at, known)
        self._roster.wait_for(waiting)
        key = state.waiting_key(name)
        try:
            if not self._records.has_claimed(key):
                self._records.claim(name, key)
        except AlreadyRunningError as error:
            self._tell.log(name, WARNING, f"cannot save that it is waited for: {error}")
            return waiting
        self._save_waiting(waiting)
        return waiting

    def wait_no_more(self, name: str) -> bool:
        """Whether it was waited for."""
        if not self._roster.wait_no_more(name):
            return False
        self._records.forget(state.waiting_key(name))
        return True

    def set_holder(self, name: str, holder: str) -> None:
        """Of an interface that runs or is waited for."""
        if self._roster.holder_of(name) == holder:
            return
        served, waiting = self._roster.find(name), self._roster.waiting(name)
        if served is not None or waiting is not None:
            self._roster.hold(name, holder)
        if served is not None:
            self.save(served)
        elif waiting is not None:
            self._save_waiting(waiting)

    def _save_waiting(self, waiting: Waiting) -> None:
        holder = self._roster.holder_of(waiting.name)
        self._records.write(replace(waiting.saved(), holder=holder))
