"""A real T1 of a head, on the grids that scanners use, as volumes and as DICOM series."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from node.domain.grid import Grid
from node.infer.volume import Volume
from tests.support.cases import Cases
from tests.support.phantoms import Phantom

Plane = Literal["axial", "coronal", "sagittal"]

# of an image whose axes run to the left, inferior and anterior: which of them are slice, row and
# column, and which of these three run the other way, as a scanner has them
_AS_ACQUIRED = {
    "axial": ((1, 2, 0), (True, True, False)),
    "coronal": ((2, 1, 0), (True, False, False)),
    "sagittal": ((0, 1, 2), (False, False, True)),
}


def t1_image(shared_models: Cases) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The array of the file, index (left, inferior, anterior), and its affine to RAS mm."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(shared_models / "brainchop" / "t1_crop.nii.gz")
    return np.asarray(image.dataobj), np.asarray(image.affine, np.float64)


def acquired(
    array: NDArray[np.uint8], affine_ras: NDArray[np.float64], plane: Plane = "axial"
) -> Volume:
    """An LIA image as a scanner would have measured it in a plane, voxel for voxel."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_ras
    axes, flips = _AS_ACQUIRED[plane]
    turned = array.transpose(axes).astype(np.int16)
    origin, steps = affine[:3, 3].copy(), [affine[:3, axis].copy() for axis in axes]
    for axis, is_flipped in enumerate(flips):
        if is_flipped:
            origin += steps[axis] * (turned.shape[axis] - 1)
            steps[axis] = -steps[axis]
            turned = np.flip(turned, axis)
    return Volume(
        array=np.ascontiguousarray(turned),
        grid=Grid(
            shape=turned.shape,
            origin_mm=tuple(origin.tolist()),
            steps_mm=tuple(tuple((step + 0.0).tolist()) for step in steps),
            frame_of_reference_uid="2.25.1",
        ),
    )


def as_lia(array: NDArray[np.generic], plane: Plane) -> NDArray[np.generic]:
    """An array of a volume that was ``acquired`` in a plane, with axes LIA again."""
    axes, flips = _AS_ACQUIRED[plane]
    unflipped = array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return unflipped.transpose(np.argsort(axes))


@dataclass(frozen=True, kw_only=True)
class HeadSeries(Phantom):
    """A volume as a series of MR images.

    Args:
        volume: Values from 0 on.
        series: Must differ for volumes that differ.
    """

    volume: Volume = field(repr=False, compare=False)
    attributes: tuple[tuple[str, object], ...] = (
        ("Modality", "MR"),
        ("BodyPartExamined", "BRAIN"),
        ("SeriesDescription", "T1 mprage"),
        ("ScanningSequence", "GR"),
        ("SequenceVariant", "SP"),
        ("ScanOptions", ""),
        ("MRAcquisitionType", "3D"),
    )

    @cached_property
    def grid(self) -> Grid:
        """The grid of the volume, in a Frame of Reference of the study's own."""
        given = self.volume.grid
        return Grid(
            shape=given.shape,
            origin_mm=given.origin_mm,
            steps_mm=given.steps_mm,
            frame_of_reference_uid=self.uid("frame of reference"),
        )

    def _slice(self, k: int, number: int) -> Dataset:
        instance = super()._slice(k, number)
        for keyword in ("KVP", "RescaleIntercept", "RescaleSlope"):
            delattr(instance, keyword)
        instance.SliceThickness = self.volume.grid.spacing_mm[0]
        instance.PixelSpacing = list(self.volume.grid.spacing_mm[1:])
        instance.EchoTime, instance.RepetitionTime, instance.EchoTrainLength = 2.5, 300, 1
        instance.FlipAngle = 80
        instance.PixelData = self.volume.array[k].astype("<u2").tobytes()
        instance["PixelData"].VR = "OW"
        return instance

    def _base(self, sop_class_uid: str, instance_name: object) -> Dataset:
        instance = super()._base(MRImageStorage, instance_name)
        instance.file_meta.MediaStorageSOPClassUID = MRImageStorage
        return instance

    def _pixels(self, slices: object) -> bytes:
        return b""  # set by ``_slice``, without the torso
