# SPDX-License-Identifier: GPL-2.0-only
"""With the real programs of the field at the other end, or in between."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import queue
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kaminari.bulk import BLOCK, Side, assert_equal_hashes, exchange
from tests.kaminari.certificates import make_authority, make_certificate
from tests.kaminari.peers import (
    EchoService,
    assert_echoes,
    find_peer,
    start_peer,
    wait_for_port,
    write_plugin,
)
from tests.kaminari.rig import TLS_CLIENT, TLS_SERVER, WS, Rig, free_port, receive, wait_for

MIB = 1 << 20
PLUGIN_LAYERS = {
    "ws": (WS, WS),
    "tls": (TLS_CLIENT, TLS_SERVER),
    "wss": (f"{WS};{TLS_CLIENT}", f"{WS};{TLS_SERVER}"),
}


def write_certificate(folder: Path) -> tuple[Path, Path]:
    return make_certificate(make_authority()).write(folder, "server")


def socks_connect(rig: Rig, proxy: int, port: int) -> socket.socket:
    """A connection to 127.0.0.1:port through a SOCKS5 proxy (RFC 1928)."""
    sock = rig.connect(proxy)
    sock.sendall(b"\x05\x01\x00")
    assert receive(sock, 2) == b"\x05\x00"
    sock.sendall(b"\x05\x01\x00\x01" + socket.inet_aton("127.0.0.1") + struct.pack("!H", port))
    assert receive(sock, 10)[:2] == b"\x05\x00"
    return sock


@pytest.mark.parametrize("layers", PLUGIN_LAYERS)
def test_shadowsocks_works_with_both_commands_as_plugins(
    rig: Rig, tmp_path: Path, layers: str
) -> None:
    echo = EchoService(rig)
    entry, middle = free_port(), free_port()
    client, server = PLUGIN_LAYERS[layers]
    common = ["-s", "127.0.0.1", "-p", str(middle), "-k", "secret", "-m", "aes-256-gcm"]
    ss_server = start_peer(
        rig,
        "ss-server",
        *common,
        "--plugin",
        write_plugin(tmp_path, "server", sys.executable),
        "--plugin-opts",
        server,
    )
    wait_for_port(ss_server, middle)
    ss_local = start_peer(
        rig,
        "ss-local",
        *common,
        "-l",
        str(entry),
        "--plugin",
        write_plugin(tmp_path, "client", sys.executable),
        "--plugin-opts",
        client,
    )
    wait_for_port(ss_local, entry)
    ss_local.wait_for_line("kaminaric: info: listening on")
    for _ in range(3):
        assert_echoes(socks_connect(rig, entry, echo.port), BLOCK, half_close=False)
    plugins = [plugin_of(process.popen.pid) for process in (ss_server, ss_local)]
    ss_local.popen.kill()
    ss_server.popen.kill()
    for pid in plugins:  # they end with their parents, even when those cannot tell them
        wait_until_gone(pid)


def plugin_of(parent: int) -> int:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def wait_until_gone(pid: int) -> None:
    def gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_for(gone, f"end of process {pid}")


USER = "b831381d-6324-4d53-ad4f-8cda48b30811"


def v2ray_stream(ws: bool, tls: bool, files: tuple[Path, Path] | None) -> dict[str, Any]:
    settings: dict[str, Any] = {"network": "ws" if ws else "tcp"}
    if ws:
        settings["wsSettings"] = {"path": "/chat", "headers": {"Host": "tunnel.example"}}
    if tls:
        settings["security"] = "tls"
        settings["tlsSettings"] = {"serverName": "tunnel.example", "allowInsecure": True}
        if files:
            settings["tlsSettings"] = {
                "certificates": [{"certificateFile": str(files[0]), "keyFile": str(files[1])}]
            }
    return settings


def start_v2ray(rig: Rig, folder: Path, name: str, inbound: Any, outbound: Any, port: int) -> None:
    config = {
        "log": {"loglevel": "warning"},
        "inbounds": [{"listen": "127.0.0.1", "port": port, **inbound}],
        "outbounds": [outbound],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    assets = {"V2RAY_LOCATION_ASSET": str(folder)}
    wait_for_port(start_peer(rig, "v2ray", "-config", str(path), **assets), port)


def start_v2ray_client(
    rig: Rig, folder: Path, entry: int, server: int, target: int, stream: dict[str, Any]
) -> None:
    inbound = {
        "protocol": "dokodemo-door",
        "settings": {"address": "127.0.0.1", "port": target, "network": "tcp"},
    }
    user = {"id": USER, "alterId": 0, "security": "aes-128-gcm"}
    outbound = {
        "protocol": "vmess",
        "settings": {"vnext": [{"address": "127.0.0.1", "port": server, "users": [user]}]},
        "streamSettings": stream,
    }
    start_v2ray(rig, folder, "client", inbound, outbound, entry)


def start_v2ray_server(rig: Rig, folder: Path, port: int, stream: dict[str, Any]) -> None:
    inbound = {
        "protocol": "vmess",
        "settings": {"clients": [{"id": USER, "alterId": 0}]},
        "streamSettings": stream,
    }
    start_v2ray(rig, folder, "server", inbound, {"protocol": "freedom"}, port)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_a_v2ray_client_works_with_our_server(rig: Rig, tmp_path: Path, tls: bool) -> None:
    find_peer("v2ray")
    echo = EchoService(rig)
    entry, middle, inner = free_port(), free_port(), free_port()
    start_v2ray_server(rig, tmp_path, inner, v2ray_stream(False, False, None))
    options = PLUGIN_LAYERS["wss" if tls else "ws"][1]
    rig.server(f"127.0.0.1:{middle}", f"127.0.0.1:{inner}", options)
    start_v2ray_client(rig, tmp_path, entry, middle, echo.port, v2ray_stream(True, tls, None))
    for _ in range(3):
        assert_echoes(rig.connect(entry), BLOCK)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("mask", ["skip", "standard"])
def test_a_v2ray_server_works_with_our_client(
    rig: Rig, tmp_path: Path, tls: bool, mask: str
) -> None:
    find_peer("v2ray")
    echo = EchoService(rig)
    entry, near, middle = free_port(), free_port(), free_port()
    files = write_certificate(tmp_path)
    start_v2ray_server(rig, tmp_path, middle, v2ray_stream(True, tls, files))
    options = PLUGIN_LAYERS["wss" if tls else "ws"][0] + f";mask={mask}"
    rig.client(f"127.0.0.1:{near}", f"127.0.0.1:{middle}", options)
    start_v2ray_client(rig, tmp_path, entry, near, echo.port, v2ray_stream(False, False, None))
    for _ in range(3):
        assert_echoes(rig.connect(entry), BLOCK)


NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 128; }}
http {{
    access_log off;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{
        listen 127.0.0.1:{port} {tls};
        location /chat {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
        }}
        location / {{ return 200 "a website\\n"; }}
    }}
}}
"""
NGINX_TLS = (
    "ssl; ssl_certificate {0}; ssl_certificate_key {1}; ssl_early_data on; "
    "ssl_protocols TLSv1.2 TLSv1.3"
)

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout tunnel 60s
frontend in
    bind 127.0.0.1:{port} {tls}
    default_backend out
backend out
    server kaminaris 127.0.0.1:{upstream}
"""


def start_nginx(rig: Rig, folder: Path, port: int, upstream: int, tls: bool) -> None:
    words = NGINX_TLS.format(*write_certificate(folder)) if tls else ""
    text = NGINX.format(folder=folder, port=port, upstream=upstream, tls=words)
    (folder / "nginx.conf").write_text(text)
    nginx = start_peer(
        rig, "nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")
    )
    wait_for_port(nginx, port)


def start_haproxy(rig: Rig, folder: Path, port: int, upstream: int, tls: bool) -> None:
    words = ""
    if tls:
        certificate, key = write_certificate(folder)
        (folder / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
        words = f"ssl crt {folder}/both.pem"
    (folder / "haproxy.cfg").write_text(HAPROXY.format(port=port, upstream=upstream, tls=words))
    haproxy = start_peer(rig, "haproxy", "-db", "-f", str(folder / "haproxy.cfg"))
    wait_for_port(haproxy, port)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
@pytest.mark.parametrize("mask", ["skip", "standard"])
def test_a_reverse_proxy_between_the_two_ends_passes_both_directions_and_half_closes(
    rig: Rig, tmp_path: Path, proxy: str, tls: bool, mask: str
) -> None:
    service = rig.listen()
    entry, front, back = free_port(), free_port(), free_port()
    rig.server(f"127.0.0.1:{back}", f"127.0.0.1:{service.getsockname()[1]}", WS)
    {"nginx": start_nginx, "haproxy": start_haproxy}[proxy](rig, tmp_path, front, back, tls)
    options = f"{WS};mask={mask}" + (f";{TLS_CLIENT}" if tls else "")
    rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{front}", options)
    near = Side(rig.connect(entry), 4 * MIB)
    far = Side(rig.accept(service), 8 * MIB)
    exchange(near, far)
    assert_equal_hashes(near, far)
    near_socket = rig.connect(entry)
    near_socket.sendall(b"request")
    far_socket = rig.accept(service)
    near_socket.shutdown(socket.SHUT_WR)
    assert receive(far_socket, 100) == b"request"
    far_socket.sendall(b"answer")
    far_socket.close()
    assert receive(near_socket, 100) == b"answer"


def test_nginx_takes_early_data_of_our_client(rig: Rig, tmp_path: Path) -> None:
    echo = EchoService(rig)
    entry, front, back = free_port(), free_port(), free_port()
    rig.server(f"127.0.0.1:{back}", f"127.0.0.1:{echo.port}", WS)
    start_nginx(rig, tmp_path, front, back, tls=True)
    options = f"{WS};{TLS_CLIENT};0rtt"
    client = rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{front}", options, log="debug")
    for number in range(1, 4):
        assert_echoes(rig.connect(entry), BLOCK[:1000])
        client.wait_for_line("closed (", number)
    assert "with early data" not in client.wait_for_line(": open", 1)
    assert "with early data" in client.wait_for_line(": open", 2)
    assert "with early data" in client.wait_for_line(": open", 3)


STUNNEL = """
foreground = yes
debug = warning
pid =
[tunnel]
client = {client}
accept = 127.0.0.1:{accept}
connect = 127.0.0.1:{connect}
{more}
"""


def start_stunnel(rig: Rig, folder: Path, accept: int, connect: int, more: str = "") -> None:
    client = "no" if more else "yes"
    text = STUNNEL.format(client=client, accept=accept, connect=connect, more=more)
    (folder / "stunnel.conf").write_text(text)
    wait_for_port(start_peer(rig, "stunnel4", str(folder / "stunnel.conf")), accept)


def test_stunnel_as_client_works_with_our_server(rig: Rig, tmp_path: Path) -> None:
    echo = EchoService(rig)
    entry, middle = free_port(), free_port()
    rig.server(f"127.0.0.1:{middle}", f"127.0.0.1:{echo.port}", TLS_SERVER)
    start_stunnel(rig, tmp_path, entry, middle)
    for _ in range(2):
        assert_echoes(rig.connect(entry), BLOCK)


def test_stunnel_as_server_works_with_our_client(rig: Rig, tmp_path: Path) -> None:
    echo = EchoService(rig)
    entry, middle = free_port(), free_port()
    certificate, key = write_certificate(tmp_path)
    start_stunnel(rig, tmp_path, middle, echo.port, f"cert = {certificate}\nkey = {key}")
    rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{middle}", TLS_CLIENT)
    for _ in range(2):
        assert_echoes(rig.connect(entry), BLOCK)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_curl_gets_proper_answers(rig: Rig, scheme: str) -> None:
    echo = EchoService(rig)
    middle = free_port()
    options = f"{WS};{TLS_SERVER}" if scheme == "https" else WS
    rig.server(f"127.0.0.1:{middle}", f"127.0.0.1:{echo.port}", options)
    to = f"tunnel.example:{middle}:127.0.0.1"

    def status(path: str, *more: str) -> str:
        curl = start_peer(
            rig,
            "curl",
            "--silent",
            "--show-error",
            "--insecure",
            "--http1.1",
            "--max-time",
            "20",
            "--resolve",
            to,
            "--include",
            *more,
            f"{scheme}://tunnel.example:{middle}{path}",
        )
        assert curl.wait() == 0, curl.log
        return curl.lines[0].split()[1]

    assert status("/chat") == "426"
    assert status("/") == "404"
    assert status("/chat", "--request", "POST", "--data", "x") == "405"
    assert status("/chat", "--header", "Host: other.example") == "404"
    assert status("/" + "a" * 20000) == "431"


PAGE = """<!doctype html><script>
const report = (text) => fetch("/report", {method: "POST", body: text});
const socket = new WebSocket("%s");
socket.binaryType = "arraybuffer";
const sent = new Uint8Array(200000).map((_, index) => index * 7);
let received = [];
socket.onopen = () => socket.send(sent);
socket.onmessage = (event) => {
    received.push(...new Uint8Array(event.data));
    if (received.length === sent.length) {
        socket.onclose = (closed) => report(
            (received.every((byte, index) => byte === sent[index]) ? "equal" : "different")
            + " " + closed.code + " " + closed.wasClean);
        socket.close(1000);
    }
};
socket.onclose = (closed) => report("closed early " + closed.code);
</script>"""


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_browser_opens_a_websocket_and_gets_an_echo(
    rig: Rig, tmp_path: Path, scheme: str
) -> None:
    find_peer("chromium-headless-shell")
    echo = EchoService(rig)
    middle = free_port()
    options = "ws;host=localhost;path=/chat"
    options += ";tls;servername=localhost" if scheme == "wss" else ""
    rig.server(f"127.0.0.1:{middle}", f"127.0.0.1:{echo.port}", options)
    page = PAGE % f"{scheme}://localhost:{middle}/chat"
    with serve_page(page) as (port, reports):
        start_peer(
            rig,
            "chromium-headless-shell",
            "--no-sandbox",
            "--disable-gpu",
            "--ignore-certificate-errors",
            f"--user-data-dir={tmp_path}",
            "--remote-debugging-port=0",
            "--no-proxy-server",
            "--host-resolver-rules=MAP localhost 127.0.0.1",
            f"http://127.0.0.1:{port}/",
            HOME=str(tmp_path),
        )
        assert reports.get(timeout=60) == "equal 1000 true"


@contextlib.contextmanager
def serve_page(page: str) -> Iterator[tuple[int, queue.Queue[str]]]:
    """A web server with one page, and what that page posts."""
    reports: queue.Queue[str] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(page.encode())

        def do_POST(self) -> None:
            reports.put(self.rfile.read(int(self.headers["content-length"])).decode())
            self.answer(b"")

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.server_port, reports
        server.shutdown()
        thread.join()


def test_the_folder_of_peers_is_complete_where_it_is_required() -> None:
    missing = []
    for name in (
        "ss-local",
        "ss-server",
        "v2ray",
        "nginx",
        "haproxy",
        "stunnel4",
        "curl",
        "chromium-headless-shell",
        "openssl",
    ):
        try:
            find_peer(name)
        except pytest.skip.Exception:
            missing.append(name)
    if missing and not os.environ.get("CI"):
        pytest.skip(f"missing: {', '.join(missing)}; run tests/peers/fetch.sh")
    assert not missing
