# SPDX-License-Identifier: GPL-2.0-only
"""TLS without I/O, by the standard library's ssl module and its memory BIOs.

TlsEngine is what the rest of the tunnel knows of TLS; SslEngine is the one used unless an
option asks for what the ssl module cannot do.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import Protocol

from kaminari.errors import TlsFault
from kaminari.mask import Buffer

RECORD_BYTES = 16384
PLAINTEXT_BYTES = 1 << 18
SESSION_LOOKS = 3

# Decrypted bytes of the connection that is being served; its views are used up before any other
# connection's turn, so one buffer serves them all.
_plaintext = memoryview(bytearray(PLAINTEXT_BYTES))


class TlsEngine(Protocol):
    established: bool
    """Payload can be sent: the handshake is over, or early data has come."""
    ended: bool
    """close_notify came."""
    early_limit_bytes: int
    """How many bytes start may be given now; 0 where early data is not to be had."""

    def start(self, early: bytes = b"") -> None:
        """Begin; a client may give bytes to send as early data if a session allows it."""

    def receive(self, data: Buffer) -> list[Buffer]:
        """Take bytes off the wire; plaintext, valid until the next call. Raises TlsFault."""

    def send(self, data: Buffer) -> None: ...

    close_deferred: bool
    """close_write waits for the end of the handshake, and then does its work by itself."""

    def close_write(self) -> None:
        """Send close_notify; receiving goes on."""

    def take_outgoing(self) -> bytes:
        """What has to go on the wire now."""

    def unsent_early(self) -> bytes:
        """Bytes given to start that the peer has not accepted and that have to be sent again."""

    def describe(self) -> str: ...


class SslEngine:
    __slots__ = (
        "_closing",
        "_early",
        "_incoming",
        "_object",
        "_outgoing",
        "_resumes",
        "_save",
        "_session_looks",
        "close_deferred",
        "early_limit_bytes",
        "ended",
        "established",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        server_side: bool,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
        save_session: Callable[[ssl.SSLSession], None] | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
            session=session,
        )
        self._save = save_session
        self._resumes = session
        self._session_looks = SESSION_LOOKS if save_session else 0
        self._closing = False
        self._early = b""
        self.close_deferred = False
        self.early_limit_bytes = 0
        self.established = False
        self.ended = False

    def start(self, early: bytes = b"") -> None:
        self._early = early
        self._shake_hands()

    def receive(self, data: Buffer) -> list[Buffer]:
        incoming = self._incoming
        incoming.write(data)
        if not self.established and not self._shake_hands():
            return []
        payload: list[Buffer] = []
        start = position = 0
        read = self._object.read
        pending = self._object.pending
        try:
            while incoming.pending or pending():
                if PLAINTEXT_BYTES - position < RECORD_BYTES:
                    payload.append(bytes(_plaintext[start:position]))
                    start = position = 0
                count = read(RECORD_BYTES, _plaintext[position:])
                if not count:
                    self.ended = True
                    break
                position += int(count)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise TlsFault(_explain(error)) from None
        if position > start:
            payload.append(_plaintext[start:position])
        if self._session_looks:
            self._look_for_session()
        return payload

    def _look_for_session(self) -> None:
        """Keep the session that a ticket brought. Each look copies it, so there are few."""
        self._session_looks -= 1
        session = self._object.session
        # Until a new ticket comes, this is the session that was resumed, and used up.
        if session is not None and session.has_ticket and session != self._resumes:
            self._session_looks = 0
            if self._save is not None:
                self._save(session)

    def send(self, data: Buffer) -> None:
        view = memoryview(data)
        write = self._object.write
        position, end = 0, len(view)
        try:
            while position < end:
                position += write(view[position : position + RECORD_BYTES])
        except ssl.SSLError as error:
            raise TlsFault(_explain(error)) from None

    def close_write(self) -> None:
        if self._closing or not self.established:
            return
        self._closing = True
        # "want read" is no failure: the peer's own close_notify is not awaited here
        with contextlib.suppress(ssl.SSLError):
            self._object.unwrap()

    def take_outgoing(self) -> bytes:
        return self._outgoing.read()

    def unsent_early(self) -> bytes:
        early, self._early = self._early, b""
        return early

    def describe(self) -> str:
        cipher = self._object.cipher()
        parts = [self._object.version() or "", cipher[0] if cipher else ""]
        alpn = self._object.selected_alpn_protocol()
        parts += [f"alpn {alpn}"] * bool(alpn) + ["resumed"] * bool(self._object.session_reused)
        return " ".join(parts)

    def _shake_hands(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except (ssl.SSLError, ssl.CertificateError) as error:
            raise TlsFault(_explain(error)) from None
        self.established = True
        return True


def _explain(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    reason = getattr(error, "reason", None)
    return f"TLS failed: {reason.lower().replace('_', ' ')}" if reason else f"TLS failed: {error}"
