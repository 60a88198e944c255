"""Verify: the bytes of a result object against its source, before anything leaves.

Enters: the file's bytes, headers of all source instances as they were read, the label volume, the
model's segments, provenance and identity. Leaves: nothing; the object may go. Can fail:
``ResultRefused`` with every fault found as one sentence; no patient's value is in it.

Public validators pass a mirrored mask, a flipped orientation, a wrong spacing, a wrong reference,
another study, or a dimension index out of range; this stage is there for those. It imports nothing
of ``node.encode``.

PS3.3 A.51, C.8.20 (Segmentation), C.7.6.16, C.7.6.17, C.12.2; PS3.5 8.1.1.
"""

from __future__ import annotations

from collections.abc import Callable

from node.verify.seg import verify_seg

__all__ = ["VERIFIERS", "verify_seg"]

VERIFIERS: dict[str, Callable[..., None]] = {"seg_binary": verify_seg}
"""Form of a result -> what verifies it."""
