"""A CT of nobody: a chest of ellipses, so that the demo needs no download and no patient.

The same call gives the same bytes. What lies where is simple on purpose: fat around soft tissue, a
right lung larger than the left one, a windpipe, a spine, a breastbone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from node.domain.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, uid_from

SLICES, ROWS, COLUMNS = 48, 192, 192
SLICE_SPACING_MM, PIXEL_SPACING_MM = 5.0, 2.0

_INTERCEPT_HU = -1024
_NOISE_HU = 8.0
_AIR, _LUNG, _FAT, _SOFT, _BONE = -1000, -850, -100, 40, 500


def write_phantom(folder: Path, *, modality: str = "CT", series: str = "series") -> list[Path]:
    """Write the series into a folder, one file per slice.

    Args:
        modality: CT, or MR with the same shapes in arbitrary units.
        series: Tells one series of the study from another.
    Source: PS3.3 A.3 (CT Image IOD), A.4 (MR Image IOD), PS3.10 7.1
    """
    folder.mkdir(parents=True, exist_ok=True)
    volume = _hounsfield()
    paths = []
    for index in range(SLICES):
        path = folder / f"slice{index + 1:03d}.dcm"
        image = _slice(index, volume[index], series)
        if modality == "MR":
            _make_magnetic(image)
        dcmwrite(path, image, enforce_file_format=True)
        paths.append(path)
    return paths


def _hounsfield() -> NDArray[np.int16]:
    """The chest on its grid, shape (slice, row, column); x grows to the patient's left."""
    z, y, x = np.meshgrid(
        (np.arange(SLICES) - (SLICES - 1) / 2) * SLICE_SPACING_MM,
        (np.arange(ROWS) - (ROWS - 1) / 2) * PIXEL_SPACING_MM,
        (np.arange(COLUMNS) - (COLUMNS - 1) / 2) * PIXEL_SPACING_MM,
        indexing="ij",
    )
    hu = np.full(x.shape, _AIR, np.float64)
    hu[(x / 165) ** 2 + (y / 110) ** 2 < 1] = _FAT
    hu[(x / 145) ** 2 + (y / 92) ** 2 < 1] = _SOFT
    hu[((x - 66) / 46) ** 2 + ((y - 4) / 64) ** 2 + ((z - 10) / 92) ** 2 < 1] = _LUNG
    hu[((x + 70) / 54) ** 2 + ((y - 2) / 70) ** 2 + ((z - 5) / 104) ** 2 < 1] = _LUNG
    hu[(x**2 + (y - 2) ** 2 < 9**2) & (z > 0)] = _AIR
    hu[x**2 + (y - 66) ** 2 < 17**2] = _BONE
    hu[(np.abs(x) < 18) & (np.abs(y + 80) < 6) & (np.abs(z) < 70)] = _BONE
    noise = np.random.default_rng(1).normal(0.0, _NOISE_HU, hu.shape)
    return np.clip(np.rint(hu + noise), -1024, 3071).astype(np.int16)


def _slice(index: int, hu: NDArray[np.int16], series: str) -> Dataset:
    image = Dataset()
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = _uid(f"slice {index}" if series == "series" else f"{series} {index}")
    image.StudyInstanceUID = _uid("study")
    image.SeriesInstanceUID = _uid(series)
    image.FrameOfReferenceUID = _uid("frame of reference")
    _describe(image)
    image.InstanceNumber = index + 1
    left, top = (-(count - 1) / 2 * PIXEL_SPACING_MM for count in (COLUMNS, ROWS))
    image.ImagePositionPatient = [left, top, (index - (SLICES - 1) / 2) * SLICE_SPACING_MM]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.PixelSpacing = [PIXEL_SPACING_MM, PIXEL_SPACING_MM]
    image.SliceThickness = SLICE_SPACING_MM
    image.Rows, image.Columns = ROWS, COLUMNS
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = _INTERCEPT_HU, 1, "HU"
    image.PixelData = (hu.astype(np.int32) - _INTERCEPT_HU).astype("<u2").tobytes()
    image["PixelData"].VR = "OW"
    return image


def _make_magnetic(image: Dataset) -> None:
    """The same stored values as signal, in no unit."""
    image.SOPClassUID = MRImageStorage
    image.Modality, image.SeriesDescription = "MR", "phantom"
    image.ScanningSequence, image.SequenceVariant = "SE", "NONE"
    for keyword in ("RescaleIntercept", "RescaleSlope", "RescaleType", "KVP"):
        del image[keyword]


def _describe(image: Dataset) -> None:
    """What every slice says alike, and its File Meta Information."""
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.PatientName, image.PatientID = "Demo^Phantom", "SEGNODE-DEMO"
    image.PatientBirthDate, image.PatientSex = "", "O"
    image.StudyDate = image.SeriesDate = image.ContentDate = "20260101"
    image.StudyTime = image.SeriesTime = image.ContentTime = "120000"
    image.AccessionNumber, image.StudyID = "", "DEMO"
    image.ReferringPhysicianName = ""
    image.StudyDescription, image.SeriesDescription = "segnode demo", "chest phantom"
    image.Modality, image.Manufacturer = "CT", "segnode"
    image.SeriesNumber, image.AcquisitionNumber = 1, 1
    image.BodyPartExamined, image.PatientPosition = "CHEST", "HFS"
    image.KVP = 120
    image.PositionReferenceIndicator = ""
    meta = image.file_meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def _uid(what: str) -> str:
    return uid_from("segnode demo phantom", what)
