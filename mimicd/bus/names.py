# SPDX-License-Identifier: GPL-2.0-only
"""Every string of the bus: names, paths, interfaces, keys, signatures, addresses.

Pure, and free of any D-Bus library: the client shares it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mimicd.core.errors import ERROR_PREFIX as ERROR_PREFIX

BUS_NAME = "org.mimicd1"
"""Of the daemon of the first network namespace; others add to it, see `bus_name`."""
ROOT_PATH = "/org/mimicd1"
INTERFACES_PATH = "/org/mimicd1/interface"

MANAGER = "org.mimicd1.Manager"
INTERFACE = "org.mimicd1.Interface"
ACTION_MANAGE = "org.mimicd1.manage"

PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
PEER = "org.freedesktop.DBus.Peer"

DRIVER_NAME = "org.freedesktop.DBus"
DRIVER_PATH = "/org/freedesktop/DBus"
DRIVER = "org.freedesktop.DBus"

POLKIT_NAME = "org.freedesktop.PolicyKit1"
POLKIT_PATH = "/org/freedesktop/PolicyKit1/Authority"
POLKIT_AUTHORITY = "org.freedesktop.PolicyKit1.Authority"

STANDARD_ERROR_PREFIX = "org.freedesktop.DBus.Error."
ACCESS_DENIED = STANDARD_ERROR_PREFIX + "AccessDenied"
INVALID_ARGS = STANDARD_ERROR_PREFIX + "InvalidArgs"
LIMITS_EXCEEDED = STANDARD_ERROR_PREFIX + "LimitsExceeded"
NAME_HAS_NO_OWNER = STANDARD_ERROR_PREFIX + "NameHasNoOwner"
NOT_SUPPORTED = STANDARD_ERROR_PREFIX + "NotSupported"
NO_REPLY = STANDARD_ERROR_PREFIX + "NoReply"
PROPERTY_READ_ONLY = STANDARD_ERROR_PREFIX + "PropertyReadOnly"
SERVICE_UNKNOWN = STANDARD_ERROR_PREFIX + "ServiceUnknown"
SPAWN_ERROR_PREFIX = STANDARD_ERROR_PREFIX + "Spawn."
TIMED_OUT = STANDARD_ERROR_PREFIX + "TimedOut"
UNKNOWN_INTERFACE = STANDARD_ERROR_PREFIX + "UnknownInterface"
UNKNOWN_METHOD = STANDARD_ERROR_PREFIX + "UnknownMethod"
UNKNOWN_OBJECT = STANDARD_ERROR_PREFIX + "UnknownObject"
UNKNOWN_PROPERTY = STANDARD_ERROR_PREFIX + "UnknownProperty"

OPTION_BIND_TO_CALLER = "bind-to-caller"
"""Option of Run and Reload (b): stop the interface when this caller leaves the bus."""

OPTIONS_SIGNATURE = "a{sv}"
CONNECTION_LIST_SIGNATURE = "aa{sv}"

CONNECTION_SIGNATURES: Mapping[str, str] = {
    "local": "s",
    "remote": "s",
    "state": "s",
    "role": "s",
    "filter": "s",
    "interface": "s",
    "note": "s",
    "seq": "u",
    "ack": "u",
    "window": "u",
    "peer-window": "u",
    "peer-mss": "u",
    "held": "u",
    "age": "d",
    "idle": "d",
    "cooldown": "d",
    "tx-packets": "t",
    "tx-bytes": "t",
    "rx-packets": "t",
    "rx-bytes": "t",
    "drops": "a{st}",
}
"""Keys of a connection (Connection.as_plain()) and their types on the bus; keys are only added."""

SYSTEM_BUS_ADDRESS = "unix:path=/run/dbus/system_bus_socket"
_SYSTEM_BUS_PATHS = ("/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket")
ADDRESS_VARIABLE = "DBUS_SYSTEM_BUS_ADDRESS"


_ELEMENT_MAX = 1024
"""Far beyond the 15 bytes that a name may have, and little enough to be looked at at once."""

_ESCAPED = re.compile(rb"_([0-9a-f]{2})")


def bus_address(given: str | None, environ: Mapping[str, str]) -> str:
    """The bus to use: the one given, else DBUS_SYSTEM_BUS_ADDRESS, else the system bus."""
    return given or environ.get(ADDRESS_VARIABLE) or SYSTEM_BUS_ADDRESS


def bus_name(netns: str) -> str:
    """The name of the daemon of a named network namespace, of the usual one for ""."""
    return f"{BUS_NAME}.netns.{escape_element(netns)}" if netns else BUS_NAME


def is_system_bus(address: str) -> bool:
    """Whether `address` is the machine's system bus; any other bus counts as private."""
    for one in address.split(";"):
        transport, _, options = one.partition(":")
        paths = [option.removeprefix("path=") for option in options.split(",")]
        if transport == "unix" and any(path in _SYSTEM_BUS_PATHS for path in paths):
            return True
    return False


def escape_element(name: str) -> str:
    """`name` as one element of an object path: letters and digits stay, the rest is _xx in hex.

    A leading digit is escaped too, "" is "_": the rule that systemd's object paths follow.
    """
    if not name:
        return "_"
    escaped = []
    for position, byte in enumerate(name.encode("utf-8", "surrogateescape")):
        char = chr(byte)
        plain = char.isascii() and char.isalnum() and not (position == 0 and char.isdigit())
        escaped.append(char if plain else f"_{byte:02x}")
    return "".join(escaped)


def unescape_element(element: str) -> str:
    """The inverse of `escape_element`. Raises ValueError for what it cannot have made."""
    if element == "_":
        return ""
    raw = _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), element.encode())
    name = raw.decode("utf-8", "surrogateescape")
    if escape_element(name) != element:
        raise ValueError("not an escaped name")
    return name


def interface_path(name: str) -> str:
    """Object path of the running interface `name`."""
    return f"{INTERFACES_PATH}/{escape_element(name)}"


def interface_of_path(path: str) -> str | None:
    """Name of the interface at `path`, None when the path is not one of an interface."""
    prefix, _, element = path.rpartition("/")
    if prefix != INTERFACES_PATH or not element or len(element) > _ELEMENT_MAX:
        return None
    try:
        return unescape_element(element)
    except ValueError:
        return None
