# SPDX-License-Identifier: GPL-2.0-only
"""What is served: every interface with its methods, signals and properties, and its XML.

The tables here answer introspection and check the types of every call; the files in dbus/ say
the same to people and tools, and a test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mimicd.bus import names

Arguments = tuple[tuple[str, str], ...]
"""(name, D-Bus type) of each argument."""

ANNOTATION_EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"

_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    arguments: Arguments = ()
    results: Arguments = ()
    changes: bool = False
    """Whether it changes something, so that the caller must be authorised."""

    @property
    def in_signature(self) -> str:
        return "".join(signature for _, signature in self.arguments)

    @property
    def out_signature(self) -> str:
        return "".join(signature for _, signature in self.results)


@dataclass(frozen=True, slots=True)
class Signal:
    name: str
    arguments: Arguments

    @property
    def signature(self) -> str:
        return "".join(signature for _, signature in self.arguments)


@dataclass(frozen=True, slots=True)
class Property:
    """A read-only property."""

    name: str
    signature: str
    emits: str = "true"
    """Value of EmitsChangedSignal: "true", "const", or "false" for what changes all the time."""


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    methods: tuple[Method, ...] = ()
    signals: tuple[Signal, ...] = ()
    properties: tuple[Property, ...] = ()

    def method(self, name: str) -> Method | None:
        return next((method for method in self.methods if method.name == name), None)

    def signal(self, name: str) -> Signal:
        """Raises StopIteration for one it does not have."""
        return next(signal for signal in self.signals if signal.name == name)


_OPTIONS = ("options", names.OPTIONS_SIGNATURE)
_NAME = ("interface", "s")

MANAGER = Interface(
    names.MANAGER,
    methods=(
        Method("Run", (_NAME, _OPTIONS), (("object", "o"),), changes=True),
        Method("Stop", (_NAME,), changes=True),
        Method("Reload", (_NAME, _OPTIONS), changes=True),
        Method("SetLogLevel", (_NAME, ("level", "s")), changes=True),
        # it resolves names and may ask peers: not for everybody
        Method("Check", (_NAME, _OPTIONS), (("results", "a(sss)"),), changes=True),
        Method("ListConnections", (_NAME,), (("connections", names.CONNECTION_LIST_SIGNATURE),)),
        Method("ListInterfaces", (), (("objects", "ao"),)),
        Method("Describe", (), (("json", "s"),)),
        Method("DescribePart", (("part", "u"), ("parts", "u")), (("json", "s"),)),
    ),
    signals=(
        Signal("InterfaceAdded", (_NAME, ("object", "o"))),
        Signal("InterfaceRemoved", (_NAME, ("object", "o"))),
        Signal("InterfaceRenamed", (("before", "s"), _NAME, ("object", "o"))),
        Signal("ConnectionChanged", (_NAME, ("connection", "a{sv}"))),
        Signal("Log", (_NAME, ("level", "u"), ("text", "s"))),
    ),
    properties=(Property("Version", "s", "const"), Property("Interfaces", "ao")),
)

INTERFACE = Interface(
    names.INTERFACE,
    properties=(
        Property("Name", "s", "const"),
        Property("Ifindex", "u"),
        Property("LinkType", "s"),
        Property("XdpMode", "s"),
        Property("State", "s"),
        Property("Filters", "as"),
        Property("Settings", "a{ss}"),
        Property("MaxPayload", "u"),
        Property("StartedAt", "d", "const"),
        Property("Counters", "a{st}", "false"),
    ),
)

PEER = Interface(
    names.PEER,
    methods=(Method("Ping"), Method("GetMachineId", (), (("machine_uuid", "s"),))),
)

INTROSPECTABLE = Interface(
    names.INTROSPECTABLE, methods=(Method("Introspect", (), (("xml_data", "s"),)),)
)

PROPERTIES = Interface(
    names.PROPERTIES,
    methods=(
        Method("Get", (("interface_name", "s"), ("property_name", "s")), (("value", "v"),)),
        Method("GetAll", (("interface_name", "s"),), (("properties", "a{sv}"),)),
        Method("Set", (("interface_name", "s"), ("property_name", "s"), ("value", "v"))),
    ),
    signals=(
        Signal(
            "PropertiesChanged",
            (
                ("interface_name", "s"),
                ("changed_properties", "a{sv}"),
                ("invalidated_properties", "as"),
            ),
        ),
    ),
)

OBJECT_MANAGER = Interface(
    names.OBJECT_MANAGER,
    methods=(Method("GetManagedObjects", (), (("objects", "a{oa{sa{sv}}}"),)),),
    signals=(
        Signal("InterfacesAdded", (("object", "o"), ("interfaces", "a{sa{sv}}"))),
        Signal("InterfacesRemoved", (("object", "o"), ("interfaces", "as"))),
    ),
)


def introspection_xml(interfaces: Iterable[Interface], children: Iterable[str]) -> str:
    """The answer to Introspect for an object with these interfaces and child elements."""
    lines = ["<node>"]
    for interface in interfaces:
        lines += _interface_lines(interface)
    lines += [f"  <node name={_quoted(child)}/>" for child in children]
    lines.append("</node>")
    return _DOCTYPE + "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """As an attribute of XML. xml.sax.saxutils has the same, and brings an HTTP client with it."""
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), ('"', "&quot;")):
        value = value.replace(char, entity)
    return f'"{value}"'


def _interface_lines(interface: Interface) -> list[str]:
    lines = [f"  <interface name={_quoted(interface.name)}>"]
    for method in interface.methods:
        lines.append(f"    <method name={_quoted(method.name)}>")
        lines += _argument_lines(method.arguments, ' direction="in"')
        lines += _argument_lines(method.results, ' direction="out"')
        lines.append("    </method>")
    for signal in interface.signals:
        lines.append(f"    <signal name={_quoted(signal.name)}>")
        lines += _argument_lines(signal.arguments, "")
        lines.append("    </signal>")
    for prop in interface.properties:
        shown = f'name={_quoted(prop.name)} type={_quoted(prop.signature)} access="read"'
        if prop.emits == "true":
            lines.append(f"    <property {shown}/>")
        else:
            lines.append(f"    <property {shown}>")
            lines.append(f'      <annotation name="{ANNOTATION_EMITS}" value="{prop.emits}"/>')
            lines.append("    </property>")
    lines.append("  </interface>")
    return lines


def _argument_lines(arguments: Arguments, direction: str) -> list[str]:
    return [
        f"      <arg name={_quoted(name)} type={_quoted(signature)}{direction}/>"
        for name, signature in arguments
    ]
