"""A case: files as a sender would send them, and what the node must make of their series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataset import Dataset

ROADS = frozenset({"dimse", "stow", "run"})


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a sender.

    Args:
        content: A Part 10 file, possibly a broken one.
        is_kept: Whether the node answers that it keeps it; anything else is a refusal.
    """

    content: bytes
    is_kept: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One wrong or unusual input.

    Args:
        name: Unique; a test id.
        files: Makes the files of one series; ``series`` is the first one's Series Instance UID.
        model: Run by the only rule, which takes every series of the model's modality.
        state: Of the series: ``held``, or of its match: ``parked``, ``done``, ``implausible``,
            ``unmatched`` and the like.
        reasons: The codes that the row must hold, all of them.
        sentence: Words that the sentence must hold.
        exit_code: Of ``segnode run`` over these files.
        old: What the code before made of it, such as ``done``: why the case is here.
        roads: That it can come by.
    """

    name: str
    files: Callable[[], Sequence[File]]
    model: str = "ct_tissue"
    state: str
    reasons: Sequence[str] = ()
    sentence: str = ""
    exit_code: int
    old: str
    transports: frozenset[str] = ROADS


def file_of(instance: Dataset) -> bytes:
    """An instance as the bytes of a Part 10 file."""
    buffer = BytesIO()
    instance.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
