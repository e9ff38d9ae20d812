# SPDX-License-Identifier: GPL-2.0-only
"""The tree of served objects: which interfaces stand at which path, with which properties.

    /org/mimicd1                       org.mimicd1.Manager, ObjectManager
    /org/mimicd1/interface/<escaped>   org.mimicd1.Interface, one for each running interface

Also answers the standard interfaces, which need nothing but the tree.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbus_next.signature import Variant

from mimicd.bus import names
from mimicd.bus.connection import ReplyError
from mimicd.bus.encode import clean_text
from mimicd.bus.interfaces import (
    INTERFACE,
    INTROSPECTABLE,
    MANAGER,
    OBJECT_MANAGER,
    PEER,
    PROPERTIES,
    Interface,
    Method,
    introspection_xml,
)
from mimicd.bus.values import view_properties
from mimicd.core.connection import InterfaceView
from mimicd.core.manager import Manager

_MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))

_EVERYWHERE = (INTROSPECTABLE, PEER)
_AT_ROOT = (MANAGER, OBJECT_MANAGER, PROPERTIES, *_EVERYWHERE)
_AT_INTERFACE = (INTERFACE, PROPERTIES, *_EVERYWHERE)

_CHILDREN = {
    "/": ("org",),
    "/org": ("mimicd1",),
    names.ROOT_PATH: ("interface",),
}


@dataclass(frozen=True, slots=True)
class Call:
    """A method call whose object, method and argument types are as they should be."""

    sender: str
    path: str
    interface: Interface
    method: Method
    body: list[Any]
    interactive: bool


@dataclass(frozen=True, slots=True)
class PackedBody:
    """Results in bytes, for a method with a body too large to be marshalled value by value."""

    data: bytes | bytearray


Handler = Callable[[Call], Awaitable[list[Any] | PackedBody]]
"""Takes a call, returns its results."""


class Objects:
    """The tree as it is now; `manager` knows which interfaces run."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self.handlers: Mapping[tuple[str, str], Handler] = {
            (names.INTROSPECTABLE, "Introspect"): self._introspect,
            (names.PROPERTIES, "Get"): self._get,
            (names.PROPERTIES, "GetAll"): self._get_all,
            (names.PROPERTIES, "Set"): self._set,
            (names.OBJECT_MANAGER, "GetManagedObjects"): self._get_managed_objects,
            (names.PEER, "Ping"): self._ping,
            (names.PEER, "GetMachineId"): self._get_machine_id,
        }

    def interfaces_at(self, path: str) -> tuple[Interface, ...]:
        """The interfaces of the object at `path`. Raises ReplyError (UnknownObject)."""
        if path == names.ROOT_PATH:
            return _AT_ROOT
        if path == names.INTERFACES_PATH or path in _CHILDREN:
            return _EVERYWHERE
        self._view_at(path)
        return _AT_INTERFACE

    def paths(self) -> list[str]:
        """The object paths of the running interfaces."""
        return [names.interface_path(view.name) for view in self._manager.interfaces()]

    def manager_properties(self) -> dict[str, Variant]:
        return {
            "Version": Variant("s", clean_text(self._manager.version)),
            "Interfaces": Variant("ao", self.paths()),
        }

    def _view_at(self, path: str) -> InterfaceView:
        name = names.interface_of_path(path)
        if name is None:
            raise ReplyError(names.UNKNOWN_OBJECT, f"there is no object {path}")
        for view in self._manager.interfaces():
            if view.name == name:
                return view
        raise ReplyError(names.UNKNOWN_OBJECT, f"there is no object {path}: {name} is not running")

    def _properties(self, path: str, interface_name: str) -> dict[str, Variant]:
        """Every property of an interface at `path`. Raises ReplyError."""
        if not any(one.name == interface_name for one in self.interfaces_at(path)):
            raise _unknown_interface(path, interface_name)
        if interface_name == names.MANAGER:
            return self.manager_properties()
        if interface_name == names.INTERFACE:
            return view_properties(self._view_at(path))
        return {}

    def _property(self, path: str, interface_name: str, name: str) -> Variant:
        try:
            return self._properties(path, interface_name)[name]
        except KeyError:
            raise ReplyError(
                names.UNKNOWN_PROPERTY, f"{interface_name} has no property {name}"
            ) from None

    async def _introspect(self, call: Call) -> list[Any]:
        children: tuple[str, ...] = _CHILDREN.get(call.path, ())
        if call.path == names.INTERFACES_PATH:
            children = tuple(path.rpartition("/")[2] for path in self.paths())
        return [introspection_xml(self.interfaces_at(call.path), children)]

    async def _get(self, call: Call) -> list[Any]:
        interface_name, name = call.body
        return [self._property(call.path, interface_name, name)]

    async def _get_all(self, call: Call) -> list[Any]:
        (interface_name,) = call.body
        return [self._properties(call.path, interface_name)]

    async def _set(self, call: Call) -> list[Any]:
        interface_name, name, _value = call.body
        self._property(call.path, interface_name, name)
        raise ReplyError(names.PROPERTY_READ_ONLY, f"{interface_name}.{name} cannot be set")

    async def _get_managed_objects(self, call: Call) -> list[Any]:
        objects = {
            names.interface_path(view.name): {names.INTERFACE: view_properties(view)}
            for view in self._manager.interfaces()
        }
        return [objects]

    async def _ping(self, call: Call) -> list[Any]:
        return []

    async def _get_machine_id(self, call: Call) -> list[Any]:
        for file in _MACHINE_ID_FILES:
            try:
                return [file.read_text("ascii").strip()]
            except (OSError, UnicodeDecodeError):
                continue
        raise ReplyError(names.NOT_SUPPORTED, "this machine has no machine id")


def _unknown_interface(path: str, name: str) -> ReplyError:
    return ReplyError(names.UNKNOWN_INTERFACE, f"{path} has no interface {name}")


def resolve(
    tree: Objects, path: str, interface_name: str | None, member: str, signature: str
) -> tuple[Interface, Method]:
    """What a call means. Raises ReplyError with the standard error for what does not exist.

    A call may leave out the interface; then the first one with such a method is meant.
    """
    at_path = tree.interfaces_at(path)
    if interface_name is not None:
        at_path = tuple(one for one in at_path if one.name == interface_name)
        if not at_path:
            raise _unknown_interface(path, interface_name)
    for interface in at_path:
        method = interface.method(member)
        if method is not None:
            break
    else:
        raise ReplyError(names.UNKNOWN_METHOD, f"{interface_name or path} has no method {member}")
    if signature != method.in_signature:
        raise ReplyError(
            names.INVALID_ARGS,
            f"{interface.name}.{member} takes arguments of type"
            f' "{method.in_signature}", not "{signature}"',
        )
    return interface, method
