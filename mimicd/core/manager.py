# SPDX-License-Identifier: GPL-2.0-only
"""What the daemon can be asked, and whom it tells: the line between its inside and its edges.

The bus (and any other edge) calls a Manager and hands it a Listener; it knows nothing else of
the daemon. Every method raises MimicError, and nothing else, for what went wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from mimicd.core.connection import Connection, InterfaceView
from mimicd.core.part import WHOLE, Part
from mimicd.core.preflight import Line

Options = Mapping[str, str | Sequence[str]]
"""Configuration key -> text, or texts for `filter`."""


class Listener(Protocol):
    """Told what happens, in the event loop's thread; no method may block or raise."""

    def interface_added(self, view: InterfaceView) -> None:
        """An interface runs; for a name that runs already: its configuration changed."""

    def interface_removed(self, name: str) -> None:
        """An interface no longer runs, whoever stopped it."""

    def interface_renamed(self, before: str, view: InterfaceView) -> None:
        """An interface has another name, and runs on."""

    def connection_changed(self, connection: Connection) -> None:
        """A connection changed its state."""

    def log(self, interface: str, level: int, text: str) -> None:
        """A log line. `level` is 0 (error) to 4 (trace); `interface` is "" for the daemon."""


class Manager(Protocol):
    """The running interfaces of one daemon."""

    @property
    def version(self) -> str:
        """Version of the daemon."""

    async def run(self, interface: str, options: Options) -> None:
        """Attach to an interface; returns when traffic is disguised."""

    async def stop(self, interface: str) -> None:
        """Detach from an interface; returns when everything is as before `run`."""

    async def reload(self, interface: str, options: Options) -> None:
        """Apply the difference between the running configuration and `options`."""

    async def set_log_level(self, interface: str, level: str) -> None:
        """Of one running interface, of the daemon and all of them for "". `level` is a text of
        log.verbosity."""

    async def check(self, interface: str, options: Options) -> list[Line]:
        """What could keep the interface from being disguised with these options; changes nothing.

        The option "probe" set to "true" asks the peers too whether they answer.
        """

    def count_connections(self) -> int:
        """Of all interfaces, about: those that the kernel has told of."""

    def connections(
        self, interface: str, part: Part = WHOLE
    ) -> AsyncIterator[Sequence[Connection]]:
        """The connections of one running interface, of all of them for "", or a part of them.

        In portions of a few milliseconds each, so that a long list need not be in memory as a
        whole and holds up nobody. Raises before the first one, if at all.
        """

    def interfaces(self) -> list[InterfaceView]:
        """The running interfaces, with counters as of now."""

    def holder_of(self, interface: str) -> str:
        """What `set_holder` was told last; "" for none."""

    def set_holder(self, interface: str, holder: str) -> None:
        """Who is to hold an interface, in the words of the edge that he came by; "" for nobody.

        It is remembered for the next daemon too. Whoever sees a holder leave stops what he holds.
        """

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` from now on; returns what ends that."""
