# SPDX-License-Identifier: GPL-2.0-only
"""The HTTP answers a stranger gets who does not ask for the tunnel (RFC 9110 section 15)."""

from __future__ import annotations

from http import HTTPStatus


def encode_answer(status: int) -> bytes:
    """A whole response that ends the connection; the body names the status and nothing else."""
    known = HTTPStatus(status) if status in set(HTTPStatus) else HTTPStatus.BAD_REQUEST
    body = f"{known.value} {known.phrase}\n".encode("ascii")
    extra = ""
    if known is HTTPStatus.UPGRADE_REQUIRED:
        # RFC 9110 section 15.5.22 and RFC 6455 section 4.4
        extra = "upgrade: websocket\r\nsec-websocket-version: 13\r\n"
    elif known is HTTPStatus.METHOD_NOT_ALLOWED:
        extra = "allow: GET\r\n"
    connection = "upgrade, close" if known is HTTPStatus.UPGRADE_REQUIRED else "close"
    head = (
        f"HTTP/1.1 {known.value} {known.phrase}\r\n{extra}connection: {connection}\r\n"
        f"content-type: text/plain\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body
