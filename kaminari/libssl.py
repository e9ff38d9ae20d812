# SPDX-License-Identifier: GPL-2.0-only
"""The system's libssl 3, bound by ctypes: only what Python's ssl module lacks is reason to use it.

One table declares every function with its types, as <openssl/ssl.h> does; nothing else in the
package touches ctypes. Pointers are plain integers; 0 is NULL.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_char_p,
    c_int,
    c_long,
    c_size_t,
    c_ubyte,
    c_uint,
    c_uint32,
    c_uint64,
    c_ulong,
    c_void_p,
)
from typing import Any

from kaminari.errors import UsageError

# <openssl/ssl.h>, <openssl/tls1.h>, <openssl/bio.h>
FILETYPE_PEM = 1
ERROR_SSL, ERROR_WANT_READ, ERROR_WANT_WRITE, ERROR_SYSCALL, ERROR_ZERO_RETURN = 1, 2, 3, 5, 6
READ_EARLY_DATA_ERROR, READ_EARLY_DATA_SUCCESS, READ_EARLY_DATA_FINISH = 0, 1, 2
EARLY_DATA_ACCEPTED = 2
VERIFY_NONE, VERIFY_PEER = 0, 1
SENT_SHUTDOWN, RECEIVED_SHUTDOWN = 1, 2
SESS_CACHE_CLIENT, SESS_CACHE_NO_INTERNAL = 0x0001, 0x0300
OP_NO_RENEGOTIATION, OP_NO_COMPRESSION = 1 << 30, 1 << 17
MODE_RELEASE_BUFFERS = 0x10
TLS1_2_VERSION = 0x0303
TLSEXT_ERR_OK, TLSEXT_ERR_NOACK = 0, 3
NPN_NEGOTIATED = 1
X509_V_OK = 0
_CTRL_MODE = 33
_CTRL_SET_SESS_CACHE_MODE = 44
_CTRL_SET_TLSEXT_HOSTNAME = 55
_CTRL_SET_TLSEXT_STATUS_REQ_CB = 63
_CTRL_SET_TLSEXT_STATUS_REQ_OCSP_RESP = 71
_CTRL_SET_MIN_PROTO_VERSION = 123

SESSION_CALLBACK = CFUNCTYPE(c_int, c_void_p, c_void_p)
STATUS_CALLBACK = CFUNCTYPE(c_int, c_void_p, c_void_p)
ALPN_CALLBACK = CFUNCTYPE(
    c_int, c_void_p, POINTER(c_void_p), POINTER(c_ubyte), c_void_p, c_uint, c_void_p
)

_P = c_void_p
_SSL_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "TLS_client_method": (_P, ()),
    "TLS_server_method": (_P, ()),
    "SSL_CTX_new": (_P, (_P,)),
    "SSL_CTX_free": (None, (_P,)),
    "SSL_CTX_ctrl": (c_long, (_P, c_int, c_long, _P)),
    "SSL_CTX_callback_ctrl": (c_long, (_P, c_int, STATUS_CALLBACK)),
    "SSL_CTX_set_options": (c_uint64, (_P, c_uint64)),
    "SSL_CTX_use_certificate_chain_file": (c_int, (_P, c_char_p)),
    "SSL_CTX_use_PrivateKey_file": (c_int, (_P, c_char_p, c_int)),
    "SSL_CTX_check_private_key": (c_int, (_P,)),
    "SSL_CTX_set_verify": (None, (_P, c_int, _P)),
    "SSL_CTX_load_verify_locations": (c_int, (_P, c_char_p, c_char_p)),
    "SSL_CTX_set_alpn_protos": (c_int, (_P, c_char_p, c_uint)),
    "SSL_CTX_set_alpn_select_cb": (None, (_P, ALPN_CALLBACK, _P)),
    "SSL_CTX_set_max_early_data": (c_int, (_P, c_uint32)),
    "SSL_CTX_set_recv_max_early_data": (c_int, (_P, c_uint32)),
    "SSL_CTX_sess_set_new_cb": (None, (_P, SESSION_CALLBACK)),
    "SSL_select_next_proto": (
        c_int,
        (POINTER(c_void_p), POINTER(c_ubyte), c_char_p, c_uint, _P, c_uint),
    ),
    "SSL_new": (_P, (_P,)),
    "SSL_free": (None, (_P,)),
    "SSL_ctrl": (c_long, (_P, c_int, c_long, _P)),
    "SSL_set_bio": (None, (_P, _P, _P)),
    "SSL_set_connect_state": (None, (_P,)),
    "SSL_set_accept_state": (None, (_P,)),
    "SSL_do_handshake": (c_int, (_P,)),
    "SSL_read": (c_int, (_P, _P, c_int)),
    "SSL_write": (c_int, (_P, _P, c_int)),
    "SSL_pending": (c_int, (_P,)),
    "SSL_shutdown": (c_int, (_P,)),
    "SSL_set_shutdown": (None, (_P, c_int)),
    "SSL_get_error": (c_int, (_P, c_int)),
    "SSL_read_early_data": (c_int, (_P, _P, c_size_t, POINTER(c_size_t))),
    "SSL_write_early_data": (c_int, (_P, _P, c_size_t, POINTER(c_size_t))),
    "SSL_get_early_data_status": (c_int, (_P,)),
    "SSL_set1_host": (c_int, (_P, c_char_p)),
    "SSL_get0_param": (_P, (_P,)),
    "SSL_get_verify_result": (c_long, (_P,)),
    "SSL_set_session": (c_int, (_P, _P)),
    "SSL_session_reused": (c_int, (_P,)),
    "SSL_SESSION_free": (None, (_P,)),
    "SSL_SESSION_get_max_early_data": (c_uint32, (_P,)),
    "SSL_SESSION_is_resumable": (c_int, (_P,)),
    "SSL_get_version": (c_char_p, (_P,)),
    "SSL_get_current_cipher": (_P, (_P,)),
    "SSL_CIPHER_get_name": (c_char_p, (_P,)),
    "SSL_get0_alpn_selected": (None, (_P, POINTER(c_void_p), POINTER(c_uint))),
}
_CRYPTO_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "BIO_s_mem": (_P, ()),
    "BIO_new": (_P, (_P,)),
    "BIO_read": (c_int, (_P, _P, c_int)),
    "BIO_write": (c_int, (_P, _P, c_int)),
    "BIO_ctrl_pending": (c_size_t, (_P,)),
    "CRYPTO_malloc": (_P, (c_size_t, c_char_p, c_int)),
    "ERR_get_error": (c_ulong, ()),
    "ERR_clear_error": (None, ()),
    "ERR_reason_error_string": (c_char_p, (c_ulong,)),
    "X509_verify_cert_error_string": (c_char_p, (c_long,)),
    "X509_VERIFY_PARAM_set1_ip_asc": (c_int, (_P, c_char_p)),
}


class Library:
    """The functions of the tables above as attributes, and libssl's macros as methods."""

    def __init__(self) -> None:
        try:
            ssl = ctypes.CDLL("libssl.so.3")
            crypto = ctypes.CDLL("libcrypto.so.3")
        except OSError:
            raise UsageError(
                "options '0rtt' and 'ocsp' need OpenSSL 3", "install libssl3, or leave them out"
            ) from None
        for library, functions in ((ssl, _SSL_FUNCTIONS), (crypto, _CRYPTO_FUNCTIONS)):
            for name, (result, arguments) in functions.items():
                function = getattr(library, name)
                function.restype = result
                function.argtypes = arguments
                setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"libssl has no {name} in the table")

    def new_context(self, server: bool) -> int:
        method = self.TLS_server_method() if server else self.TLS_client_method()
        context = int(self.SSL_CTX_new(method))
        self.SSL_CTX_ctrl(context, _CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, None)
        self.SSL_CTX_ctrl(context, _CTRL_MODE, MODE_RELEASE_BUFFERS, None)
        self.SSL_CTX_set_options(context, OP_NO_RENEGOTIATION | OP_NO_COMPRESSION)
        return context

    def set_session_cache_mode(self, context: int, mode: int) -> None:
        self.SSL_CTX_ctrl(context, _CTRL_SET_SESS_CACHE_MODE, mode, None)

    def set_status_callback(self, context: int, callback: Any) -> None:
        self.SSL_CTX_callback_ctrl(context, _CTRL_SET_TLSEXT_STATUS_REQ_CB, callback)

    def set_ocsp_response(self, ssl: int, response: bytes) -> bool:
        """Staple; libssl takes over a copy of the response and frees it."""
        copy = self.CRYPTO_malloc(len(response), b"kaminari", 0)
        if not copy:
            return False
        ctypes.memmove(copy, response, len(response))
        return bool(self.SSL_ctrl(ssl, _CTRL_SET_TLSEXT_STATUS_REQ_OCSP_RESP, len(response), copy))

    def set_server_name(self, ssl: int, name: bytes) -> None:
        self.SSL_ctrl(ssl, _CTRL_SET_TLSEXT_HOSTNAME, 0, ctypes.cast(c_char_p(name), c_void_p))

    def reason(self) -> str:
        """The oldest error of the queue in words; empties the queue."""
        code = self.ERR_get_error()
        self.ERR_clear_error()
        text = self.ERR_reason_error_string(code) if code else None
        return text.decode("ascii", "replace") if text else "unknown error"


def address_of(buffer: bytearray) -> int:
    """Where a buffer lies; it must never be resized afterwards."""
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


def pointer_to(data: bytes | bytearray | memoryview) -> Any:
    """An argument that points at `data` for one call."""
    if isinstance(data, bytes):
        return data
    view = memoryview(data)
    return bytes(view) if view.readonly else (ctypes.c_char * len(view)).from_buffer(view)
