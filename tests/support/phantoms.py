"""DICOM series in memory with known anatomy: the truth is a formula in patient space.

A phantom is a torso: a fat shell around soft tissue, a right lung larger than the left one, an
airway that forks into both, a spine and a breastbone, and a marker that exists only on the
patient's left. ``region_at`` says which of them holds a point in LPS millimetres, whatever grid
samples it, so a label map that comes back from a node can be checked at every voxel by its own
affine. Everything is fixed by the parameters: the same phantom has the same UIDs and bytes.

::

    phantom = Phantom(plane="coronal", position="FFP", order="shuffled")
    phantom.write(folder)                                   # Part 10 files
    phantom.truth({Region.LEFT_LUNG: 1, Region.MARKER: 2})  # labels in canonical slice order
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from node.domain.frames import Frame, Triple, frames_of
from node.domain.grid import Grid, Stack

Floats = NDArray[np.float64]
Plane = Literal["axial", "coronal", "sagittal", "oblique"]
Position = Literal["HFS", "HFP", "FFS", "FFP", "HFDL", "HFDR"]
Order = Literal["forward", "reversed", "shuffled"]

PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal", "oblique")
POSITIONS: tuple[Position, ...] = ("HFS", "HFP", "FFS", "FFP", "HFDL", "HFDR")
ORDERS: tuple[Order, ...] = ("forward", "reversed", "shuffled")
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
)


class Region(IntEnum):
    """What a point of the phantom belongs to."""

    AIR = 0
    FAT = 1
    SOFT_TISSUE = 2
    LEFT_LUNG = 3
    RIGHT_LUNG = 4
    AIRWAY = 5
    BONE = 6
    MARKER = 7


HOUNSFIELD = {
    Region.AIR: -1000,
    Region.FAT: -100,
    Region.SOFT_TISSUE: 40,
    Region.LEFT_LUNG: -850,
    Region.RIGHT_LUNG: -850,
    Region.AIRWAY: -1000,
    Region.BONE: 700,
    Region.MARKER: 300,
}

# LPS of the middle of the torso: off the origin, so that no sign error goes unseen
CENTRE_MM = np.array([7.5, -181.25, 312.5])
# the grid lies beside it, so that no voxel centre falls onto a border of two regions
_LATTICE_CENTRE_MM = CENTRE_MM + np.array([0.1371, -0.2113, 0.1719])

# row and column direction of each plane as the gantry sees it
_PLANE_AXES = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "oblique": ((0.96, 0.28, 0.0), (-0.224, 0.768, 0.6)),
}
_PLANE_SHAPES = {
    "axial": (40, 56, 72),
    "coronal": (40, 56, 72),
    "sagittal": (58, 56, 50),
    "oblique": (48, 60, 72),
}
# columns: where the gantry's right, down and bore directions point in the patient (PS3.3 C.7.3.1.1.2)
_GANTRY_TO_LPS = {
    "HFS": np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "HFP": np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1]]),
    "FFS": np.array([[-1, 0, 0], [0, 1, 0], [0, 0, -1]]),
    "FFP": np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1]]),
    "HFDL": np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
    "HFDR": np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]),
}
_INTERCEPT = -1024


def region_at(points_mm: Floats) -> NDArray[np.uint8]:
    """The region of each point, by formula.

    Args:
        points_mm: LPS, shape (..., 3).
    """
    x, y, z = np.moveaxis(points_mm - CENTRE_MM, -1, 0)
    inside = np.abs(z) < 104.0
    region = np.zeros(x.shape, np.uint8)

    def paint(where: NDArray[np.bool_], value: Region) -> None:
        region[inside & where] = value

    paint((x / 135) ** 2 + (y / 88) ** 2 < 1, Region.FAT)
    paint((x / 121) ** 2 + (y / 74) ** 2 < 1, Region.SOFT_TISSUE)
    paint(((x - 56) / 32) ** 2 + ((y - 5) / 48) ** 2 + ((z - 10) / 62) ** 2 < 1, Region.LEFT_LUNG)
    paint(((x + 58) / 38) ** 2 + ((y + 3) / 54) ** 2 + ((z - 5) / 76) ** 2 < 1, Region.RIGHT_LUNG)
    paint((x**2 + (y - 8) ** 2 < 9.5**2) & (z > 8), Region.AIRWAY)
    paint(((y - 8) ** 2 + (z - 14) ** 2 < 8**2) & (x > -34) & (x < 38), Region.AIRWAY)
    paint(x**2 + (y - 56) ** 2 < 14**2, Region.BONE)
    paint((np.abs(x) < 15) & (y > -70) & (y < -60) & (np.abs(z - 20) < 60), Region.BONE)
    marker = (x - 100) ** 2 + (y + 18) ** 2 + (z - 40) ** 2 < 12**2
    paint(marker & (region == Region.SOFT_TISSUE), Region.MARKER)
    return region


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """One series of the torso.

    Args:
        order: How instances are numbered and listed against their place along the normal; in an
            enhanced phantom, how frames are stored.
        shape: Slices, rows, columns; None takes one that covers the torso in this plane.
        spacing_mm: Between slices, rows and columns.
        enhanced: One Enhanced CT instance in place of single-frame ones.
        noise_hu: Standard deviation of a fixed noise.
        attributes: Keyword and value of top-level attributes to set; None deletes.
        study: Name that gives another study.
        series: Name that gives another series and other instances.
    """

    plane: Plane = "axial"
    position: Position = "HFS"
    order: Order = "forward"
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] = (5.0, 4.0, 4.5)
    enhanced: bool = False
    transfer_syntax: str = ExplicitVRLittleEndian
    noise_hu: float = 4.0
    attributes: tuple[tuple[str, object], ...] = ()
    study: str = "1"
    series: str = "1"

    # --- truth ---------------------------------------------------------------------------------

    @cached_property
    def grid(self) -> Grid:
        """The grid in canonical order: slices along row direction x column direction."""
        shape = self.shape or _PLANE_SHAPES[self.plane]
        gantry = np.array(_PLANE_AXES[self.plane])
        row_direction, column_direction = (_GANTRY_TO_LPS[self.position] @ gantry.T).T
        normal = np.cross(row_direction, column_direction)
        between_slices, between_rows, between_columns = self.spacing_mm
        steps = np.array(
            [
                normal * between_slices,
                column_direction * between_rows,
                row_direction * between_columns,
            ]
        )
        origin = _LATTICE_CENTRE_MM - (np.array(shape) - 1) / 2 @ steps
        return Grid(
            shape=shape,
            origin_mm=_triple(np.round(origin, 4)),
            steps_mm=(_triple(steps[0]), _triple(steps[1]), _triple(steps[2])),
            frame_of_reference_uid=self.uid("frame of reference"),
        )

    @cached_property
    def regions(self) -> NDArray[np.uint8]:
        """The region of each voxel centre, shape (slice, row, column)."""
        index = np.moveaxis(np.indices(self.grid.shape), 0, -1).astype(float)
        affine = self.grid.affine_lps
        return region_at(index @ affine[:3, :3].T + affine[:3, 3])

    @cached_property
    def hu_volume(self) -> NDArray[np.int16]:
        """Hounsfield units as stored, shape (slice, row, column)."""
        table = np.array([HOUNSFIELD[region] for region in Region], np.float64)
        noise = np.random.default_rng(7).normal(0, self.noise_hu, self.grid.shape)
        return np.clip(np.rint(table[self.regions] + noise), -1024, 3071).astype(np.int16)

    def truth(self, labels: Mapping[Region, int]) -> NDArray[np.uint8]:
        """The label volume that a perfect model would give; regions not named are 0."""
        table = np.zeros(len(Region), np.uint8)
        for region, value in labels.items():
            table[region] = value
        return table[self.regions]

    @cached_property
    def stack(self) -> Stack:
        """The frames in canonical order, as the geometry gate must find them."""
        return stack_of(self.headers())

    # --- DICOM ---------------------------------------------------------------------------------

    def uid(self, what: object) -> str:
        """A UID fixed by the parameters but ``attributes`` and ``transfer_syntax``.

        So a corrected name, or another encoding, is the same instance again. All series of one
        study share its UID and the Frame of Reference.
        """
        shared = what in ("study", "frame of reference")
        grid = replace(self, attributes=(), transfer_syntax="")
        parts = (self.study, "" if shared else f"{grid!r}", str(what))
        digest = hashlib.sha256("|".join(parts).encode()).hexdigest()
        return f"2.25.{int(digest[:30], 16)}"

    def datasets(self) -> list[Dataset]:
        """Instances in the order of ``order``, with native pixel data and File Meta Information."""
        if self.enhanced:
            return [self._enhanced()]
        return [self._slice(k, number) for number, k in enumerate(self._stored_order(), 1)]

    def headers(self) -> list[Dataset]:
        """``datasets`` without pixel data."""
        instances = self.datasets()
        for instance in instances:
            del instance.PixelData
        return instances

    def files(self) -> list[bytes]:
        """Part 10 files in ``transfer_syntax``."""
        return [encoded_as(instance, self.transfer_syntax) for instance in self.datasets()]

    def write(self, folder: Path) -> list[Path]:
        """Write ``files`` into a folder, made if need be; names carry no order of slices."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, data in enumerate(self.files(), 1):
            path = folder / f"IM{number:04d}.dcm"
            path.write_bytes(data)
            paths.append(path)
        return paths

    def _stored_order(self) -> list[int]:
        slices = self.grid.shape[0]
        if self.order == "shuffled":
            return [int(k) for k in np.random.default_rng(11).permutation(slices)]
        return list(range(slices))[:: -1 if self.order == "reversed" else 1]

    def _orientation(self) -> list[float]:
        _, column_step, row_step = np.array(self.grid.steps_mm)
        directions = [
            *(row_step / np.linalg.norm(row_step)),
            *(column_step / np.linalg.norm(column_step)),
        ]
        return [round(float(value), 8) + 0.0 for value in directions]

    def _position(self, k: int) -> list[float]:
        place = np.array(self.grid.origin_mm) + k * np.array(self.grid.steps_mm[0])
        return [round(float(value), 6) for value in place]

    def _pixels(self, slices: Iterable[int]) -> bytes:
        stored = (self.hu_volume[list(slices)].astype(np.int32) - _INTERCEPT).astype("<u2")
        return stored.tobytes()

    def _base(self, sop_class_uid: str, instance_name: object) -> Dataset:
        instance = Dataset()
        instance.SpecificCharacterSet = "ISO_IR 192"
        instance.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        instance.SOPClassUID = sop_class_uid
        instance.SOPInstanceUID = self.uid(instance_name)
        instance.StudyDate = instance.SeriesDate = instance.ContentDate = "20260102"
        instance.StudyTime = instance.SeriesTime = instance.ContentTime = "101112"
        instance.AccessionNumber = "A-0815"
        instance.Modality = "CT"
        instance.Manufacturer = "Phantom Works"
        instance.ManufacturerModelName = "Torso 1"
        instance.DeviceSerialNumber = "0001"
        instance.SoftwareVersions = "1"
        instance.ReferringPhysicianName = "Reférrer^Rita"
        instance.StudyDescription = "CT thorax of a phantom"
        instance.SeriesDescription = f"{self.plane} {self.position} {self.order}"
        instance.PatientName = "Phantöm^Torso"
        instance.PatientID = "PHANTOM-1"
        instance.PatientBirthDate = "19700101"
        instance.PatientSex = "O"
        instance.PatientAge = "056Y"
        instance.BodyPartExamined = "CHEST"
        instance.SliceThickness = self.spacing_mm[0]
        instance.PatientPosition = self.position
        instance.StudyInstanceUID = self.uid("study")
        instance.SeriesInstanceUID = self.uid("series")
        instance.StudyID = "S1"
        instance.SeriesNumber = 3
        instance.FrameOfReferenceUID = self.grid.frame_of_reference_uid
        instance.PositionReferenceIndicator = ""
        instance.SamplesPerPixel = 1
        instance.PhotometricInterpretation = "MONOCHROME2"
        instance.Rows, instance.Columns = self.grid.shape[1:]
        instance.BitsAllocated, instance.BitsStored, instance.HighBit = 16, 16, 15
        instance.PixelRepresentation = 0
        instance.BurnedInAnnotation = "NO"
        instance.LossyImageCompression = "00"
        for keyword, value in self.attributes:
            if value is not None:
                setattr(instance, keyword, value)
            elif keyword in instance:
                delattr(instance, keyword)
        instance.file_meta = _file_meta(instance)
        return instance

    def _slice(self, k: int, number: int) -> Dataset:
        instance = self._base(CTImageStorage, k)
        instance.InstanceNumber = number
        instance.AcquisitionNumber = 1
        instance.KVP = 120
        instance.ImagePositionPatient = self._position(k)
        instance.ImageOrientationPatient = self._orientation()
        instance.PixelSpacing = list(self.spacing_mm[1:])
        instance.RescaleIntercept, instance.RescaleSlope = _INTERCEPT, 1
        if instance.Modality == "CT":
            instance.RescaleType = "HU"
        instance.PixelData = self._pixels([k])
        instance["PixelData"].VR = "OW"
        return instance

    def _enhanced(self) -> Dataset:
        instance = self._base(EnhancedCTImageStorage, "enhanced")
        order = self._stored_order()
        instance.InstanceNumber = 1
        instance.NumberOfFrames = len(order)
        instance.AcquisitionDateTime = "20260102101112"
        instance.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        instance.VolumetricProperties = "VOLUME"
        shared = _item(
            PixelMeasuresSequence=_item(
                PixelSpacing=list(self.spacing_mm[1:]), SliceThickness=self.spacing_mm[0]
            ),
            PlaneOrientationSequence=_item(ImageOrientationPatient=self._orientation()),
            PixelValueTransformationSequence=_item(
                RescaleIntercept=_INTERCEPT, RescaleSlope=1, RescaleType="HU"
            ),
            FrameAnatomySequence=_item(FrameLaterality="U"),
        )
        instance.SharedFunctionalGroupsSequence = [shared]
        instance.PerFrameFunctionalGroupsSequence = [
            _item(
                FrameContentSequence=_item(StackID="1", InStackPositionNumber=k + 1),
                PlanePositionSequence=_item(ImagePositionPatient=self._position(k)),
            )
            for k in order
        ]
        instance.PixelData = self._pixels(order)
        instance["PixelData"].VR = "OW"
        return instance


def encoded_as(instance: Dataset, transfer_syntax_uid: str) -> bytes:
    """A native little-endian instance as a Part 10 file in another lossless transfer syntax."""
    copy = dcmread(BytesIO(_part10(instance, ExplicitVRLittleEndian)))
    if transfer_syntax_uid == ExplicitVRBigEndian:
        copy.PixelData = np.frombuffer(copy.PixelData, "<u2").astype(">u2").tobytes()
    elif transfer_syntax_uid == JPEGLosslessSV1:
        return _dcmcjpeg(_part10(copy, ExplicitVRLittleEndian))
    elif transfer_syntax_uid in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        copy.compress(transfer_syntax_uid, generate_instance_uid=False)
    return _part10(copy, transfer_syntax_uid)


def stack_of(instances: Sequence[Dataset]) -> Stack:
    """The frames of a well-formed series as a stack, ordered along the normal."""
    frames: list[Frame] = [frame for instance in instances for frame in frames_of(instance)]
    first = frames[0]
    assert first.pixel_spacing_mm is not None
    assert first.frame_of_reference_uid is not None
    row_direction, column_direction = np.array(first.orientation).reshape(2, 3)
    normal = np.cross(row_direction, column_direction)
    frames.sort(key=lambda frame: float(np.array(frame.position_mm) @ normal))
    positions = np.array([frame.position_mm for frame in frames])
    step = (positions[-1] - positions[0]) / max(len(frames) - 1, 1)
    between_rows, between_columns = first.pixel_spacing_mm
    return Stack(
        frames=tuple(frames),
        grid=Grid(
            shape=(len(frames), first.rows, first.columns),
            origin_mm=_triple(positions[0]),
            steps_mm=(
                _triple(step if len(frames) > 1 else normal),
                _triple(column_direction * between_rows),
                _triple(row_direction * between_columns),
            ),
            frame_of_reference_uid=first.frame_of_reference_uid,
        ),
    )


def _triple(vector: NDArray[np.float64]) -> Triple:
    x, y, z = vector.tolist()
    return (x, y, z)


def _part10(instance: Dataset, transfer_syntax_uid: str) -> bytes:
    instance.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    buffer = BytesIO()
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    little = transfer_syntax_uid != ExplicitVRBigEndian
    fresh = Dataset()  # a data set that was read remembers its encoding and could not change it
    fresh.update(instance)
    fresh.file_meta = instance.file_meta
    dcmwrite(buffer, fresh, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return buffer.getvalue()


def _dcmcjpeg(data: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        native, encoded = Path(folder, "native.dcm"), Path(folder, "encoded.dcm")
        native.write_bytes(data)
        subprocess.run(["/usr/bin/dcmcjpeg", "+e1", "+un", native, encoded], check=True)
        return encoded.read_bytes()


def _file_meta(instance: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = instance.SOPClassUID
    meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID("2.25.1")
    return meta


def _item(**attributes: object) -> Dataset:
    """A data set; an attribute that is a data set becomes a sequence of one item."""
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, [value] if isinstance(value, Dataset) else value)
    return item
