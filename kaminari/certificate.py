# SPDX-License-Identifier: GPL-2.0-only
"""The server's certificate and key: read from PEM or DER files, or made for a name at start.

Goes out as PEM, which both TLS engines read from an anonymous file in memory.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import ipaddress
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kaminari.errors import UsageError
from kaminari.options import TlsOptions

SELF_SIGNED_DAYS = 3650
_INTEGER, _OCTET_STRING, _SEQUENCE = 0x02, 0x04, 0x30


@dataclass(frozen=True, slots=True)
class Credentials:
    certificate_pem: bytes
    """The server's certificate first, then its chain."""
    key_pem: bytes
    ocsp_der: bytes
    """Empty when there is nothing to staple."""
    source: str
    """What to name in errors."""


def load_credentials(options: TlsOptions) -> Credentials:
    """Read or make what the options name. Raises UsageError."""
    ocsp = read_file(options.ocsp, "ocsp") if options.ocsp else b""
    if not options.cert:
        certificate, key = make_self_signed(options.servername)
        return Credentials(certificate, key, ocsp, f"servername={options.servername}")
    return Credentials(
        _certificate_to_pem(read_file(options.cert, "cert"), options.cert),
        _key_to_pem(read_file(options.key, "key"), options.key),
        ocsp,
        f"cert={options.cert} and key={options.key}",
    )


def read_file(path: str, option: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"option '{option}': {path} cannot be read: {os.strerror(error.errno or 0).lower()}"
        ) from None


@contextlib.contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """A path that holds `content` and never a disk; for libraries that only read files."""
    fd = os.memfd_create("kaminari", os.MFD_CLOEXEC)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{fd}"


def make_self_signed(name: str, days: int = SELF_SIGNED_DAYS) -> tuple[bytes, bytes]:
    """A certificate for `name` (a host name or an address, as CN and SAN) and its P-256 key."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError:
        raise UsageError(
            "option 'servername' needs the Python module cryptography",
            "install python3-cryptography, or give cert=FILE and key=FILE",
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    alternative: x509.GeneralName
    try:
        alternative = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        try:
            alternative = x509.DNSName(name)
        except ValueError:
            raise UsageError(
                f"option 'servername' is '{name}'", "write a name in its ASCII (xn--) form"
            ) from None
    try:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError:
        raise UsageError(
            f"option 'servername' is '{name}'", "a common name has 1 to 64 characters"
        ) from None
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _certificate_to_pem(content: bytes, path: str) -> bytes:
    if b"-----BEGIN" in content:
        return content
    if content[:1] != bytes((_SEQUENCE,)):
        raise UsageError(f"option 'cert': {path} holds neither a PEM nor a DER certificate")
    return ssl.DER_cert_to_PEM_cert(content).encode("ascii")


def _key_to_pem(content: bytes, path: str) -> bytes:
    if b"-----BEGIN" in content:
        if b"ENCRYPTED" in content:
            raise UsageError(
                f"option 'key': {path} is encrypted", "remove the pass phrase: openssl pkey"
            )
        return content
    label = _der_key_label(content)
    if not label:
        raise UsageError(f"option 'key': {path} holds neither a PEM nor a DER private key")
    body = base64.encodebytes(content).decode("ascii")
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode("ascii")


def _der_key_label(content: bytes) -> str:
    """Tell PKCS#8 (RFC 5958), PKCS#1 (RFC 8017), and SEC 1 (RFC 5915) keys apart.

    Each is a SEQUENCE that begins with a version INTEGER; what comes next differs.
    """
    if len(content) < 16 or content[0] != _SEQUENCE:
        return ""
    body = 2 + (content[1] & 0x7F if content[1] & 0x80 else 0)
    if content[body : body + 2] != bytes((_INTEGER, 1)):
        return ""
    labels = {
        _SEQUENCE: "PRIVATE KEY",
        _INTEGER: "RSA PRIVATE KEY",
        _OCTET_STRING: "EC PRIVATE KEY",
    }
    return labels.get(content[body + 3], "")
