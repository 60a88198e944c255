"""The folder of a newcomer's first hour: three CT series of two patients among what else lies there.

377 slices in one flat folder under names that say nothing, with an MR series, a localizer, a secondary
capture, a text file, a duplicate, and a series with a missing slice between them. The model is a
stand-in that paints 104 boxes at known places of the patient under the names and codes of
``wholebody_ct``, so that every voxel of every result is known.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, SecondaryCaptureImageStorage

from node.infer.registry import default_models_folder
from tests.support.boxes import boxes_runner
from tests.support.phantoms import CENTRE_MM, PLANES, Phantom, encoded_as

MODEL = "painted_boxes"
LABELS = default_models_folder() / "wholebody_ct" / "labels.csv"
COUNT = 104

_SPACING_MM = (2.0, 3.0, 3.1)
_NO_PLANE = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition", "RescaleIntercept",
    "RescaleSlope", "RescaleType", "KVP", "AcquisitionNumber",
)  # fmt: skip


def _ct(patient: str, study: str, slices: int, **how: object) -> Phantom:
    attributes = (("PatientID", patient), ("PatientName", f"Person^{patient}"))
    shape = (slices, 96, 96)
    return Phantom(shape=shape, spacing_mm=_SPACING_MM, study=study, attributes=attributes, **how)  # type: ignore[arg-type]


# two patients, three studies, in three ways to lie on a table
TAKEN = {
    "axial": _ct("100002", "a", 126, order="shuffled"),
    "feet first": _ct("100004", "b", 126, position="FFS", order="reversed"),
    "oblique": _ct("100004", "c", 125, plane="oblique"),
}
MAGNETIC = Phantom(
    shape=(6, 32, 32),
    study="b",
    series="mr",
    attributes=(("Modality", "MR"), ("SOPClassUID", MRImageStorage), ("PatientID", "100004")),
)
GAPPED = _ct("100002", "a", 20, series="gap")
MISSING_SLICE = 9


@dataclass(frozen=True)
class Tutorial:
    """The files by their names, and what each holds."""

    files: Mapping[str, bytes]
    text_file: str
    duplicate: tuple[str, str]

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    @cached_property
    def instances(self) -> list[bytes]:
        """Everything but the text file, in the order of the names, which is none."""
        return [content for name, content in self.files.items() if name != self.text_file]


def make_tutorial() -> Tutorial:
    contents: list[tuple[str, bytes]] = []
    for phantom in TAKEN.values():
        contents += [("ct", content) for content in phantom.files()]
    assert len(contents) == 377
    duplicate = contents[200][1]
    contents += [("mr", content) for content in MAGNETIC.files()]
    contents += [("gap", c) for k, c in enumerate(GAPPED.files()) if k != MISSING_SLICE]
    contents += [("localizer", content) for content in _localizer()]
    contents += [("capture", _capture()), ("text", b"Scanned on Monday. Ask Rita.\n" * 9)]
    contents += [("duplicate", duplicate)]
    rng = random.Random(4)
    rng.shuffle(contents)
    names = sorted(f"{rng.randrange(16**8):08x}" for _ in contents)
    assert len(set(names)) == len(contents)
    files = {name: content for name, (_, content) in zip(names, contents, strict=True)}
    (text,) = (name for name, (what, _) in zip(names, contents, strict=True) if what == "text")
    first, second = (name for name, content in files.items() if content == duplicate)
    return Tutorial(files=files, text_file=text, duplicate=(first, second))


def uid_of_localizer() -> str:
    return TAKEN["axial"].uid("localizer series")


def uid_of_capture() -> str:
    return TAKEN["axial"].uid("capture series")


def _localizer() -> Iterator[bytes]:
    """One image in each of three planes."""
    for plane in PLANES[:3]:
        view = Phantom(plane=plane, shape=(1, 48, 48), study="a", series="localizer")
        (image,) = view.datasets()
        image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        image.SeriesInstanceUID = uid_of_localizer()
        image.PatientID = "100002"
        yield encoded_as(image, ExplicitVRLittleEndian)


def _capture() -> bytes:
    """A screenshot: no place in the patient."""
    (image,) = Phantom(shape=(1, 40, 40), study="a", series="capture").datasets()
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    image.SeriesInstanceUID = uid_of_capture()
    image.PatientID = "100002"
    image.Modality, image.ConversionType = "OT", "WSD"
    for keyword in _NO_PLANE:
        if keyword in image:
            delattr(image, keyword)
    return encoded_as(image, ExplicitVRLittleEndian)


# --- the stand-in ----------------------------------------------------------------------------------


def boxes() -> list[list[float]]:
    """[label value, low x, y, z, high x, y, z] in LPS mm: 104 boxes of different sizes, none touching."""
    found = []
    for label, (z, y, x) in enumerate(product(range(13), range(2), range(4)), 1):
        low = (
            CENTRE_MM + np.array([-83.013, -47.017, -68.011]) + np.array([41 * x, 46 * y, 10.5 * z])
        )
        size = np.array([17 + label % 7 * 3, 16 + label % 5 * 4, 6.3 + label % 3])
        found.append([label, *np.round(low, 3).tolist(), *np.round(low + size, 3).tolist()])
    return found


def labels_at(points_mm: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The label value that belongs at each place of the patient; LPS, shape (..., 3)."""
    labels = np.zeros(points_mm.shape[:-1], np.uint8)
    x, y, z = (np.ascontiguousarray(points_mm[..., axis]) for axis in range(3))
    for label, x0, y0, z0, x1, y1, z1 in boxes():
        labels[(x >= x0) & (x < x1) & (y >= y0) & (y < y1) & (z >= z0) & (z < z1)] = int(label)
    return labels


def count_of(phantom: Phantom) -> NDArray[np.int64]:
    """How many voxels of the source belong to each label value."""
    grid = phantom.grid
    index = np.stack(np.indices(grid.shape), axis=-1).astype(float)
    affine = grid.affine_lps
    labels = labels_at(index @ affine[:3, :3].T + affine[:3, 3])
    return np.bincount(labels.ravel(), minlength=COUNT + 1)


def write_model(folder: Path) -> Path:
    """A model folder with the labels of ``wholebody_ct`` and no network; returns the folder of models."""
    model = folder / MODEL
    model.mkdir(parents=True)
    shutil.copy(LABELS, model / "labels.csv")
    sections = ("Intended use", "How it works", "Where it fails", "Licence")
    card = "".join(f"## {section}\n\nBoxes for tests.\n\n" for section in sections)
    (model / "README.md").write_text(f"# {MODEL}\n\n{card}")
    content = {
        "name": MODEL,
        "version": "1.0.0",
        "title": "104 boxes",
        "inputs": {"ct": {"accepts": {"Modality": "CT"}}},
        "runner": boxes_runner(model, boxes()),
    }
    (model / "model.yaml").write_text(yaml.safe_dump(content))
    return folder


def triplets(seg: Dataset) -> list[tuple[str, ...]]:
    """What tells the segments of an object apart for a reader of codes."""
    return [
        (
            _code(item.SegmentedPropertyCategoryCodeSequence),
            _code(item.SegmentedPropertyTypeCodeSequence),
            _code(
                item.SegmentedPropertyTypeCodeSequence[0].get(
                    "SegmentedPropertyTypeModifierCodeSequence"
                )
            ),
            _code(item.get("AnatomicRegionSequence")),
        )
        for item in seg.SegmentSequence
    ]


def _code(sequence: object) -> str:
    (item,) = sequence or [Dataset()]  # type: ignore[misc]
    return f"{item.get('CodingSchemeDesignator', '')}:{item.get('CodeValue', '')}"
