"""A known SOP Instance UID came again: is it the same instance, an amended one, or a conflict?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from node.domain.received import Received
from node.spool.digest_process import DigestProcesses
from node.spool.parts import InstanceRecord


class Duplicate(Enum):
    """What a newcomer is to the versions that are kept."""

    DUPLICATE = auto()
    AMENDED = auto()
    CONFLICT = auto()


@dataclass(frozen=True, slots=True)
class Known:
    """A version on disk."""

    path: Path
    head: InstanceRecord


@dataclass(frozen=True, slots=True)
class Verdict:
    """The relation, and the pixel identity that the newcomer would be kept with."""

    duplicate: Duplicate
    pixel_identity: str


def judge_duplicate(
    newcomer: Path, received: Received, known: Sequence[Known], process: DigestProcesses
) -> Verdict:
    """Compare a newcomer with every version kept under its UID.

    Equal bytes decide at once; digests are computed only where bytes differ. What cannot be decoded
    cannot be shown to be the same, so it is a conflict.

    Args:
        newcomer: Its file, with a head.
    """
    own = received.received_sha256
    if any(version.head.received_sha256 == own for version in known):
        return Verdict(Duplicate.DUPLICATE, own)
    ours = process.digests(newcomer)
    theirs = [process.digests(version.path) for version in known]
    if ours is None:
        return Verdict(Duplicate.CONFLICT, own)
    if any(digests is not None and digests.content == ours.content for digests in theirs):
        return Verdict(Duplicate.DUPLICATE, own)
    for version, digests in zip(known, theirs, strict=True):
        if digests is not None and digests.pixels == ours.pixels:
            return Verdict(Duplicate.AMENDED, version.head.pixel_identity)
    return Verdict(Duplicate.CONFLICT, own)
