# SPDX-License-Identifier: GPL-2.0-only
"""Plain values of the daemon as bus values, and options of a call as plain texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from dbus_next.signature import Variant

from mimicd.bus import names
from mimicd.bus.connection import ReplyError
from mimicd.bus.encode import clean_text
from mimicd.bus.interfaces import INTERFACE
from mimicd.core.connection import InterfaceView
from mimicd.core.errors import quote

_UINT32_MAX = 2**32 - 1
_UINT64_MAX = 2**64 - 1


def decode_options(options: Mapping[str, Variant]) -> tuple[dict[str, str | list[str]], bool]:
    """Configuration texts, and whether to bind to the caller. Raises ReplyError (InvalidArgs)."""
    texts: dict[str, str | list[str]] = {}
    bind = False
    for key, variant in options.items():
        if key == names.OPTION_BIND_TO_CALLER:
            if variant.signature != "b":
                raise _wrong_type(key, "a boolean (b)", variant)
            bind = variant.value
        elif variant.signature in ("s", "as"):
            texts[key] = variant.value
        else:
            raise _wrong_type(key, "a text (s) or texts (as)", variant)
    return texts, bind


def _wrong_type(key: str, expected: str, variant: Variant) -> ReplyError:
    found = quote(variant.signature)
    return ReplyError(names.INVALID_ARGS, f"option {quote(key)} must be {expected}, not {found}")


def view_properties(view: InterfaceView) -> dict[str, Variant]:
    """The properties of org.mimicd1.Interface."""
    return {
        prop.name: Variant(prop.signature, _VIEW_VALUES[prop.name](view))
        for prop in INTERFACE.properties
    }


_VIEW_VALUES: Mapping[str, Callable[[InterfaceView], Any]] = {
    "Name": lambda view: clean_text(view.name),
    "Ifindex": lambda view: _bounded(view.ifindex, _UINT32_MAX),
    "LinkType": lambda view: clean_text(view.link_type),
    "XdpMode": lambda view: clean_text(view.xdp_mode),
    "State": lambda view: clean_text(view.state),
    "Filters": lambda view: [clean_text(text) for text in view.filters],
    "Settings": lambda view: {
        clean_text(key): clean_text(text) for key, text in view.settings.items()
    },
    "MaxPayload": lambda view: _bounded(view.max_payload, _UINT32_MAX),
    "StartedAt": lambda view: float(view.started_at),
    "Counters": lambda view: {
        clean_text(key): _bounded(count, _UINT64_MAX) for key, count in view.counters.items()
    },
}


def _bounded(value: int, maximum: int) -> int:
    return max(0, min(int(value), maximum))


def plain_view(view: InterfaceView) -> dict[str, object]:
    """An interface as in Describe: keys like a connection's, in kebab case."""
    plain: dict[str, object] = {}
    for field in fields(view):
        value = getattr(view, field.name)
        plain[field.name.replace("_", "-")] = list(value) if isinstance(value, tuple) else value
    return plain
