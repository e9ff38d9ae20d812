# SPDX-License-Identifier: GPL-2.0-only
"""TLS without I/O by libssl itself: early data (RFC 8446 section 2.3) and stapled OCSP responses.

Early data a server takes can be replayed by whoever recorded it. libssl lets a session be used
for it once only and keeps those sessions in memory, so a replay would have to reach another
process (a worker, or this one restarted), which does not know the session and refuses the data.
"""

from __future__ import annotations

import ctypes
import enum
from collections import deque
from ctypes import c_size_t, c_uint, c_void_p
from functools import cache
from typing import Any

from kaminari import libssl
from kaminari.address import is_numeric
from kaminari.certificate import load_credentials, memory_file, read_file
from kaminari.errors import TlsFault, UsageError
from kaminari.libssl import Library, address_of, pointer_to
from kaminari.mask import Buffer
from kaminari.options import TlsOptions
from kaminari.tls_context import default_roots
from kaminari.tls_engine import RECORD_BYTES

MAX_EARLY_BYTES = 16384
KEPT_SESSIONS = 8
SCRATCH_BYTES = 1 << 18

# Shared by all connections, as in tls_engine: what lies there is used up within one turn.
_plain_bytes = bytearray(SCRATCH_BYTES)
_plain = memoryview(_plain_bytes)
_plain_address = address_of(_plain_bytes)


@cache
def library() -> Library:
    return Library()


class Phase(enum.Enum):
    EARLY = "early data may come"
    SHAKING = "handshake"
    OPEN = "open"


class Context:
    """An SSL_CTX, with the callbacks that have to live as long as it does."""

    def __init__(self, server: bool) -> None:
        self.lib = library()
        self.pointer = self.lib.new_context(server)
        self.callbacks: list[Any] = []

    def __del__(self) -> None:
        # Each connection holds the context, so this runs when the last one is gone.
        if getattr(self, "pointer", 0):
            self.lib.SSL_CTX_free(self.pointer)

    def fail(self, subject: str) -> UsageError:
        return UsageError(f"{subject} cannot be used: {self.lib.reason()}")


class LibsslEngine:
    def __init__(self, context: Context, phase: Phase, server: bool, session: int = 0) -> None:
        """`session` is an SSL_SESSION to resume; the engine takes it over."""
        self._context = context
        self._lib = lib = context.lib
        self._ssl: int = lib.SSL_new(context.pointer)
        self._incoming: int = lib.BIO_new(lib.BIO_s_mem())
        self._outgoing: int = lib.BIO_new(lib.BIO_s_mem())
        lib.SSL_set_bio(self._ssl, self._incoming, self._outgoing)
        (lib.SSL_set_accept_state if server else lib.SSL_set_connect_state)(self._ssl)
        self._phase = phase
        self._closing = False
        self._early = b""
        self._count = c_size_t()
        self.established = False
        self.ended = False
        self.close_deferred = False
        self.early_limit_bytes = 0
        if session:
            if lib.SSL_set_session(self._ssl, session):
                limit = lib.SSL_SESSION_get_max_early_data(session)
                self.early_limit_bytes = min(MAX_EARLY_BYTES, limit)
            lib.SSL_SESSION_free(session)

    def __del__(self) -> None:
        if ssl := getattr(self, "_ssl", 0):
            if self.established:
                # Otherwise libssl would forget the session as one of a broken connection.
                self._lib.SSL_set_shutdown(ssl, libssl.SENT_SHUTDOWN | libssl.RECEIVED_SHUTDOWN)
            self._lib.SSL_free(ssl)

    def expect_host(self, name: str, verify: bool) -> None:
        """Client: ask for `name`, and unless told otherwise hold the certificate to it."""
        lib, encoded = self._lib, name.encode("idna" if not name.isascii() else "ascii")
        numeric = is_numeric(name)
        if not numeric:
            lib.set_server_name(self._ssl, encoded)
        if not verify:
            return
        if numeric:
            lib.X509_VERIFY_PARAM_set1_ip_asc(lib.SSL_get0_param(self._ssl), encoded)
        else:
            lib.SSL_set1_host(self._ssl, encoded)

    def start(self, early: bytes = b"") -> None:
        self._early = early
        if early and self.early_limit_bytes:
            self._early_written(early[: self.early_limit_bytes])
        if self._phase is Phase.SHAKING:
            self._shake_hands()

    def receive(self, data: Buffer) -> list[Buffer]:
        if len(data):
            self._lib.BIO_write(self._incoming, pointer_to(data), len(data))
        payload: list[Buffer] = []
        if self._phase is Phase.EARLY:
            self._read_early(payload)
        if self._phase is Phase.SHAKING:
            self._shake_hands()
        if self._phase is Phase.OPEN:
            self._read(payload)
            if self.close_deferred:
                self.close_write()
        return payload

    def send(self, data: Buffer) -> None:
        view = memoryview(data)
        if not view:
            return
        if self._phase is not Phase.OPEN:  # a server's answer to early data
            self._early_written(bytes(view))
            return
        if self._lib.SSL_write(self._ssl, pointer_to(view), len(view)) != len(view):
            raise TlsFault(f"TLS failed: {self._lib.reason()}")

    def close_write(self) -> None:
        # A server that has answered early data may be through before the handshake is.
        self.close_deferred = self._phase is not Phase.OPEN and self.established
        if not self._closing and self._phase is Phase.OPEN:
            self._closing = True
            self._lib.SSL_shutdown(self._ssl)
            self._lib.ERR_clear_error()

    def take_outgoing(self) -> bytes:
        count = self._lib.BIO_ctrl_pending(self._outgoing)
        if not count:
            return b""
        if count <= SCRATCH_BYTES:
            self._lib.BIO_read(self._outgoing, _wire_address, count)
            return bytes(_wire[:count])
        wire = bytearray(count)
        self._lib.BIO_read(self._outgoing, pointer_to(wire), count)
        return bytes(wire)

    def unsent_early(self) -> bytes:
        early, self._early = self._early, b""
        accepted = self._lib.SSL_get_early_data_status(self._ssl) == libssl.EARLY_DATA_ACCEPTED
        return early[self.early_limit_bytes :] if accepted else early

    def describe(self) -> str:
        lib, ssl = self._lib, self._ssl
        parts = [lib.SSL_get_version(ssl).decode()]
        cipher = lib.SSL_get_current_cipher(ssl)
        if cipher:
            parts.append(lib.SSL_CIPHER_get_name(cipher).decode())
        name, length = c_void_p(), c_uint()
        lib.SSL_get0_alpn_selected(ssl, ctypes.byref(name), ctypes.byref(length))
        if name.value:
            parts.append("alpn " + ctypes.string_at(name.value, length.value).decode("latin-1"))
        if lib.SSL_session_reused(ssl):
            parts.append("resumed")
        if lib.SSL_get_early_data_status(ssl) == libssl.EARLY_DATA_ACCEPTED:
            parts.append("with early data")
        return " ".join(parts)

    def _early_written(self, data: bytes) -> None:
        count = ctypes.byref(self._count)
        if not self._lib.SSL_write_early_data(self._ssl, data, len(data), count):
            raise TlsFault(f"TLS failed: {self._lib.reason()}")

    def _read_early(self, payload: list[Buffer]) -> None:
        lib = self._lib
        while True:
            outcome = lib.SSL_read_early_data(
                self._ssl, _plain_address, RECORD_BYTES, ctypes.byref(self._count)
            )
            if outcome == libssl.READ_EARLY_DATA_SUCCESS:
                payload.append(bytes(_plain[: self._count.value]))
                self.established = True
            elif outcome == libssl.READ_EARLY_DATA_FINISH:
                self._phase = Phase.SHAKING
                return
            else:
                self._want_more(outcome)
                return

    def _shake_hands(self) -> None:
        outcome = self._lib.SSL_do_handshake(self._ssl)
        if outcome == 1:
            self._phase = Phase.OPEN
            self.established = True
        else:
            self._want_more(outcome)

    def _read(self, payload: list[Buffer]) -> None:
        lib, ssl = self._lib, self._ssl
        read, pending, waiting = lib.SSL_read, lib.SSL_pending, lib.BIO_ctrl_pending
        start = position = 0
        while waiting(self._incoming) or pending(ssl):
            if SCRATCH_BYTES - position < RECORD_BYTES:
                payload.append(bytes(_plain[start:position]))
                start = position = 0
            count = read(ssl, _plain_address + position, RECORD_BYTES)
            if count <= 0:
                if not self.ended:
                    self._want_more(count)
                break
            position += count
        if position > start:
            payload.append(_plain[start:position])

    def _want_more(self, outcome: int) -> None:
        """Tell apart what a call that did not succeed wants; bytes missing are no fault."""
        error = self._lib.SSL_get_error(self._ssl, outcome)
        if error in (libssl.ERROR_WANT_READ, libssl.ERROR_WANT_WRITE):
            return
        if error == libssl.ERROR_ZERO_RETURN:
            self.ended = True
            return
        verified = self._lib.SSL_get_verify_result(self._ssl)
        reason = self._lib.reason()
        if reason == "certificate verify failed" and verified != libssl.X509_V_OK:
            why = self._lib.X509_verify_cert_error_string(verified).decode()
            raise TlsFault(f"the server's certificate is refused: {why}")
        raise TlsFault(f"TLS failed: {reason}")


_wire_bytes = bytearray(SCRATCH_BYTES)
_wire = memoryview(_wire_bytes)
_wire_address = address_of(_wire_bytes)


class LibsslClientFactory:
    def __init__(self, options: TlsOptions) -> None:
        self._options = options
        self._sessions: deque[int] = deque()
        self.reload()

    def make_engine(self) -> LibsslEngine:
        session = 0
        while self._sessions and not session:
            # Newest first, each once: a ticket for early data works no second time.
            session = self._sessions.pop()
            if not self._context.lib.SSL_SESSION_is_resumable(session):
                self._context.lib.SSL_SESSION_free(session)
                session = 0
        engine = LibsslEngine(self._context, Phase.SHAKING, server=False, session=session)
        engine.expect_host(self._options.sni, verify=not self._options.insecure)
        return engine

    def reload(self) -> None:
        options = self._options
        context = Context(server=False)
        lib, pointer = context.lib, context.pointer
        if not options.insecure:
            lib.SSL_CTX_set_verify(pointer, libssl.VERIFY_PEER, None)
            file, folder = default_roots()
            if file or folder:
                lib.SSL_CTX_load_verify_locations(
                    pointer, file.encode() if file else None, folder.encode() if folder else None
                )
            if options.ca:
                read_file(options.ca, "ca")
                if not lib.SSL_CTX_load_verify_locations(pointer, options.ca.encode(), None):
                    lib.ERR_clear_error()
                    raise UsageError(f"option 'ca': {options.ca} holds no PEM certificate")
        if options.alpn:
            wire = _encode_alpn(options.alpn)
            lib.SSL_CTX_set_alpn_protos(pointer, wire, len(wire))
        lib.set_session_cache_mode(
            pointer, libssl.SESS_CACHE_CLIENT | libssl.SESS_CACHE_NO_INTERNAL
        )
        callback = libssl.SESSION_CALLBACK(self._keep_session)
        context.callbacks.append(callback)
        lib.SSL_CTX_sess_set_new_cb(pointer, callback)
        while self._sessions:
            lib.SSL_SESSION_free(self._sessions.pop())
        self._context = context

    def _keep_session(self, ssl: int, session: int) -> int:
        self._sessions.append(session)
        if len(self._sessions) > KEPT_SESSIONS:
            self._context.lib.SSL_SESSION_free(self._sessions.popleft())
        return 1  # the reference is ours now


class LibsslServerFactory:
    def __init__(self, options: TlsOptions) -> None:
        self._options = options
        self.reload()

    def make_engine(self) -> LibsslEngine:
        phase = Phase.EARLY if self._options.early_data else Phase.SHAKING
        return LibsslEngine(self._context, phase, server=True)

    def reload(self) -> None:
        options = self._options
        credentials = load_credentials(options)
        context = Context(server=True)
        lib, pointer = context.lib, context.pointer
        with (
            memory_file(credentials.certificate_pem) as certificate,
            memory_file(credentials.key_pem) as key,
        ):
            if not lib.SSL_CTX_use_certificate_chain_file(pointer, certificate.encode()):
                raise context.fail(credentials.source)
            if not lib.SSL_CTX_use_PrivateKey_file(
                pointer, key.encode(), libssl.FILETYPE_PEM
            ) or not lib.SSL_CTX_check_private_key(pointer):
                reason = lib.reason()
                if reason == "key values mismatch":
                    raise UsageError(f"{credentials.source} do not fit together")
                raise UsageError(f"{credentials.source} cannot be used: {reason}")
        if options.early_data:
            lib.SSL_CTX_set_max_early_data(pointer, MAX_EARLY_BYTES)
            lib.SSL_CTX_set_recv_max_early_data(pointer, MAX_EARLY_BYTES)
        if options.alpn:
            _accept_alpn(context, _encode_alpn(options.alpn))
        if credentials.ocsp_der:
            _staple(context, credentials.ocsp_der)
        self._context = context


def _encode_alpn(names: tuple[str, ...]) -> bytes:
    """Length-prefixed names, RFC 7301 section 3.1."""
    return b"".join(bytes((len(name),)) + name.encode("ascii") for name in names)


def _accept_alpn(context: Context, protocols: bytes) -> None:
    def select(
        ssl: int, out: Any, out_length: Any, offered: int, length: int, argument: int
    ) -> int:
        chosen = context_lib.SSL_select_next_proto(
            out, out_length, protocols, len(protocols), offered, length
        )
        ok = chosen == libssl.NPN_NEGOTIATED
        return libssl.TLSEXT_ERR_OK if ok else libssl.TLSEXT_ERR_NOACK

    context_lib = context.lib
    callback = libssl.ALPN_CALLBACK(select)
    context.callbacks.append(callback)
    context.lib.SSL_CTX_set_alpn_select_cb(context.pointer, callback, None)


def _staple(context: Context, response: bytes) -> None:
    def staple(ssl: int, argument: int) -> int:
        stapled = lib.set_ocsp_response(ssl, response)
        return libssl.TLSEXT_ERR_OK if stapled else libssl.TLSEXT_ERR_NOACK

    lib = context.lib
    callback = libssl.STATUS_CALLBACK(staple)
    context.callbacks.append(callback)
    lib.set_status_callback(context.pointer, callback)
