"""What a reader of files must be ready for: pydicom over bytes of any origin.

A file that the ingest has walked is no deeper than its limit; any other may be, and pydicom reads
nested sequences by recursion.
"""

from __future__ import annotations

from struct import error as StructError  # noqa: N812

from pydicom.errors import InvalidDicomError

from node.domain import header

UNREADABLE: tuple[type[Exception], ...] = (
    *header.UNREADABLE,
    *(InvalidDicomError, OSError, LookupError, EOFError, StructError, RecursionError),
)


def why_unreadable(error: Exception) -> str:
    """One of these in words, without a value of the file."""
    if isinstance(error, RecursionError):
        return "sequences are nested too deeply to be read"
    if isinstance(error, InvalidDicomError):
        return "holds no DICOM instance"
    return f"cannot be read as DICOM ({type(error).__name__})"
