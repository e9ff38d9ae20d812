# SPDX-License-Identifier: GPL-2.0-only
"""The opening handshake, byte for byte, and what waits for it."""

from __future__ import annotations

import pytest

from kaminari.answers import encode_answer
from kaminari.codec import TlsCodec
from kaminari.errors import HandshakeFault
from kaminari.frames import FrameReader
from kaminari.handshake import ClientHandshake, ServerHandshake, accept_token
from kaminari.options import TlsOptions
from kaminari.tls_context import make_client_factory, make_server_factory
from tests.kaminari.rig import WS, Rig, free_port, receive

NONCE = b"the sample nonce"
REQUEST = (
    b"GET /chat HTTP/1.1\r\nhost: server.example\r\nupgrade: websocket\r\n"
    b"connection: upgrade\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"sec-websocket-version: 13\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def client() -> ClientHandshake:
    return ClientHandshake("server.example", "/chat", NONCE)


def test_the_request_has_its_headers_in_one_order_and_in_lower_case() -> None:
    assert client().request == REQUEST


def test_the_token_of_the_rfc_is_computed() -> None:
    assert accept_token(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("size", [1, 2, 50, 10000])
def test_both_sides_agree_however_the_bytes_are_cut(size: int) -> None:
    server, ours = ServerHandshake("server.example", "/chat"), client()
    wire = REQUEST + b"frames"
    done = [server.feed(wire[start : start + size]) for start in range(0, len(REQUEST), size)]
    assert done[-1]
    assert not any(done[:-1])
    assert server.response == RESPONSE
    wire = RESPONSE + b"frames"
    done = [ours.feed(wire[start : start + size]) for start in range(0, len(RESPONSE), size)]
    assert done[-1]
    assert b"frames".startswith(server.rest)
    assert b"frames".startswith(ours.rest)
    assert size < 10000 or ours.rest == server.rest == b"frames"


def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    assert client().feed(interim + interim + RESPONSE)
    ours = client()
    assert not ours.feed(interim)
    assert ours.feed(RESPONSE)


@pytest.mark.parametrize(
    "header", [b"sec-websocket-extensions: permessage-deflate", b"sec-websocket-protocol: chat"]
)
def test_what_was_not_offered_is_refused(header: bytes) -> None:
    answer = RESPONSE.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n\r\n")
    with pytest.raises(HandshakeFault, match="not offered"):
        client().feed(answer)


@pytest.mark.parametrize("status", [400, 404, 405, 408, 426, 431, 502])
def test_an_answer_is_whole_and_ends_the_connection(status: int) -> None:
    head, _, body = encode_answer(status).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"close" in head
    assert b"content-length: %d" % len(body) in head


def test_a_client_sends_nothing_before_the_answer_and_zero_masks_after_it(rig: Rig) -> None:
    """There are servers that lose what comes glued to the request."""
    service, entry = rig.listen(), free_port()
    options = WS.replace("tunnel.example", "server.example")
    rig.client(f"127.0.0.1:{entry}", f"127.0.0.1:{service.getsockname()[1]}", options)
    application = rig.connect(entry)
    application.sendall(b"eager")
    peer = rig.accept(service)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(peer, 1)
    peer.settimeout(0.3)
    with pytest.raises(TimeoutError):
        peer.recv(1)
    peer.settimeout(30)
    key = head.partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
    answer = RESPONSE.replace(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", accept_token(key))
    peer.sendall(answer + b"\x82\x03new")
    assert receive(peer, 11) == b"\x82\x85\x00\x00\x00\x00eager"
    assert receive(application, 3) == b"new"


def test_an_answer_to_early_data_may_end_before_the_handshake_does() -> None:
    """The end is held back until it can be sent; the wire must not end without it."""
    server_factory = make_server_factory(TlsOptions(servername="a.example", early_data=True))
    client_factory = make_client_factory(
        TlsOptions(sni="a.example", insecure=True, early_data=True)
    )
    for attempt in range(2):
        near, far = client_factory.make_engine(), server_factory.make_engine()
        near.start(b"request")
        far.start()
        server = TlsCodec(far)
        requests = b"".join(server.decode(memoryview(near.take_outgoing())))
        if attempt == 0:
            assert requests == b""
            near.receive(far.take_outgoing())
            near.send(near.unsent_early())
            requests = b"".join(server.decode(memoryview(near.take_outgoing())))
        assert requests == b"request"
        to_client = b"".join(server.encode([b"answer"]))
        to_client += b"".join(server.encode_end())
        assert server.ends_wire is (attempt == 0)
        assert b"".join(near.receive(to_client)) == b"answer"
        assert near.ended is (attempt == 0)
        assert near.unsent_early() == b""
        server.decode(memoryview(near.take_outgoing()))
        near.receive(b"".join(server.take_replies()))
        assert near.ended
        assert server.ends_wire


def test_frames_behind_the_answer_are_not_lost() -> None:
    ours = client()
    assert ours.feed(RESPONSE + b"\x82\x02hi")
    assert b"".join(FrameReader(masked=False).feed(ours.rest)) == b"hi"
