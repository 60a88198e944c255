"""Labels to encode: segments, provenance and a painted volume for a phantom or a real series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset

from node.assemble.gate import judge_geometry
from node.domain.frames import Frame, frames_of
from node.domain.grid import Grid, Stack
from node.domain.job import ResultIdentity
from node.domain.result import EncodedFile, LabelArray, LabelVolume, Provenance, Result
from node.domain.segment import Code, Segment
from node.encode.seg import encode_seg
from node.verify.seg import verify_seg
from tests.support.phantoms import Phantom, Region

ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
LUNG = Code("39607008", "SCT", "Lung")
THORAX = Code("51185008", "SCT", "Thorax")
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")

SEGMENTS = (
    Segment(
        label_value=7,
        name="Left lung",
        category=ANATOMICAL_STRUCTURE,
        type=LUNG,
        modifier=LEFT,
        rgb=(80, 174, 128),
    ),
    Segment(
        label_value=2,
        name="Right lung",
        category=ANATOMICAL_STRUCTURE,
        type=LUNG,
        modifier=RIGHT,
        rgb=(20, 100, 200),
    ),
    Segment(
        label_value=3,
        name="Spleen (never found)",
        category=ANATOMICAL_STRUCTURE,
        type=Code("78961009", "SCT", "Spleen"),
        rgb=(157, 108, 162),
    ),
    Segment(
        label_value=4,
        name="Marker",
        category=Code("260787004", "SCT", "Physical object"),
        type=Code("309298003", "SCT", "Marker"),
        region=THORAX,
        region_modifier=LEFT,
        rgb=(255, 255, 0),
    ),
)
LABELS = {Region.LEFT_LUNG: 7, Region.RIGHT_LUNG: 2, Region.MARKER: 4}
PROVENANCE = Provenance(
    model_name="ct_tissue",
    model_version="1.2.0",
    model_digest="a1" * 32,
    weights_digest="b2" * 32,
    node_version="0.1.0",
    config_digest="c3" * 32,
    parameters={"mode": "fast"},
    series_number=1001,
    content_date="20260203",
    content_time="040506",
)
IDENTITY = ResultIdentity(key="d4" * 32, output="labels", form="seg_binary", revision=1)


@dataclass(frozen=True, kw_only=True)
class Segmentation(Result):
    """Everything that encoder and verifier are given."""

    segments: Sequence[Segment] = SEGMENTS
    provenance: Provenance = PROVENANCE
    identity: ResultIdentity = IDENTITY

    def encode(self) -> EncodedFile:
        (encoded,) = encode_seg(self)
        return encoded

    def encoded(self) -> bytes:
        """The whole file."""
        return b"".join(self.encode().chunks())

    def verify(self, data: bytes | memoryview) -> None:
        verify_seg({"": memoryview(data)}, self)

    def revised(self, revision: int, replaces: str) -> Segmentation:
        """The same result of a later revision."""
        return replace(
            self,
            identity=replace(self.identity, revision=revision),
            provenance=replace(self.provenance, revision=revision, replaces=replaces),
        )


def volume_of(
    labels: LabelArray,
    spacing_mm: tuple[float, float, float] = (4.0, 4.0, 4.0),
    *,
    overlapping: bool = False,
) -> LabelVolume:
    """Axial, feet to head, columns towards the patient's left."""
    between_slices, between_rows, between_columns = spacing_mm
    grid = Grid(
        shape=labels.shape,
        origin_mm=(-100.0, -100.0, 0.0),
        steps_mm=((0, 0, between_slices), (0, between_rows, 0), (between_columns, 0, 0)),
        frame_of_reference_uid="2.25.1",
    )
    frame = Frame.__new__(Frame)  # where slices were measured plays no part
    stack = Stack(frames=(frame,) * labels.shape[0], grid=grid)
    return LabelVolume(labels=labels, stack=stack, overlapping=overlapping)


def of_phantom(phantom: Phantom) -> Segmentation:
    """Lungs and marker as they are."""
    volume = LabelVolume(labels=phantom.truth(LABELS), stack=phantom.stack)
    return Segmentation(volume=volume, source=phantom.headers())


def of_series(headers: Sequence[Dataset]) -> Segmentation:
    """Three boxes that no mirror maps onto themselves, painted on a real series.

    The headers must be fresh; those that geometry is read from are copies.
    """
    stack = gated([_decodable_copy(header) for header in headers])
    return Segmentation(
        volume=LabelVolume(labels=painted_boxes(stack), stack=stack), source=headers
    )


def gated(headers: Sequence[Dataset]) -> Stack:
    """The stack that the geometry gate makes of headers; it must find nothing wrong."""
    verdict = judge_geometry([frame for header in headers for frame in frames_of(header)])
    if verdict.stack is None:
        raise ValueError(f"not a volume: {verdict.findings}")
    return verdict.stack


def painted_boxes(stack: Stack) -> np.ndarray:
    slices, rows, columns = stack.grid.shape
    labels = np.zeros((slices, rows, columns), np.uint8)
    labels[:, rows // 5 : rows // 2, columns // 6 : columns // 3] = 7
    labels[1:, rows // 3 : rows // 2, columns // 2 : columns * 3 // 4] = 2
    labels[-1, rows * 3 // 4 : rows * 3 // 4 + 2, 1:4] = 4
    return labels


def _decodable_copy(header: Dataset) -> Dataset:
    """A data set of its own over the same raw elements: reading it leaves the header as it was."""
    copy = Dataset()
    for tag in header.keys():  # noqa: SIM118 - iterating a Dataset would decode every element
        copy[tag] = header.get_item(tag)
    implicit_vr, little_endian = header.original_encoding
    copy.set_original_encoding(implicit_vr, little_endian, header.original_character_set)
    return copy
