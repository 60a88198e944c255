"""An authority that signs certificates for tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Signed:
    """A certificate and its key, each a file in PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Signs for whoever asks.

    Attributes:
        file: Its own certificate in PEM.
    """

    folder: Path
    name: str = "authority"

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP256R1())

    @cached_property
    def _itself(self) -> x509.Certificate:
        return self._signed(self.name, self._key, days=30, is_authority=True)

    @cached_property
    def file(self) -> Path:
        path = self.folder / f"{self.name}.pem"
        path.write_bytes(self._itself.public_bytes(serialization.Encoding.PEM))
        return path

    def sign(self, name: str = "127.0.0.1", *, days: int = 10, at: Path | None = None) -> Signed:
        """A certificate for a host name or an address; of negative days one that has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = self._signed(name, key, days=days)
        stem = (at.stem if at else f"{self.name}-{name}-{days}").replace(".", "_")
        certificate, key_file = self.folder / f"{stem}.crt", self.folder / f"{stem}.key"
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Signed(certificate, key_file)

    def _signed(
        self, name: str, key: ec.EllipticCurvePrivateKey, *, days: int, is_authority: bool = False
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        known_as: x509.GeneralName
        try:
            known_as = x509.IPAddress(ip_address(name))
        except ValueError:
            known_as = x509.DNSName(name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=40))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if not is_authority:
            builder = builder.add_extension(x509.SubjectAlternativeName([known_as]), critical=False)
        return builder.sign(self._key, hashes.SHA256())
