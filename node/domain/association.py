"""Associations as every transport has them: a STOW-RS request and a folder scan are one each.

Source: PS3.8 7.2 (release), 7.3 (abort).
"""

from __future__ import annotations

from enum import StrEnum


class Ending(StrEnum):
    """How an association ended."""

    RELEASED = "released"
    ABORTED = "aborted"
