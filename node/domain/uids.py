"""Identifiers: which UIDs are taken, and UIDs that follow from what they name.

Source: PS3.5 9.1 (form), B.2 (UUID-derived UIDs below 2.25).
"""

from __future__ import annotations

import hashlib
import re
import uuid

IMPLEMENTATION_CLASS_UID = "2.25.263137198361299573688753691957543652544"
IMPLEMENTATION_VERSION_NAME = "SEGNODE_0_1"

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LEADING_ZERO = re.compile(r"(?:^|\.)0[0-9]")


def is_uid(text: str) -> bool:
    """Whether the text names something as a UID does: digits and dots, 64 at most.

    PS3.5 9.1 forbids leading zeros in components, but the field has them and compares UIDs as text:
    such a UID is used exactly as it is. Ours never have them.
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def has_leading_zero(uid: str) -> bool:
    """Whether a component of the UID begins with a zero and goes on, against PS3.5 9.1."""
    return _LEADING_ZERO.search(uid) is not None


def uid_from(*parts: str) -> str:
    """A 2.25 UID that is the same whenever the parts are the same.

    Source: PS3.5 B.2
    """
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def file_stem(uid: str) -> str:
    """A file name that a peer cannot choose: hexadecimal sha256 of a UID."""
    return hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()
