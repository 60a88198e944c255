"""An input series as a job reads it: every file once, judged once, for each of its readers.

Runners want frames and voxels, encoders and verifiers want the bytes of a header as they came. To
look at an element of a pydicom data set decodes it in place, so each of them gets data sets of its own
over the raw elements of one reading, and none can change what another one reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag

from node.assemble.gate import MinimumSize, judge_geometry
from node.domain.derived import derive
from node.domain.errors import SeriesUnusable
from node.domain.frames import frames_of
from node.domain.grid import Stack
from node.domain.header import HeaderMerger
from node.infer.model_file import InputPart
from node.infer.run_context import SeriesInput
from node.infer.volume import StoredPixels


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHeader:
    """The header of one file, as it was read.

    Args:
        pixels_at: Where in the file the Pixel Data element begins, in bytes.
    """

    dataset: FileDataset
    pixels_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One input series that passed the gate.

    Args:
        given: As a runner gets it.
    """

    given: SeriesInput
    _pristine: tuple[Dataset, ...]

    def headers(self) -> tuple[Dataset, ...]:
        """Headers of all instances that nobody has looked at; other ones at each call."""
        return tuple(_as_read(header) for header in self._pristine)

    @property
    def stack(self) -> Stack:
        """The regular volume that the series is."""
        return self.given.stack


def minimum_of(wanted: InputPart) -> MinimumSize:
    """The smallest series that a model takes for a role."""
    return MinimumSize(slices=wanted.min_slices, rows=wanted.min_rows, columns=wanted.min_columns)


def read_header(path: Path, *, force: bool = True) -> StoredHeader:
    """Read the header of a file, and leave its pixels.

    Args:
        force: Read a file without a File Meta Information prefix, too.
    Raises:
        OSError: The file cannot be read.
        InvalidDicomError: It is not a DICOM file; only without ``force``.
    """
    with path.open("rb") as file:
        dataset = dcmread(file, stop_before_pixels=True, force=force)
        return StoredHeader(dataset=dataset, pixels_at=file.tell())


def read_source(files: Mapping[str, Path], wanted: InputPart) -> Source:
    """Read and judge a series.

    Args:
        files: SOP Instance UID -> path.
        wanted: What the model takes for the role of this series.
    Raises:
        SeriesUnusable: It is not one regular volume, or not of what the model takes.
    """
    return judged_source({uid: read_header(path) for uid, path in files.items()}, files, wanted)


def judged_source(
    headers: Mapping[str, StoredHeader], files: Mapping[str, Path], wanted: InputPart
) -> Source:
    """Judge a series whose headers were read.

    Raises:
        SeriesUnusable: It is not one regular volume, or not of what the model takes.
    """
    pristine = tuple(_as_read(header.dataset) for header in headers.values())
    frames = [frame for header in headers.values() for frame in frames_of(header.dataset)]
    verdict = judge_geometry(frames, minimum_of(wanted), quantities=wanted.quantities)
    if verdict.stack is None:
        raise SeriesUnusable(verdict.findings)
    merger = HeaderMerger()
    for header in headers.values():
        merger.add(header.dataset)
    common = merger.header()
    given = SeriesInput(
        stack=verdict.stack,
        files=files,
        header=common.with_derived(derive(common, frames, verdict, None)),
        pixels={
            uid: StoredPixels.of(header.dataset, header.pixels_at)
            for uid, header in headers.items()
        },
    )
    return Source(given=given, _pristine=pristine)


def _as_read(header: Dataset) -> Dataset:
    """A data set of its own over the same raw elements, none of which was looked at."""
    twin = Dataset(_own_elements(header))
    is_implicit, is_little = header.original_encoding
    twin.set_original_encoding(is_implicit, is_little, header.original_character_set)
    twin.file_meta = FileMetaDataset(_own_elements(header.file_meta))
    return twin


def _own_elements(dataset: Dataset) -> dict[BaseTag, DataElement | RawDataElement]:
    """Its elements; raw ones cannot be changed, what reading took apart already is copied."""
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    for tag in dataset.keys():  # noqa: SIM118 - iterating a Dataset would decode every element
        found: DataElement | RawDataElement = dataset.get_item(tag)
        if isinstance(found, DataElement):
            is_plain = found.VR != "SQ" and found.VM == 1
            found = copy(found) if is_plain else deepcopy(found)
        elements[tag] = found
    return elements
