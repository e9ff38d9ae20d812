# SPDX-License-Identifier: GPL-2.0-only
"""The TLS settings of each role, and the engines made from them.

The ssl module serves every option but two: early data and OCSP stapling are not in it, so with
`0rtt` or `ocsp` the engine that binds libssl itself takes its place.
"""

from __future__ import annotations

import os
import ssl
from typing import Protocol

from kaminari.certificate import load_credentials, memory_file, read_file
from kaminari.errors import UsageError
from kaminari.options import TlsOptions
from kaminari.tls_engine import SslEngine, TlsEngine


class EngineFactory(Protocol):
    def make_engine(self) -> TlsEngine: ...
    def reload(self) -> None:
        """Read the files again for connections to come. Raises UsageError, changing nothing."""


def make_client_factory(options: TlsOptions) -> EngineFactory:
    """Raises UsageError."""
    if options.early_data:
        from kaminari.libssl_engine import LibsslClientFactory

        return LibsslClientFactory(options)
    return SslClientFactory(options)


def make_server_factory(options: TlsOptions) -> EngineFactory:
    """Raises UsageError."""
    if options.early_data or options.ocsp:
        from kaminari.libssl_engine import LibsslServerFactory

        return LibsslServerFactory(options)
    return SslServerFactory(options)


class SslClientFactory:
    def __init__(self, options: TlsOptions) -> None:
        self._options = options
        self._session: ssl.SSLSession | None = None
        self.reload()

    def make_engine(self) -> SslEngine:
        return SslEngine(self._context, False, self._options.sni, self._session, self._save_session)

    def reload(self) -> None:
        options = self._options
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if options.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            _load_roots(context)
            if options.ca:
                text = read_file(options.ca, "ca")
                try:
                    context.load_verify_locations(cadata=text.decode("ascii"))
                except (ssl.SSLError, UnicodeDecodeError, ValueError):
                    raise UsageError(
                        f"option 'ca': {options.ca} holds no PEM certificate"
                    ) from None
        if options.alpn:
            context.set_alpn_protocols(list(options.alpn))
        self._context = context
        self._session = None  # a session belongs to the context it came from

    def _save_session(self, session: ssl.SSLSession) -> None:
        self._session = session


class SslServerFactory:
    def __init__(self, options: TlsOptions) -> None:
        self._options = options
        self.reload()

    def make_engine(self) -> SslEngine:
        return SslEngine(self._context, True)

    def reload(self) -> None:
        credentials = load_credentials(self._options)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        try:
            with (
                memory_file(credentials.certificate_pem) as certificate,
                memory_file(credentials.key_pem) as key,
            ):
                context.load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            why = (
                "do not fit together"
                if error.reason == "KEY_VALUES_MISMATCH"
                else ("cannot be used: " + (error.reason or str(error)).lower().replace("_", " "))
            )
            raise UsageError(f"{credentials.source} {why}") from None
        if self._options.alpn:
            context.set_alpn_protocols(list(self._options.alpn))
        self._context = context


def default_roots() -> tuple[str | None, str | None]:
    """(file, folder) of the system's trusted roots; certifi's file where there are none."""
    paths = ssl.get_default_verify_paths()
    folder = paths.capath if paths.capath and any(os.scandir(paths.capath)) else None
    if paths.cafile or folder:
        return paths.cafile, folder
    try:
        import certifi
    except ImportError:
        return None, None
    return certifi.where(), None


def _load_roots(context: ssl.SSLContext) -> None:
    file, folder = default_roots()
    if file or folder:
        context.load_verify_locations(cafile=file, capath=folder)
