"""Encode: a result on the source grid becomes a DICOM object in the study it came from.

Enters: a ``LabelVolume`` with its stack, headers of all source instances as they were read, the
segments that label values mean, provenance and identity. Leaves: an ``EncodedObject`` whose bytes
are written in pieces, or None: nothing was found, so there is no object to send. Can fail:
``JobFailed`` (permanent) where labels, their description and their source do not belong together.

The same arguments give the same bytes: UIDs follow from the job, dates come with provenance.
Patient and study attributes are the source's, byte for byte, with its Specific Character Set; text
of ours is ASCII, which reads the same in every character set. No private attribute is copied.

PS3.3 A.51 and C.8.20 (Segmentation), C.7.6.16 and C.7.6.17 (functional groups, dimensions), C.12.2
(references); PS3.5 7.1.2 and 8.1.1 (encoding).
"""

from __future__ import annotations

from collections.abc import Callable

from node.encode.header import read_tables
from node.encode.seg import EncodedObject, encode_seg

__all__ = ["ENCODERS", "EncodedObject", "encode_seg", "read_tables"]

Encoder = Callable[..., EncodedObject | None]

ENCODERS: dict[str, Encoder] = {"seg_binary": encode_seg}
"""Form of a result -> what encodes it."""
