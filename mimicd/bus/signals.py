# SPDX-License-Identifier: GPL-2.0-only
"""What happens in the daemon, told to the bus as signals.

Signals are dropped, and counted, when the bus does not take them: the daemon never waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from dbus_next.message import Message
from dbus_next.signature import Variant

from mimicd.bus import names
from mimicd.bus.connection import Connection, PackedMessage
from mimicd.bus.encode import (
    clean_text,
    encode_connection_changed,
    encode_log,
    encode_signal,
)
from mimicd.bus.interfaces import INTERFACE, MANAGER, OBJECT_MANAGER, PROPERTIES, Interface
from mimicd.bus.values import view_properties
from mimicd.core.connection import Connection as FlowConnection
from mimicd.core.connection import InterfaceView

log = logging.getLogger(__name__)


class Signals:
    """A core.manager.Listener that sends what it hears.

    `known` are the interfaces that run already; `on_removed` is called with the name of each
    that no longer does, `on_renamed` with the old and the new name.
    """

    def __init__(
        self,
        connection: Connection,
        known: Iterable[InterfaceView],
        on_removed: Callable[[str], None],
        on_renamed: Callable[[str, str], None],
    ) -> None:
        self._connection = connection
        self._known = {view.name: view_properties(view) for view in known}
        self._on_removed = on_removed
        self._on_renamed = on_renamed
        self.dropped = 0

    def interface_added(self, view: InterfaceView) -> None:
        path = names.interface_path(view.name)
        properties = view_properties(view)
        before = self._known.get(view.name)
        self._known[view.name] = properties
        if before is not None:
            self._properties_changed(path, INTERFACE, _difference(before, properties))
            return
        self._emit(
            names.ROOT_PATH,
            OBJECT_MANAGER,
            "InterfacesAdded",
            [path, {names.INTERFACE: properties}],
        )
        self._emit(names.ROOT_PATH, MANAGER, "InterfaceAdded", [clean_text(view.name), path])
        self._interfaces_changed()

    def interface_removed(self, name: str) -> None:
        self._on_removed(name)
        self._object_removed(name)

    def interface_renamed(self, before: str, view: InterfaceView) -> None:
        self._on_renamed(before, view.name)
        path = names.interface_path(view.name)
        body = [clean_text(before), clean_text(view.name), path]
        self._emit(names.ROOT_PATH, MANAGER, "InterfaceRenamed", body)
        self._object_removed(before)
        self.interface_added(view)

    def _object_removed(self, name: str) -> None:
        if self._known.pop(name, None) is None:
            return
        path = names.interface_path(name)
        self._emit(names.ROOT_PATH, OBJECT_MANAGER, "InterfacesRemoved", [path, [names.INTERFACE]])
        self._emit(names.ROOT_PATH, MANAGER, "InterfaceRemoved", [clean_text(name), path])
        self._interfaces_changed()

    def connection_changed(self, connection: FlowConnection) -> None:
        self._emit_packed("ConnectionChanged", lambda: encode_connection_changed(connection))

    def log(self, interface: str, level: int, text: str) -> None:
        self._emit_packed("Log", lambda: encode_log(interface, level, text))

    def _interfaces_changed(self) -> None:
        paths = [names.interface_path(name) for name in self._known]
        self._properties_changed(names.ROOT_PATH, MANAGER, {"Interfaces": Variant("ao", paths)})

    def _properties_changed(
        self, path: str, interface: Interface, changed: dict[str, Variant]
    ) -> None:
        if changed:
            self._emit(path, PROPERTIES, "PropertiesChanged", [interface.name, changed, []])

    def _emit(self, path: str, interface: Interface, member: str, body: list[Any]) -> None:
        signature = interface.signal(member).signature
        self._post(Message.new_signal(path, interface.name, member, signature, body))

    def _emit_packed(self, member: str, encode_body: Callable[[], bytes]) -> None:
        signature = MANAGER.signal(member).signature
        self._post(
            PackedMessage(
                lambda serial: encode_signal(
                    serial, names.ROOT_PATH, names.MANAGER, member, signature, encode_body()
                )
            )
        )

    def _post(self, message: Message) -> None:
        try:
            sent = self._connection.post(message)
        except Exception:  # a listener must not raise, whatever it was told
            log.exception("a signal could not be sent")
            return
        if not sent:
            self.dropped += 1


def _difference(before: dict[str, Variant], after: dict[str, Variant]) -> dict[str, Variant]:
    told = [prop.name for prop in INTERFACE.properties if prop.emits == "true"]
    return {name: after[name] for name in told if before[name] != after[name]}
