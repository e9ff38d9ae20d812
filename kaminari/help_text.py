# SPDX-License-Identifier: GPL-2.0-only
"""What --help prints: a manual page in short, its options from the table that parses them."""

from __future__ import annotations

import textwrap

from kaminari.options import ROWS, TABLE, Role

WIDTH = 79
INDENT = " " * 7

PURPOSE = {
    Role.CLIENT: "accept connections and carry them through a tunnel to kaminaris",
    Role.SERVER: "accept tunnels of kaminaric and connect them to a service",
}
DESCRIPTION = {
    Role.CLIENT: "Listens on LOCAL. Each connection (with uot: each UDP source address) is carried "
    "to REMOTE, where kaminaris listens, inside the layers that OPTIONS name.",
    Role.SERVER: "Listens on LOCAL for tunnels with the layers that OPTIONS name, and connects "
    "what comes out of each to REMOTE.",
}
NOTES = (
    "OPTIONS is one string: ';' separates, the first '=' assigns, and a backslash keeps ';', '=' "
    "and backslash in a value. The layers nest in one order: uot in ws in tls in tcp. An empty "
    "string relays plain TCP.",
    "Started by shadowsocks as a plugin (SIP003), the command takes no arguments: it reads "
    "SS_LOCAL_HOST, SS_LOCAL_PORT, SS_REMOTE_HOST, SS_REMOTE_PORT and SS_PLUGIN_OPTIONS, and ends "
    "when shadowsocks does.",
)
SIGNALS = (
    "SIGTERM, SIGINT: accept nothing more, give open connections drain-timeout, end; a second "
    "signal ends at once. SIGHUP: read certificate, key and OCSP files again; open connections go "
    "on."
)
EXIT = "0 stopped by a signal; 1 failed, as when the port is in use; 2 bad usage or options."
EXAMPLES = {
    Role.CLIENT: (
        "kaminaric 127.0.0.1:1080 server.example:443 'ws;host=server.example;path=/chat;"
        "tls;sni=server.example'",
        "kaminaric 127.0.0.1:51820 server.example:443 'uot;tls;sni=server.example'",
    ),
    Role.SERVER: (
        "kaminaris 0.0.0.0:443 127.0.0.1:1080 'ws;host=server.example;path=/chat;"
        "tls;cert=fullchain.pem;key=privkey.pem;fallback=127.0.0.1:80'",
        "kaminaris 0.0.0.0:443 127.0.0.1:51820 'uot;tls;servername=server.example'",
    ),
}


def usage_text(name: str) -> str:
    return f"usage: {name} LOCAL REMOTE OPTIONS; see {name} --help"


def help_text(role: Role, name: str) -> str:
    sections = [
        ("NAME", [f"{name} - {PURPOSE[role]}"]),
        ("SYNOPSIS", [f"{name} LOCAL REMOTE OPTIONS", f"{name} --help | --version"]),
        ("DESCRIPTION", [DESCRIPTION[role], *NOTES]),
        ("OPTIONS", _describe_options(role)),
        ("SIGNALS", [SIGNALS]),
        ("EXIT STATUS", [EXIT]),
    ]
    blocks = [f"{title}\n{_wrap(paragraphs)}" for title, paragraphs in sections]
    examples = "\n".join(INDENT + example for example in EXAMPLES[role])
    return "\n\n".join([*blocks, f"EXAMPLES\n{examples}"])


def _wrap(paragraphs: list[str]) -> str:
    wrapped = [
        textwrap.fill(
            paragraph,
            WIDTH,
            initial_indent=INDENT,
            subsequent_indent=INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )
        if "\n" not in paragraph
        else paragraph
        for paragraph in paragraphs
    ]
    return "\n\n".join(wrapped)


def _describe_options(role: Role) -> list[str]:
    described = []
    for row in TABLE:
        if role in row.roles:
            head = f"{row.key}={row.metavar}" if row.metavar else ROWS[row.key].key
            body = textwrap.fill(
                row.help, WIDTH, initial_indent=INDENT * 2, subsequent_indent=INDENT * 2
            )
            described.append(f"{INDENT}{head}\n{body}")
    return ["\n".join(described)]
