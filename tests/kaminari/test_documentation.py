# SPDX-License-Identifier: GPL-2.0-only
"""Every example of docs/kaminari.md is run, with loopback in place of its hosts and ports.

README.md shows some of the same.
"""

from __future__ import annotations

import re
import shlex
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest

from kaminari.options import TABLE
from tests.kaminari.certificates import make_authority, make_certificate
from tests.kaminari.peers import (
    EchoService,
    assert_echoes,
    find_peer,
    start_peer,
    wait_for_port,
    write_plugin,
)
from tests.kaminari.rig import PROJECT, Rig, command, free_port
from tests.kaminari.test_peers import socks_connect

TEXT = (PROJECT / "docs" / "kaminari.md").read_text()
BLOCKS = {
    heading: [line for line in body.splitlines() if line]
    for heading, body in re.findall(r"### ([^\n]+)\n(?:(?!###).)*?```sh\n(.*?)```", TEXT, re.S)
}
TUNNELS = {heading: lines for heading, lines in BLOCKS.items() if lines[0].startswith("kaminaris")}
NGINX = re.findall(r"```nginx\n(.*?)```", TEXT, re.S)[0]


class Adapter:
    """Puts loopback and free ports in place of an example's; the same for the same each time."""

    def __init__(self, folder: Path) -> None:
        authority = make_authority()
        self.roots, _ = authority.write(folder, "roots")
        self.certificate, self.key = make_certificate(authority, "server.example").write(
            folder, "server"
        )
        self._ports: dict[tuple[str, int], int] = {}

    def port(self, side: str, number: int) -> int:
        return self._ports.setdefault((side, number), free_port())

    def address(self, text: str, side: str) -> str:
        number = int(text.rpartition(":")[2])
        return f"127.0.0.1:{self.port(side, number)}"

    def options(self, text: str, client: bool) -> str:
        text = text.replace("fullchain.pem", str(self.certificate))
        text = text.replace("privkey.pem", str(self.key))
        text = re.sub(
            r"fallback=([^;]+)", lambda found: "fallback=" + self.address(found[1], "web"), text
        )
        if client and "tls" in text and "insecure" not in text:
            text += f";ca={self.roots}"
        return text


def start_pair(rig: Rig, lines: list[str], adapter: Adapter) -> tuple[int, int, int]:
    """Run an example's two commands; ports of the service, the application's, the tunnel's."""
    server, client = (shlex.split(line) for line in lines)
    assert (server[0], client[0]) == ("kaminaris", "kaminaric")
    for role, words, ends in (
        ("server", server, ("middle", "service")),
        ("client", client, ("entry", "middle")),
    ):
        addresses = [adapter.address(text, end) for text, end in zip(words[1:3], ends, strict=True)]
        options = adapter.options(words[3], client=role == "client")
        rig.start(command(role, *addresses, options)).wait_for_line("listening on")
    texts = (server[2], "service"), (client[1], "entry"), (client[2], "middle")
    service, entry, front = (
        adapter.port(side, int(text.rpartition(":")[2])) for text, side in texts
    )
    return service, entry, front


@pytest.mark.parametrize("heading", TUNNELS)
def test_an_example_does_what_it_says(rig: Rig, tmp_path: Path, heading: str) -> None:
    adapter = Adapter(tmp_path)
    service, entry, front = start_pair(rig, TUNNELS[heading], adapter)
    if "uot;" in TUNNELS[heading][0]:
        assert_echoes_datagrams(rig, service, entry)
        return
    if "reverse proxy" in heading:
        start_documented_nginx(rig, tmp_path, adapter, front)
    listener = rig.listen(port=service)
    listener.settimeout(None)
    EchoService.serve(listener)
    for _ in range(3):  # the second and third may resume a session
        assert_echoes(rig.connect(entry), b"through the tunnel" * 10000)
    if "website" in heading:
        web = rig.listen(port=adapter.port("web", 8080))
        stranger = rig.connect(front)
        threading.Thread(target=serve_website, args=(web,), daemon=True).start()
        assert "a website" in ask_over_tls(stranger, adapter.roots)


def serve_website(listener: socket.socket) -> None:
    with listener.accept()[0] as sock:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\na website")


def ask_over_tls(sock: socket.socket, roots: Path) -> str:
    context = ssl.create_default_context(cafile=str(roots))
    with context.wrap_socket(sock, server_hostname="server.example") as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nhost: server.example\r\n\r\n")
        received = b""
        while piece := tls.recv(4096):
            received += piece
    return received.decode()


def assert_echoes_datagrams(rig: Rig, service: int, entry: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", service))
        far.settimeout(30)
        near = rig.udp()
        for size in (1, 1280, 1420):
            near.sendto(bytes(size), ("127.0.0.1", entry))
            data, source = far.recvfrom(65536)
            far.sendto(data, source)
            assert near.recv(65536) == bytes(size)


def start_documented_nginx(rig: Rig, folder: Path, adapter: Adapter, port: int) -> None:
    location = NGINX.replace("127.0.0.1:9000", f"127.0.0.1:{adapter.port('middle', 9000)}")
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {adapter.certificate};\n"
        f"ssl_certificate_key {adapter.key};\n{location} }} }}\n"
    )
    arguments = ("-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"))
    wait_for_port(start_peer(rig, "nginx", *arguments), port)


def test_the_example_of_shadowsocks_does_what_it_says(rig: Rig, tmp_path: Path) -> None:
    for name in ("ss-server", "ss-local"):
        find_peer(name)
    adapter = Adapter(tmp_path)
    middle, entry = free_port(), free_port()
    replace = {
        "kaminaris": write_plugin(tmp_path, "server", sys.executable),
        "kaminaric": write_plugin(tmp_path, "client", sys.executable),
        "443": str(middle),
        "1080": str(entry),
        "0.0.0.0": "127.0.0.1",
        "server.example": "127.0.0.1",
    }
    for line, port in zip(BLOCKS["A plugin of shadowsocks"], (middle, entry), strict=True):
        words = [replace.get(word, word) for word in shlex.split(line)]
        words[-1] = adapter.options(words[-1], client=words[0] == "ss-local")
        process = start_peer(rig, *words)
        wait_for_port(process, port)
        process.wait_for_line("info: listening on")
    assert_echoes(socks_connect(rig, entry, EchoService(rig).port), bytes(100000), half_close=False)


def test_every_option_is_in_the_table_with_its_own_words() -> None:
    for row in TABLE:
        end = "both" if len(row.roles) == 2 else row.roles[0].value
        key = f"{row.key}={row.metavar}" if row.metavar else row.key
        assert f"| `{key}` | {end} | {row.help} |" in TEXT


def test_there_is_an_example_for_each_thing_promised() -> None:
    assert len(TUNNELS) == 6
    assert len(BLOCKS) == 7


def test_each_example_of_the_readme_is_one_that_is_run() -> None:
    readme = (PROJECT / "README.md").read_text()
    shown = re.findall(r"^kaminari[cs] .*$", readme, re.M)
    run = {line for lines in TUNNELS.values() for line in lines}
    assert len(shown) >= 6
    assert set(shown) <= run
