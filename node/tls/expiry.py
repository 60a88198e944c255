"""Expiry: how long a certificate is still good."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """When the first certificate of a file ends to be good, and what it is made out to."""

    at: datetime
    subject: str


def expiry_of(path: Path) -> Expiry:
    """The certificate of a chain that ends first.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds no certificate in PEM.
    """
    chain = x509.load_pem_x509_certificates(path.read_bytes())
    first = min(chain, key=lambda each: each.not_valid_after_utc)
    return Expiry(at=first.not_valid_after_utc, subject=first.subject.rfc4514_string())
