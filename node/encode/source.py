"""The source of a result: its headers, in the order of the slices they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from node.domain.errors import JobFailed
from node.domain.grid import Stack
from node.encode.elements import copied_element

# transfer syntax -> Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1)
_LOSSY_METHODS = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
    JPEG2000MC: "ISO_15444_1",
    HTJ2K: "ISO_15444_15",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Input headers with the stack that was made of them.

    Args:
        instances: All inputs, ordered as their frames lie in the stack, others behind them, so that
            nothing depends on the order of arrival.
    """

    instances: tuple[Dataset, ...]
    by_uid: dict[str, Dataset]
    stack: Stack

    @classmethod
    def of(cls, headers: Sequence[Dataset], stack: Stack) -> Source:
        """Order the headers.

        Raises:
            JobFailed: A frame of the stack belongs to none of them, or has no place in the patient.
        """
        by_uid = {str(header.SOPInstanceUID): header for header in headers}
        named = [frame.sop_instance_uid for frame in stack.frames]
        missing = sorted(set(named) - set(by_uid))
        if missing:
            raise JobFailed(f"source header of {missing[0]} is missing", permanent=True)
        unplaced = [f for f in stack.frames if f.position_mm is None or f.orientation is None]
        if unplaced or not stack.grid.frame_of_reference_uid:
            raise JobFailed("the source has no place in a Frame of Reference", permanent=True)
        ordered = list(dict.fromkeys(named))
        ordered += sorted(set(by_uid) - set(named))
        return cls(instances=tuple(by_uid[uid] for uid in ordered), by_uid=by_uid, stack=stack)

    @property
    def first(self) -> Dataset:
        """The instance of slice 0: its patient and study attributes are the result's."""
        return self.instances[0]

    def uniform(self, keyword: str) -> bytes | None:
        """An attribute as one element, where all instances have it with one value."""
        values = {copied_element(instance, keyword) for instance in self.instances}
        return values.pop() if len(values) == 1 else None

    def first_lossy(self) -> tuple[Dataset, str] | None:
        """An instance whose pixels went through a lossy compression, and the method if known."""
        for instance in self.instances:
            meta = getattr(instance, "file_meta", None)
            syntax = UID(str(meta.get("TransferSyntaxUID", ""))) if meta is not None else UID("")
            flag = copied_element(instance, "LossyImageCompression") or b""
            if flag.rstrip(b" \0").endswith(b"01") or syntax in _LOSSY_METHODS:
                return instance, _LOSSY_METHODS.get(syntax, "")
        return None
