# SPDX-License-Identifier: GPL-2.0-only
"""Who is told what happens: the log, and whoever subscribed."""

from collections.abc import Callable

from mimicd import logs
from mimicd.core.connection import Connection, InterfaceView
from mimicd.core.manager import Listener
from mimicd.logs import INFO


class Audience:
    """`verbosity_of`: that of a running interface, None for any other."""

    def __init__(self, verbosity_of: Callable[[str], int | None]) -> None:
        self._verbosity_of = verbosity_of
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` from now on; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def log(
        self,
        interface: str,
        level: int,
        text: str,
        connection: str = "",
        *,
        verbosity: int | None = None,
    ) -> None:
        """Say something of an interface, and of a connection if it is about one.

        `verbosity`: that of an interface which is not, or no longer, among those that run.
        """
        found = self._verbosity_of(interface)
        if found is not None:
            verbosity = found
        elif verbosity is None:
            verbosity = INFO
        if connection:
            text = f"{connection} :: {text}"
        logs.write(interface, level, text, verbosity, connection)
        if level > verbosity:
            return
        for listener in list(self._listeners):
            listener.log(interface, level, text)

    def added(self, view: InterfaceView) -> None:
        """It runs or is waited for, or what is to be shown of it has changed."""
        for listener in list(self._listeners):
            listener.interface_added(view)

    def renamed(self, before: str, view: InterfaceView) -> None:
        """Which was called `before`."""
        for listener in list(self._listeners):
            listener.interface_renamed(before, view)

    def removed(self, interface: str) -> None:
        """It was stopped."""
        for listener in list(self._listeners):
            listener.interface_removed(interface)

    def connection(self, connection: Connection) -> None:
        """It came up, changed, or ended."""
        for listener in list(self._listeners):
            listener.connection_changed(connection)
