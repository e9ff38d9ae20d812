# SPDX-License-Identifier: GPL-2.0-only
"""An interface that is to be run, but is not there."""

from dataclasses import dataclass, field

from mimicd.core.connection import InterfaceView
from mimicd.core.model import InterfaceConfig
from mimicd.core.settings import config_texts, shown_texts
from mimicd.core.sources import Known
from mimicd.state import Phase, SavedInterface


@dataclass(slots=True)
class Waiting:
    """It is run again once an interface of this name is there and up."""

    name: str
    config: InterfaceConfig
    started_at: float
    """When it was run first; Unix time, seconds."""
    known: Known = field(default_factory=Known)
    """What its names stood for when it went: without it they may not be found."""
    trouble: str = ""
    """Why the last attempt failed, so that it is told once."""

    def view(self) -> InterfaceView:
        """As it is shown."""
        return InterfaceView(
            name=self.name,
            ifindex=0,
            link_type="",
            xdp_mode="",
            state="waiting",
            filters=tuple(config_texts(self.config)["filter"]),
            settings=shown_texts(self.config),
            counters={},
            max_payload=0,
            started_at=self.started_at,
        )

    def saved(self) -> SavedInterface:
        """What the next daemon must know."""
        return SavedInterface(
            name=self.name,
            ifindex=0,
            link_type="",
            xdp_mode="",
            made_clsact=False,
            started_at=self.started_at,
            options=config_texts(self.config),
            phase=Phase.WAITING,
        )
