# SPDX-License-Identifier: GPL-2.0-only
"""The option string: `;` separates, the first `=` assigns, a backslash escapes `;`, `=`, `\\`.

Comes in: the text and the role. Goes out: Options, and a warning for each key without effect.
The table below drives parsing and the help text alike.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from kaminari.address import Address, parse_address
from kaminari.errors import UsageError


class Role(enum.Enum):
    CLIENT = "client"
    SERVER = "server"


class MaskMode(enum.Enum):
    SKIP = "skip"
    FIXED = "fixed"
    STANDARD = "standard"


BOTH = (Role.CLIENT, Role.SERVER)
CLIENT = (Role.CLIENT,)
SERVER = (Role.SERVER,)


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    metavar: str
    """Empty for a flag."""
    roles: tuple[Role, ...]
    help: str


TABLE: tuple[Row, ...] = (
    Row("ws", "", BOTH, "carry the stream in WebSocket frames; needs host and path"),
    Row("host", "NAME", BOTH, "Host header the client sends and the server demands"),
    Row("path", "PATH", BOTH, "request target of the WebSocket, such as /chat"),
    Row(
        "mask",
        "MODE",
        CLIENT,
        "skip (a zero key, nothing to compute), fixed (one random key a connection), "
        "standard (a new key a frame); default skip",
    ),
    Row(
        "fallback",
        "HOST:PORT",
        SERVER,
        "web server that gets every request that is not for the tunnel",
    ),
    Row("tls", "", BOTH, "encrypt; a client needs sni, a server cert and key or servername"),
    Row("sni", "NAME", CLIENT, "server name asked for, and expected in the certificate"),
    Row("ca", "FILE", CLIENT, "trust the PEM certificates of this file beside the system's"),
    Row("insecure", "", CLIENT, "do not verify the server's certificate"),
    Row("cert", "FILE", SERVER, "certificate (chain) in PEM, or one certificate in DER"),
    Row("key", "FILE", SERVER, "private key in PEM or DER; wins over servername with cert"),
    Row("servername", "NAME", SERVER, "make a self-signed certificate for this name at start"),
    Row("ocsp", "FILE", SERVER, "OCSP response in DER to staple"),
    Row("alpn", "LIST", BOTH, "protocols to offer or accept, such as h2,http/1.1"),
    Row(
        "0rtt",
        "",
        BOTH,
        "send (accept) early data in resumed TLS 1.3 handshakes; early data can be replayed",
    ),
    Row("uot", "", BOTH, "carry UDP datagrams, one stream for each source address"),
    Row("connect-timeout", "SECONDS", BOTH, "give up connecting after this; default 10"),
    Row(
        "handshake-timeout",
        "SECONDS",
        BOTH,
        "give up on TLS and WebSocket handshakes after this; default 10",
    ),
    Row(
        "idle-timeout",
        "SECONDS",
        BOTH,
        "end a connection without traffic after this; default 0 (never), with uot 60",
    ),
    Row(
        "drain-timeout",
        "SECONDS",
        BOTH,
        "how long open connections may go on after a stop signal; default 3",
    ),
    Row(
        "max-connections",
        "NUMBER",
        BOTH,
        "connections (with uot: source addresses) at once; default 16384",
    ),
    Row("workers", "NUMBER", BOTH, "processes that share the listening port; default 1"),
    Row("log", "LEVEL", BOTH, "error, warning, info or debug; default info"),
)
ROWS = {row.key: row for row in TABLE}
LOG_LEVELS = ("error", "warning", "info", "debug")


@dataclass(frozen=True, slots=True)
class WebSocketOptions:
    host: str
    path: str
    mask: MaskMode = MaskMode.SKIP
    fallback: Address | None = None


@dataclass(frozen=True, slots=True)
class TlsOptions:
    alpn: tuple[str, ...] = ()
    early_data: bool = False
    sni: str = ""
    ca: str = ""
    insecure: bool = False
    cert: str = ""
    key: str = ""
    servername: str = ""
    ocsp: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    connect_timeout_s: float = 10.0
    handshake_timeout_s: float = 10.0
    idle_timeout_s: float = 0.0
    """0 means never."""
    drain_timeout_s: float = 3.0
    max_connections: int = 16384


@dataclass(frozen=True, slots=True)
class Options:
    role: Role
    ws: WebSocketOptions | None = None
    tls: TlsOptions | None = None
    uot: bool = False
    limits: Limits = Limits()
    workers: int = 1
    log: str = "info"

    @property
    def layers(self) -> str:
        """The nesting in words, outermost payload first: "uot in ws in tls in tcp"."""
        names = ["uot"] * self.uot + ["ws"] * bool(self.ws) + ["tls"] * bool(self.tls) + ["tcp"]
        return " in ".join(names)


def parse_options(text: str, role: Role) -> tuple[Options, list[str]]:
    """Read an option string; the list holds warnings. Raises UsageError."""
    values: dict[str, str] = {}
    warnings: list[str] = []
    for key, value in _split_pairs(text):
        row = ROWS.get(key)
        if row is None:
            warnings.append(f"option '{key}' is unknown and ignored")
        elif role not in row.roles:
            warnings.append(f"option '{key}' has no effect on the {role.value} and is ignored")
        elif key in values:
            raise UsageError(f"option '{key}' is given twice")
        elif value is None:
            if row.metavar:
                raise UsageError(f"option '{key}' has no value", f"write {key}={row.metavar}")
            values[key] = ""
        elif not row.metavar:
            raise UsageError(f"option '{key}' takes no value", f"write just {key}")
        else:
            values[key] = value
    options = _build_options(values, role)
    warnings.extend(_layer_warnings(values))
    return options, warnings


def escape_value(value: str) -> str:
    """Write a value so that parse_options reads it back unchanged."""
    return value.replace("\\", "\\\\").replace(";", "\\;").replace("=", "\\=")


def _split_pairs(text: str) -> Iterator[tuple[str, str | None]]:
    key, current, escaped = None, "", False
    for character in text:
        if escaped:
            current += character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == ";":
            yield from _pair(key, current)
            key, current = None, ""
        elif character == "=" and key is None:
            key, current = current, ""
        else:
            current += character
    if escaped:
        raise UsageError(
            "the options end in a lone backslash", "write \\\\ for a backslash in a value"
        )
    yield from _pair(key, current)


def _pair(key: str | None, current: str) -> Iterator[tuple[str, str | None]]:
    if key is not None:
        yield key.strip(), current
    elif current.strip():
        yield current.strip(), None


def _build_options(values: dict[str, str], role: Role) -> Options:
    uot = "uot" in values
    idle_default = 60.0 if uot else 0.0
    limits = Limits(
        connect_timeout_s=_seconds(values, "connect-timeout", 10.0, minimum=0.001),
        handshake_timeout_s=_seconds(values, "handshake-timeout", 10.0, minimum=0.001),
        idle_timeout_s=_seconds(values, "idle-timeout", idle_default),
        drain_timeout_s=_seconds(values, "drain-timeout", 3.0),
        max_connections=_number(values, "max-connections", 16384, 1_000_000),
    )
    log = values.get("log", "info")
    if log not in LOG_LEVELS:
        raise UsageError(f"option 'log' is '{log}'", f"one of {', '.join(LOG_LEVELS)}")
    return Options(
        role=role,
        ws=_build_ws(values) if "ws" in values else None,
        tls=_build_tls(values, role) if "tls" in values else None,
        uot=uot,
        limits=limits,
        workers=_number(values, "workers", 1, 256),
        log=log,
    )


def _build_ws(values: dict[str, str]) -> WebSocketOptions:
    host = _required(values, "host", "ws")
    path = _required(values, "path", "ws")
    for key, value in (("host", host), ("path", path)):
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise UsageError(
                f"option '{key}' holds a character that cannot stand in a request",
                "percent-encode it",
            )
    if not path.startswith("/"):
        raise UsageError(f"option 'path' is '{path}'", "a path starts with /")
    mask = values.get("mask", "")
    mode = MaskMode(mask) if mask in {mode.value for mode in MaskMode} else MaskMode.SKIP
    fallback = values.get("fallback")
    address = parse_address(fallback, "option 'fallback'") if fallback else None
    return WebSocketOptions(host, path, mode, address)


def _build_tls(values: dict[str, str], role: Role) -> TlsOptions:
    alpn = tuple(name.strip() for name in values.get("alpn", "").split(",") if name.strip())
    if any(not name.isascii() or len(name) > 255 for name in alpn):
        raise UsageError("option 'alpn' holds a name that is not 1 to 255 ASCII characters")
    early_data = "0rtt" in values
    if role is Role.CLIENT:
        return TlsOptions(
            alpn=alpn,
            early_data=early_data,
            sni=_required(values, "sni", "tls"),
            ca=values.get("ca", ""),
            insecure="insecure" in values,
        )
    cert, key = values.get("cert", ""), values.get("key", "")
    if bool(cert) != bool(key):
        missing, given = ("key", "cert") if cert else ("cert", "key")
        raise UsageError(f"option '{given}' is given without '{missing}'")
    if not cert and not values.get("servername"):
        raise UsageError(
            "option 'tls' needs a certificate",
            "give cert=FILE and key=FILE, or servername=NAME for a self-signed one",
        )
    return TlsOptions(
        alpn=alpn,
        early_data=early_data,
        cert=cert,
        key=key,
        servername="" if cert else values["servername"],
        ocsp=values.get("ocsp", ""),
    )


NEEDS = {
    "ws": ("host", "path", "mask", "fallback"),
    "tls": ("sni", "ca", "insecure", "cert", "key", "servername", "ocsp", "alpn", "0rtt"),
}


def _layer_warnings(values: dict[str, str]) -> Iterator[str]:
    for layer, keys in NEEDS.items():
        if layer not in values:
            for key in keys:
                if key in values:
                    yield f"option '{key}' has no effect without '{layer}'"
    mask = values.get("mask")
    if mask is not None and mask not in {mode.value for mode in MaskMode}:
        yield f"option 'mask' is '{mask}', which means skip"
    if values.get("cert") and values.get("servername"):
        yield "option 'servername' has no effect beside cert and key"


def _required(values: dict[str, str], key: str, layer: str) -> str:
    value = values.get(key, "")
    if not value:
        raise UsageError(f"option '{layer}' needs '{key}'", f"add {key}={ROWS[key].metavar}")
    return value


def _seconds(values: dict[str, str], key: str, default: float, minimum: float = 0.0) -> float:
    text = values.get(key)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not minimum <= seconds <= 1e6:
        raise UsageError(f"option '{key}' is '{text}'", "a number of seconds is wanted")
    return seconds


def _number(values: dict[str, str], key: str, default: int, maximum: int) -> int:
    text = values.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= maximum):
        raise UsageError(f"option '{key}' is '{text}'", f"a number from 1 to {maximum} is wanted")
    return int(text)
