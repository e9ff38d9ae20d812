# SPDX-License-Identifier: GPL-2.0-only
"""Plain values of the daemon as varlink has them: snake case, integers of 64 bits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mimicd.core.connection import Connection, InterfaceView
from mimicd.core.manager import Options
from mimicd.core.settings import BY_KEY
from mimicd.varlink import names
from mimicd.varlink.wire import Reply

_INT_MAX = 2**63 - 1


class ParameterError(Exception):
    """A parameter is missing, unknown or of the wrong type; its name is the text."""


def read_parameters(
    parameters: Mapping[str, Any], needed: Mapping[str, type], optional: Mapping[str, type]
) -> dict[str, Any]:
    """Those that are given. Raises ParameterError."""
    found = {name: value for name, value in parameters.items() if value is not None}
    for name, value in found.items():
        expected = needed.get(name) or optional.get(name)
        if expected is None or not isinstance(value, expected):
            raise ParameterError(name)
    for name in needed:
        if name not in found:
            raise ParameterError(name)
    return found


def read_options(given: Mapping[str, Any]) -> Options:
    """Configuration texts out of lists of texts. Raises ParameterError."""
    options: dict[str, str | list[str]] = {}
    for key, texts in given.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ParameterError("options")
        row = BY_KEY.get(key)
        if row is not None and not row.repeatable:
            if len(texts) != 1:
                raise ParameterError("options")
            options[key] = texts[0]
        else:
            options[key] = texts
    return options


def write_options(options: Options) -> dict[str, list[str]]:
    """The inverse of `read_options`."""
    return {
        key: [given] if isinstance(given, str) else list(given) for key, given in options.items()
    }


def plain_connection(connection: Connection) -> dict[str, Any]:
    """As type Connection of the interface."""
    return {key.replace("-", "_"): _bounded(value) for key, value in connection.as_plain().items()}


def plain_view(view: InterfaceView) -> dict[str, Any]:
    """As type Interface of the interface."""
    return {field.name: _bounded(getattr(view, field.name)) for field in fields(view)}


def _bounded(value: Any) -> Any:
    match value:
        case bool() | str() | float():
            return value
        case int():
            return max(-_INT_MAX, min(value, _INT_MAX))
        case dict():
            return {key: _bounded(one) for key, one in value.items()}
        case _:
            return list(value)


def kebab(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The keys as everywhere else; those of the maps inside are as they are."""
    return {key.replace("_", "-"): value for key, value in plain.items()}


def fault(name: str, message: str, hint: str = "") -> Reply:
    """An error of the interface, such as "NotRunning"."""
    return Reply({"message": message, "hint": hint}, error=f"{names.INTERFACE}.{name}")


def service_fault(name: str, parameter: str, value: str) -> Reply:
    """An error of org.varlink.service, such as "MethodNotFound"."""
    return Reply({parameter: value}, error=f"{names.SERVICE}.{name}")
