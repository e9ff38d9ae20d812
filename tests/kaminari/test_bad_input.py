# SPDX-License-Identifier: GPL-2.0-only
"""Strangers, attackers and accidents: each gets its answer, and nobody else notices."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import pytest

from kaminari.frames import Opcode, encode_header
from tests.kaminari.peers import EchoService, assert_echoes
from tests.kaminari.rig import (
    TLS_CLIENT,
    TLS_SERVER,
    WS,
    Rig,
    free_port,
    read_until_reset,
    receive,
    reset,
    wait_for,
)

GOOD = (
    b"GET /chat HTTP/1.1\r\nHost: tunnel.example\r\nUpgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
ACCEPT = b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"  # RFC 6455 section 1.3


class Server:
    """kaminaris with WebSocket before an echo service, and one client that has to be unharmed."""

    def __init__(self, rig: Rig, more: str = "") -> None:
        self.rig = rig
        self.echo = EchoService(rig)
        self.port = free_port()
        self.process = rig.server(
            f"127.0.0.1:{self.port}", f"127.0.0.1:{self.echo.port}", WS + more, log="debug"
        )
        self.bystander = self.open()

    def open(self, glued: bytes = b"") -> socket.socket:
        """A connection past its handshake."""
        sock = self.rig.connect(self.port)
        sock.sendall(GOOD + glued)
        head = read_head(sock)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert ACCEPT in head
        return sock

    def assert_unharmed(self) -> None:
        self.bystander.sendall(frame(b"still here"))
        assert receive(self.bystander, 12) == b"\x82\x0astill here"


def read_head(sock: socket.socket) -> bytes:
    """Up to the empty line and no further, so that frames behind it stay unread."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)
        assert piece, head
        head += piece
    return head


def read_all(sock: socket.socket) -> bytes:
    received = b""
    while piece := sock.recv(65536):
        received += piece
    return received


def frame(payload: bytes, opcode: int = Opcode.BINARY) -> bytes:
    return encode_header(opcode, len(payload), bytes(4)) + payload


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (GOOD.replace(b"/chat", b"/other"), 404),
        (GOOD.replace(b"/chat", b"/chat?x=1"), 404),
        (GOOD.replace(b"tunnel.example", b"other.example"), 404),
        (GOOD.replace(b"tunnel.example", b"tunnel.example.org"), 404),
        (GOOD.replace(b"GET", b"POST"), 405),
        (GOOD.replace(b"Upgrade: websocket\r\n", b""), 426),
        (GOOD.replace(b"websocket", b"h2c"), 426),
        (GOOD.replace(b"keep-alive, Upgrade", b"keep-alive"), 426),
        (GOOD.replace(b"Version: 13", b"Version: 8"), 426),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), 426),
        (GOOD.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ="), 400),
        (GOOD.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"not base64!"), 400),
        (GOOD.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"), 400),
        (GOOD.replace(b"Host: tunnel.example\r\n", b""), 400),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(128, 192)) + b"\r\n\r\n",
            400,
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
        (b"GET /chat HTTP/1.1\r\nHost: a\r\n b: c\r\n\x00: d\r\n\r\n", 400),
        (GOOD.replace(b"\r\n\r\n", b"\r\nX: " + b"a" * 20000 + b"\r\n\r\n"), 431),
        (b"GET /" + b"a" * 100000, 431),
    ],
)
def test_a_wrong_request_gets_its_status_and_a_close(
    rig: Rig, request_bytes: bytes, status: int
) -> None:
    server = Server(rig)
    sock = rig.connect(server.port)
    sock.sendall(request_bytes)
    answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in head
    assert (b"upgrade: websocket" in head) is (status == 426)
    assert f"answered {status}" in server.process.wait_for_line("answered")
    server.assert_unharmed()


@pytest.mark.parametrize(
    "request_bytes",
    [
        GOOD,
        GOOD.replace(b"keep-alive, Upgrade", b"upgrade"),
        GOOD.replace(b"Host: tunnel.example", b"HOST:  Tunnel.Example:8443"),
        GOOD.replace(b"websocket", b"WebSocket"),
        GOOD.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 7, 100000])
def test_a_right_request_works_in_any_pieces_and_with_frames_glued_to_it(
    rig: Rig, request_bytes: bytes, pieces: int
) -> None:
    server = Server(rig)
    sock = rig.connect(server.port)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire = request_bytes + frame(b"glued")
    for start in range(0, len(wire), pieces):
        sock.sendall(wire[start : start + pieces])
    assert ACCEPT in read_head(sock)
    echoed = b""
    while len(echoed) < 5:  # what came in pieces may go back in as many frames
        opcode, length = receive(sock, 2)
        assert opcode == 0x82
        echoed += receive(sock, length)
    assert echoed == b"glued"
    server.assert_unharmed()


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (b"\xc2\x80" + bytes(4), 1002),
        (b"\x83\x80" + bytes(4), 1002),
        (b"\x82\x01x", 1002),
        (b"\x81\x81" + bytes(4) + b"x", 1003),
        (b"\x82\xff" + b"\xff" * 8 + bytes(4), 1002),
        (b"\x89\xfe\x00\x7e" + bytes(4), 1002),
    ],
)
def test_a_bad_frame_ends_its_connection_with_a_close_frame(
    rig: Rig, wire: bytes, code: int
) -> None:
    server = Server(rig)
    sock = server.open()
    sock.sendall(wire)
    assert read_all(sock) == b"\x88\x02" + struct.pack("!H", code)
    server.process.wait_for_line("near side: ")
    server.assert_unharmed()


def test_a_frame_of_any_announced_length_costs_no_memory(rig: Rig) -> None:
    server = Server(rig)
    before = server.process.resident_bytes()
    for _ in range(20):
        sock = server.open()
        sock.sendall(b"\x82\xff\x7f" + b"\xff" * 7 + bytes(4) + b"begin")
        assert receive(sock, 7) == b"\x82\x05begin"
    assert server.process.resident_bytes() - before < 8 << 20
    server.assert_unharmed()


def test_a_peer_that_pings_and_never_reads_costs_no_memory(rig: Rig) -> None:
    server = Server(rig)
    before = server.process.resident_bytes()
    sock = server.open()
    sock.settimeout(0.5)
    flood = frame(b"p" * 125, Opcode.PING) * 500
    for _ in range(300):
        try:
            sock.sendall(flood)
        except TimeoutError:
            break
    assert server.process.resident_bytes() - before < 8 << 20
    server.assert_unharmed()


def test_a_ping_is_answered_and_a_close_is_returned(rig: Rig) -> None:
    server = Server(rig)
    sock = server.open(glued=frame(b"glued ping", Opcode.PING))
    sock.sendall(frame(b"x"))
    assert receive(sock, 12 + 3) in (b"\x8a\x0aglued ping\x82\x01x", b"\x82\x01x\x8a\x0aglued ping")
    sock.sendall(frame(struct.pack("!H", 1001), Opcode.CLOSE))
    assert read_all(sock) == b"\x88\x02\x03\xe9"


def test_a_truncated_frame_resets_the_service(rig: Rig) -> None:
    service, port = rig.listen(), free_port()
    rig.server(f"127.0.0.1:{port}", f"127.0.0.1:{service.getsockname()[1]}", WS)
    sock = rig.connect(port)
    sock.sendall(GOOD + b"\x82\xe4" + bytes(4) + b"only a part")
    far = rig.accept(service)
    assert receive(far, 11) == b"only a part"
    sock.shutdown(socket.SHUT_WR)
    assert read_until_reset(far) == b""


@pytest.mark.parametrize("begin", [b"", b"GET /chat HTTP/1.1\r\n", GOOD[:-2]])
def test_a_handshake_that_does_not_end_is_ended(rig: Rig, begin: bytes) -> None:
    server = Server(rig, ";handshake-timeout=0.4")
    sock = rig.connect(server.port)
    if begin:
        sock.sendall(begin)
        assert read_all(sock).startswith(b"HTTP/1.1 408 ")
    else:
        assert read_until_reset(sock) == b""
    server.assert_unharmed()


def test_a_slow_loris_is_ended_though_it_never_pauses_long(rig: Rig) -> None:
    server = Server(rig, ";handshake-timeout=0.6")
    sock = rig.connect(server.port)
    sent = iter(range(100000))

    def ended() -> bool:
        try:
            sock.sendall(b"x" if next(sent) else b"GET /chat HTTP/1.1\r\nX: ")
            sock.setblocking(False)
            return sock.recv(100, socket.MSG_PEEK).startswith(b"HTTP/1.1 408")
        except BlockingIOError:
            return False
        finally:
            sock.settimeout(30)

    wait_for(ended, "answer 408", 10)
    server.assert_unharmed()


@pytest.mark.parametrize("garbage", [os.urandom(300), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
def test_garbage_on_a_tls_port_is_one_line_in_the_log(rig: Rig, garbage: bytes) -> None:
    echo, port = EchoService(rig), free_port()
    process = rig.server(f"127.0.0.1:{port}", f"127.0.0.1:{echo.port}", TLS_SERVER)
    entry = free_port()
    rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{port}", TLS_CLIENT)
    bystander = rig.connect(entry)
    bystander.sendall(b"a")
    assert bystander.recv(1) == b"a"
    sock = rig.connect(port)
    sock.sendall(garbage)
    with contextlib.suppress(OSError):  # it may have hung up by now
        sock.shutdown(socket.SHUT_WR)
    process.wait_for_line("connection 2 from")
    assert len(process.lines) == 2, process.log
    bystander.sendall(b"b")
    assert bystander.recv(1) == b"b"


def test_a_tls_stream_that_is_cut_off_resets_the_service(rig: Rig) -> None:
    """Without a close_notify an attacker could have cut it (RFC 8446 section 6.1)."""
    service, middle, cutter = rig.listen(), free_port(), rig.listen()
    rig.server(f"127.0.0.1:{middle}", f"127.0.0.1:{service.getsockname()[1]}", TLS_SERVER)
    entry = free_port()
    rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{cutter.getsockname()[1]}", TLS_CLIENT)
    near = rig.connect(entry)
    inner, outer = rig.accept(cutter), rig.connect(middle)
    near.sendall(b"part of it")
    far = None
    for sock in (inner, outer):
        sock.settimeout(0.05)
    service.settimeout(0.05)
    for _ in range(100):  # pass the handshake on by hand, until the service is reached
        for source, sink in ((inner, outer), (outer, inner)):
            try:
                sink.sendall(source.recv(65536))
            except TimeoutError:
                continue
        try:
            far = far or rig.accept(service)
        except TimeoutError:
            continue
        break
    assert far is not None
    received = b""
    far.settimeout(0.05)
    while len(received) < 10:
        try:
            received += far.recv(100)
        except TimeoutError:
            try:
                outer.sendall(inner.recv(65536))
            except TimeoutError:
                continue
    outer.shutdown(socket.SHUT_WR)
    far.settimeout(30)
    assert received + read_until_reset(far) == b"part of it"


def test_a_wrong_request_goes_to_the_fallback_and_the_stranger_sees_a_website(rig: Rig) -> None:
    web = rig.listen()
    server = Server(rig, f";fallback=127.0.0.1:{web.getsockname()[1]}")
    stranger = rig.connect(server.port)
    request = b"GET / HTTP/1.1\r\nHost: tunnel.example\r\n\r\n"
    stranger.sendall(request)
    behind = rig.accept(web)
    assert receive(behind, len(request)) == request
    behind.sendall(b"HTTP/1.1 200 OK\r\n\r\na website")
    assert stranger.recv(100).endswith(b"a website")
    stranger.sendall(b"and more of it")
    assert behind.recv(100) == b"and more of it"
    reset(behind)
    assert read_until_reset(stranger) == b""
    server.assert_unharmed()


def test_over_tls_a_stranger_sees_the_website_too(rig: Rig) -> None:
    web = EchoService(rig)
    port, entry = free_port(), free_port()
    options = f"{WS};{TLS_SERVER};fallback=127.0.0.1:{web.port}"
    rig.server(f"127.0.0.1:{port}", "127.0.0.1:1", options)
    rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{port}", TLS_CLIENT)
    assert_echoes(rig.connect(entry), b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")


def test_a_fallback_that_is_away_is_a_bad_gateway(rig: Rig) -> None:
    server = Server(rig, f";fallback=127.0.0.1:{free_port()}")
    stranger = rig.connect(server.port)
    stranger.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert read_all(stranger).startswith(b"HTTP/1.1 502 ")
    server.assert_unharmed()


@pytest.mark.parametrize("layers", ["", WS, TLS_CLIENT])
def test_an_unreachable_server_resets_the_application_and_is_named(rig: Rig, layers: str) -> None:
    entry, nowhere = free_port(), free_port()
    client = rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{nowhere}", layers)
    sock = rig.connect(entry)
    assert read_until_reset(sock) == b""
    line = client.wait_for_line("cannot be reached")
    assert f"127.0.0.1:{nowhere} cannot be reached: connection refused" in line
    assert client.popen.poll() is None


def test_an_unreachable_service_resets_the_tunnel_and_so_the_application(rig: Rig) -> None:
    entry, middle, nowhere = free_port(), free_port(), free_port()
    server = rig.server(f"127.0.0.1:{middle}", f"127.0.0.1:{nowhere}", WS)
    rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{middle}", WS)
    assert read_until_reset(rig.connect(entry)) == b""
    server.wait_for_line(f"127.0.0.1:{nowhere} cannot be reached: connection refused")


def test_a_name_without_an_address_is_named_and_the_next_connection_tries_again(rig: Rig) -> None:
    entry = free_port()
    client = rig.client(f"127.0.0.1:{entry}", "no-such-host.invalid:80", "")
    for number in (1, 2):
        assert read_until_reset(rig.connect(entry)) == b""
        assert "no-such-host.invalid has no address" in client.wait_for_line("has no", number)


def test_a_server_that_never_answers_the_handshake_is_given_up(rig: Rig) -> None:
    silent, entry = rig.listen(), free_port()
    client = rig.client(
        f"127.0.0.1:{entry}", f"127.0.0.1:{silent.getsockname()[1]}", f"{WS};handshake-timeout=0.3"
    )
    assert read_until_reset(rig.connect(entry)) == b""
    client.wait_for_line("no handshake in 0.3 s")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "HTTP status 403"),
        (
            b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-accept: AAAA\r\n\r\n",
            "does not fit the key",
        ),
        (
            b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
            "upgrades to something else",
        ),
        (b"nonsense\r\n\r\n", "is not HTTP"),
        (b"", "closed before it answered"),
        (b"HTTP/1.1 101 " + b"a" * 100000, "is not HTTP"),
    ],
)
def test_a_wrong_answer_to_the_handshake_is_named(rig: Rig, answer: bytes, words: str) -> None:
    service, entry = rig.listen(), free_port()
    client = rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{service.getsockname()[1]}", WS)
    application = rig.connect(entry)
    peer = rig.accept(service)
    read_head(peer)
    # it hangs up as soon as it has seen what is wrong
    with contextlib.suppress(OSError):
        peer.sendall(answer)
        peer.shutdown(socket.SHUT_WR)
    assert words in client.wait_for_line("connection 1")
    assert read_until_reset(application) == b""
