# SPDX-License-Identifier: GPL-2.0-only
"""Keys, certificates and OCSP responses for the tests, made with cryptography."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    certificate: x509.Certificate
    key: Any

    def write(
        self, folder: Path, stem: str, der: bool = False, key_format: str = "PKCS8"
    ) -> tuple[Path, Path]:
        encoding = serialization.Encoding.DER if der else serialization.Encoding.PEM
        certificate, key = folder / f"{stem}.crt", folder / f"{stem}.key"
        certificate.write_bytes(self.certificate.public_bytes(encoding))
        key.write_bytes(
            self.key.private_bytes(
                encoding,
                getattr(serialization.PrivateFormat, key_format),
                serialization.NoEncryption(),
            )
        )
        return certificate, key


def new_key(kind: str = "ECDSA") -> Any:
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def _issue(
    name: str, key: Any, issuer: Issued | None, authority: bool, days: int
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 30 * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    signer = issuer.key if issuer else key
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm)


def make_authority(name: str = "authority.example") -> Issued:
    key = new_key()
    return Issued(_issue(name, key, None, authority=True, days=30), key)


def make_certificate(
    authority: Issued, name: str = "tunnel.example", kind: str = "ECDSA", days: int = 30
) -> Issued:
    key = new_key(kind)
    return Issued(_issue(name, key, authority, authority=False, days=days), key)


def make_ocsp_response(authority: Issued, issued: Issued) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    response = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=issued.certificate,
            issuer=authority.certificate,
            algorithm=hashes.SHA256(),
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=now - DAY,
            next_update=now + DAY,
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, authority.certificate)
        .sign(authority.key, hashes.SHA256())
    )
    return response.public_bytes(serialization.Encoding.DER)
