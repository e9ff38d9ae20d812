# SPDX-License-Identifier: GPL-2.0-only
"""Who is compared: plain UDP, the project, and any program given by a command line for each side.

Placeholders in a command line, from the point of view of its side:
  {dev} {address} {peer}   its interface, its own address, the other side's
  {uaddress} {upeer}       the same, in brackets when IPv6
  {port}                   the port of the service, the only one that is disguised
  {loopback} {uloopback}   127.0.0.1 or ::1
  {lport} {aport}          of a relay: where the client's program sends, where the server's listens
  {folder}                 an empty folder of its own
"""

import shlex
import string
from collections.abc import Mapping
from dataclasses import dataclass

PORT = 5300
RELAY_CLIENT_PORT = 5301
RELAY_SERVER_PORT = 5302

PLAIN = "plain"
OURS = "mimicd"


class ArmError(Exception):
    """An arm was described wrongly; says which and how."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to get datagrams across."""

    name: str
    server: str = ""
    """Command line of the side that waits; "" = nothing runs there."""
    client: str = ""
    is_relay: bool = False
    """Programs talk to the relay on loopback, not to the other host."""
    on_wire: str = "tcp"
    """What the wire has to show before anything is measured: "tcp" or "udp"."""

    def command(self, side: str, values: Mapping[str, str]) -> list[str]:
        """The argument list for "server" or "client"; empty when nothing runs there."""
        line = self.server if side == "server" else self.client
        return [word.format_map(values) for word in shlex.split(line)]

    def target(self, server_address: str, loopback: str) -> tuple[str, int]:
        """Where the client's program sends to."""
        return (loopback, RELAY_CLIENT_PORT) if self.is_relay else (server_address, PORT)

    def listener(self, server_address: str, loopback: str) -> tuple[str, int]:
        """Where the server's program listens."""
        return (loopback, RELAY_SERVER_PORT) if self.is_relay else (server_address, PORT)


def values_for(dev: str, address: str, peer: str, family: int, folder: str) -> dict[str, str]:
    """What the placeholders stand for on one side."""
    loopback = "127.0.0.1" if family == 4 else "::1"

    def bracketed(text: str) -> str:
        return text if family == 4 else f"[{text}]"

    return {
        "dev": dev,
        "address": address,
        "peer": peer,
        "uaddress": bracketed(address),
        "upeer": bracketed(peer),
        "port": str(PORT),
        "loopback": loopback,
        "uloopback": bracketed(loopback),
        "lport": str(RELAY_CLIENT_PORT),
        "aport": str(RELAY_SERVER_PORT),
        "folder": folder,
    }


PLACEHOLDERS = frozenset(values_for("", "", "", 4, ""))


def plain() -> Arm:
    """The same datagrams with nothing in between: what everything is compared with."""
    return Arm(PLAIN, on_wire="udp")


def ours(program: str, options: str = "") -> Arm:
    """This project; `options` come on top at both ends."""
    start = f"{shlex.quote(program)} run {options}"
    return Arm(
        OURS,
        server=f"{start} -f local={{uaddress}}:{{port}} {{dev}}",
        client=f"{start} -f remote={{upeer}}:{{port}} {{dev}}",
    )


def other(name: str, server: str, client: str, is_relay: bool) -> Arm:
    """Any other program. Raises ArmError for a bad name, quoting or placeholder."""
    if not name.replace("-", "").replace("_", "").isalnum() or name in (PLAIN, OURS):
        raise ArmError(f"{name!r} is no name for an arm: letters, digits, - and _, not {OURS}")
    for line in (server, client):
        check_line(name, line)
    return Arm(name, server, client, is_relay)


def check_line(name: str, line: str) -> None:
    """Raises ArmError for words of a command line that cannot be used."""
    try:
        shlex.split(line)
        fields = {field for _, field, _, _ in string.Formatter().parse(line) if field is not None}
    except ValueError as exc:
        raise ArmError(f"{name}: {line!r} is no command line: {exc}") from None
    if unknown := fields - PLACEHOLDERS:
        known = " ".join(sorted(PLACEHOLDERS))
        raise ArmError(f"{name}: {{{min(unknown)}}} is no placeholder; there are {known}")
