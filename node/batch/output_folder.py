"""Where ``segnode run`` puts results: under the series they were made of, by a layout."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from node.deliver.classes import result_file_gone
from node.deliver.folder import fill_layout, mistake_of_layout, place
from node.domain.delivery import DeliverableObject, DeliveryClass, Outcome

OUTPUT = "output"
DEFAULT_LAYOUT = "{SeriesInstanceUID}/{model}.{output}.{ext}"
# all of the source but the SOP Instance UID, which is the result's; none carries patient data
LAYOUT_FIELDS = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality", "model", "output", "ext",
)  # fmt: skip

# NIfTI-1: 80 bytes of free text in a header of 348
_NIFTI_HEADER_BYTES = 348
_NIFTI_TEXT = slice(148, 228)
_OWN_NAME = "{SOPInstanceUID}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One file of a result.

    Args:
        path: Where it lies in the state of the run.
        identity: What the file says of itself: the SOP Instance UID of a DICOM object, the text in
            the header of a NIfTI image.
        series_instance_uid: Of the source.
        sop_instance_uid: Of the DICOM object; an image of the same labels has the same.
        output: What it holds, for its name.
    """

    path: Path
    identity: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    model: str
    output: str
    ext: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFolder:
    """A destination that files results under the series they were made of.

    Args:
        layout: Relative path with fields of ``LAYOUT_FIELDS``.
        modality_of: Series Instance UID -> Modality.
    """

    path: Path
    layout: str
    modality_of: Callable[[str], str]
    _one_by_one: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if sentence := mistake_of_layout(self.layout, LAYOUT_FIELDS):
            raise ValueError(f"layout {self.layout!r}: {sentence}")
        if "{ext}" not in self.layout.rpartition("/")[2]:
            raise ValueError(f"layout {self.layout!r}: the file's name needs {{ext}}")

    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Write a DICOM result."""
        path = Path(deliverable.path)
        if not path.is_file():
            return result_file_gone()
        header = dcmread(path, specific_tags=["ReferencedSeriesSequence"])
        return self.put(
            Product(
                path=path,
                identity=deliverable.sop_instance_uid,
                study_instance_uid=deliverable.study_instance_uid,
                series_instance_uid=str(header.ReferencedSeriesSequence[0].SeriesInstanceUID),
                sop_instance_uid=deliverable.sop_instance_uid,
                model=deliverable.model,
                output="seg",
                ext="dcm",
            )
        )

    def put(self, product: Product) -> Outcome:
        """Write a file that is not there yet.

        Where other content has its name, such as an earlier revision, it gets its own.
        """
        with self._one_by_one:  # two that bring the same file do not both write it
            if self.find(product) is not None:
                return Outcome(kind=DeliveryClass.SENT, sentence="written")
            return self._write(product)

    def _write(self, product: Product) -> Outcome:
        first, second = self._names(product)
        outcome = place(product.path, self.path, first)
        if outcome.kind is not DeliveryClass.BLOCKED:
            return outcome
        outcome = place(product.path, self.path, second)
        if outcome.kind is DeliveryClass.BLOCKED:
            return replace(outcome, sentence=f"other content lies at {second}: move that file")
        return outcome

    def find(self, product: Product) -> Path | None:
        """Where the same file lies that was written before."""
        paths = (self.path / name for name in self._names(product))
        return next((p for p in paths if p.is_file() and _identity(p) == product.identity), None)

    def _names(self, product: Product) -> Iterator[Path]:
        values = {
            "StudyInstanceUID": product.study_instance_uid,
            "SeriesInstanceUID": product.series_instance_uid,
            "SOPInstanceUID": product.sop_instance_uid,
            "Modality": self.modality_of(product.series_instance_uid) or "unknown",
            "model": product.model,
            "output": product.output,
            "ext": product.ext,
        }
        yield fill_layout(self.layout, values)
        folder, slash, name = self.layout.rpartition("/")
        before = "{output}" if "{output}" in name else "{ext}"
        own = name if _OWN_NAME in name else name.replace(before, _OWN_NAME + before, 1)
        yield fill_layout(folder + slash + own, values)


def _identity(path: Path) -> str:
    """What a file says of itself; empty where it is none of ours."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read(_NIFTI_HEADER_BYTES)[_NIFTI_TEXT].rstrip(b"\0").decode("ascii")
        return str(dcmread(path, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID", ""))
    except (OSError, EOFError, zlib.error, InvalidDicomError, ValueError):
        return ""
