"""SOP classes in rules: by UID or by keyword, such as SegmentationStorage.

Source: PS3.6 Annex A (registry of UIDs).
"""

from __future__ import annotations

from pydicom import uid


def sop_class_uid(text: str) -> str:
    """The UID of a keyword; any other text as it is, trimmed."""
    named = getattr(uid, text.strip(), None)
    return str(named) if isinstance(named, uid.UID) else text.strip()
