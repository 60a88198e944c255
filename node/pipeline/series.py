"""A series: while it arrives, as rules judge it, and as a job reads it.

What arrives is kept in memory by the process that settles series, as far as it has room: of a header
only what is merged and where its frames lie. It is rebuilt from the spool when that restarts. Of a job's input every file is read once and judged once, for each of its readers: runners want
frames and voxels, encoders and verifiers want the bytes of a header as they came. To look at an element
of a pydicom data set decodes it in place, so each of them gets data sets of its own over the raw
elements of one reading, and none can change what another one reads.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from io import BytesIO
from math import inf
from pathlib import Path
from struct import pack
from typing import BinaryIO

from pydicom import dcmread
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian

from node.assemble.completion import trusted_images_in_acquisition
from node.assemble.gate import MinimumSize, is_regular, judge_geometry
from node.domain.derived import derive
from node.domain.errors import InstanceRejected, NodeError, SeriesUnusable
from node.domain.frames import Frame, frames_of
from node.domain.grid import GateVerdict
from node.domain.header import ABSENT, Header, HeaderMerger, Missing, value_of
from node.domain.instance import Instance, Origin
from node.domain.phase_hints import PhaseHints, phase_hints_of
from node.domain.received import IMAGE_SOP_CLASSES, Loss, can_be_input
from node.infer.model_file import InputPart
from node.infer.run_context import SeriesInput
from node.infer.volume import StoredPixels
from node.receive.syntaxes import DEFLATED
from node.receive.walk import (
    FIRST_PIXELS,
    SEQUENCE_TAGS,
    Structure,
    encoding_of,
    walk,
    walk_head,
)

ReadHeader = Callable[[Instance], Dataset]
_Elements = dict[BaseTag, DataElement | RawDataElement]

# what a merged header takes in memory, measured against what an image takes
_IMAGES_PER_HEADER = 40
# what a header may keep of one value; others are read where somebody asks for them
MAX_VALUE_BYTES = 0xFFFF
# what is read of one header in all: room for 600 000 elements of 50 bytes each
MAX_HEADER_BYTES = 32 << 20
_PIECE_BYTES = 256 << 10
_PART_10 = bytes(128) + b"DICM"  # PS3.10 7.1
_PIXELS = b"\xe0\x7f"
# how much of a file is read, until its pixels are reached
_BEGINNINGS = (64 << 10, 1 << 20, 8 << 20, MAX_HEADER_BYTES)


# --- while it arrives ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A series as it stands at one moment: what rules judge and, at a revision, jobs are made of.

    Args:
        header: What all images have in common, with derived attributes; without images, of the others.
        instances: Images in the order they came, newest versions.
        others: Instances that can be no input: SEG, SR, raw data, images without pixels.
        frames: Of all images.
        gate: What the geometry gate says of them, whatever a model takes.
        is_regular: Its slices, at least two, form one even stack to which none is visibly missing.
        expected: A count of images from the headers, where it can be trusted.
        without_pixels: Grayscale images that came without pixels: beside images that have some they
            are lost.
        origin: Of the instance that came last: who sent it is the sender of the revision.
        phase_hints: What may tell phases apart, frame by frame.
        newest_row: The newest row of the index that it takes into account.
        missing: Images known to be missing, which somebody went on without.
    """

    series_instance_uid: str
    study_instance_uid: str
    header: Header
    instances: Sequence[Instance]
    others: Sequence[Instance]
    frames: Sequence[Frame]
    gate: GateVerdict
    is_regular: bool
    expected: int | None
    without_pixels: Sequence[Loss]
    origin: Origin
    phase_hints: Sequence[PhaseHints]
    snapshot: Mapping[str, int]
    newest_row: int = 0
    revision: int = 1
    missing: int = 0


@dataclass(frozen=True, slots=True)
class _Image:
    """What one input instance adds to the series; its header is read again where that is needed."""

    instance: Instance
    frames: tuple[Frame, ...]
    hints: tuple[PhaseHints, ...]
    instance_number: int | None


class SeriesWatch:
    """Takes instances as they come; answers for the series as a whole.

    Attributes:
        newest_row: The newest row of the index that it knows of.
        size: How much memory it takes, in images of one frame.

    Args:
        read_header: Reads the header of a stored instance, without pixel data.
    """

    def __init__(
        self, series_instance_uid: str, study_instance_uid: str, read_header: ReadHeader
    ) -> None:
        self.series_instance_uid = series_instance_uid
        self.study_instance_uid = study_instance_uid
        self.newest_row = 0
        self.size = _IMAGES_PER_HEADER
        self._read_header = read_header
        self._images: dict[str, _Image] = {}
        self._others: dict[str, Instance] = {}
        self._without_pixels: set[str] = set()
        self._other_header: Header | None = None
        self._merger: HeaderMerger | None = HeaderMerger()
        self._header: Header | None = None
        self._gate: GateVerdict | None = None

    def take_rows(
        self,
        rows: Sequence[tuple[int, Instance]],
        until_s: float = inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> bool:
        """Add instances with their rows of the index, until a time; one at least.

        Returns:
            Whether all were added; else the series must not be judged.
        """
        for row, instance in rows:
            self.take(instance)
            self.newest_row = max(self.newest_row, row)
            if until_s < inf and clock() >= until_s:
                return row == rows[-1][0]
        return True

    def take(self, instance: Instance) -> None:
        """Add an instance, or put an amended copy in the place of what it amends."""
        self._header = None
        if not instance.is_input:
            self._take_other(instance)
            return
        known = self._images.get(instance.sop_instance_uid)
        if known is not None and known.instance.version >= instance.version:
            return
        header = self._read_header(instance)
        frames = _frames_of(header, instance.sop_instance_uid)
        self.size += len(frames)
        if known is not None:
            self.size -= len(known.frames)
            self._merger = None  # the old copy cannot be taken out: merged anew when asked
        elif self._merger is not None:
            self._merger.add(header)
        self._images[instance.sop_instance_uid] = _Image(
            instance, frames, phase_hints_of(header), _instance_number(header)
        )
        self._gate = None

    def _take_other(self, instance: Instance) -> None:
        self.size += instance.sop_instance_uid not in self._others
        self._others[instance.sop_instance_uid] = instance
        if self._other_header is None or instance.sop_class_uid in IMAGE_SOP_CLASSES:
            try:
                header = HeaderMerger([self._read_header(instance)]).header()
            except HeaderTooLong:  # nothing is lost: no rule and no model wants it
                header = Header()
            self._other_header = self._other_header or header
            if can_be_input(instance.sop_class_uid, header.text("PhotometricInterpretation")):
                self._without_pixels.add(instance.sop_instance_uid)

    def now(self) -> Series:
        """The series as it stands."""
        images = self._images.values()
        instances = sorted((each.instance for each in images), key=lambda one: one.received_at)
        others = list(self._others.values())
        frames = [frame for image in images for frame in image.frames]
        origin = max([*instances, *others], key=lambda one: one.received_at).origin
        header = self._merged() if self._header is None else self._header
        hints = [hints for image in images for hints in image.hints]
        if self._gate is None:
            self._gate = judge_geometry(frames, phase_hints=hints)
        if images and self._header is None:
            header = header.with_derived(derive(header, frames, self._gate, origin))
        self._header = header
        return Series(
            series_instance_uid=self.series_instance_uid,
            study_instance_uid=self.study_instance_uid,
            header=header,
            instances=instances,
            others=others,
            frames=frames,
            gate=self._gate,
            is_regular=len(frames) > 1 and (self._gate.stack is not None or is_regular(frames)),
            expected=trusted_images_in_acquisition(
                header,
                [image.instance_number for image in images],
                is_single_frame=all(len(image.frames) == 1 for image in images),
            ),
            without_pixels=[
                Loss(
                    series_instance_uid=self.series_instance_uid,
                    image=uid,
                    sop_instance_uid=uid,
                    association_id=self._others[uid].origin.association_id,
                    dimse_status=0,
                    reason="it came without pixel data",
                )
                for uid in sorted(self._without_pixels - self._images.keys())
            ],
            origin=origin,
            phase_hints=hints,
            snapshot={one.sop_instance_uid: one.version for one in instances},
            newest_row=self.newest_row,
        )

    def _merged(self) -> Header:
        """What all images have in common; without images, what the first other instance says."""
        if not self._images:
            return self._other_header or Header()
        if self._merger is None:
            self._merger = HeaderMerger(
                self._read_header(image.instance) for image in self._images.values()
            )
        return self._merger.header()


def _frames_of(header: Dataset, sop_instance_uid: str) -> tuple[Frame, ...]:
    """The frames of an instance; where its header and the index agree, one text names them."""
    frames = frames_of(header)
    if any(frame.sop_instance_uid != sop_instance_uid for frame in frames):
        return frames
    return tuple(replace(frame, sop_instance_uid=sop_instance_uid) for frame in frames)


def _instance_number(header: Dataset) -> int | None:
    value = value_of(header, "InstanceNumber")
    if isinstance(value, Missing) or not value or not isinstance(value[0], int):
        return None
    return value[0]


# --- as a job reads it ---------------------------------------------------------------------------


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
    _unread: tuple[_Unread, ...]

    def headers(self) -> tuple[Dataset, ...]:
        """Headers of all instances that nobody has looked at; other ones at each call."""
        return tuple(header.data_set() for header in self._unread)


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


def stored_header(instances: Path, instance: Instance) -> Dataset:
    """The header of an instance whose file lies in a folder of the spool; long values stay there.

    Raises:
        HeaderTooLong: It has more than ``MAX_HEADER_BYTES`` besides.
    """
    path = instances / instance.file_name
    if instance.transfer_syntax_uid == DEFLATED:
        return _inflated(path, instance)
    if (top := _walked(path, instance)) is not None:
        header = _undecoded(top)
        if header is not None:
            return header
    with path.open("rb") as file:
        bounded = _Bounded(file)
        return dcmread(bounded, stop_before_pixels=True, force=True, defer_size=MAX_VALUE_BYTES)


class HeaderTooLong(NodeError):
    """Nobody has the memory to read this header."""

    def __init__(self) -> None:
        super().__init__(f"a header is longer than {MAX_HEADER_BYTES >> 20} MB")


class _Bounded:
    """A file that gives no more than a header may have: pydicom keeps all that it reads.

    What it puts off, as it does with long values that lie in no item, it steps over.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.name, self.seek, self.tell = file.name, file.seek, file.tell
        self._file = file
        self._left = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise HeaderTooLong
        self._left -= size
        return self._file.read(size)


def _inflated(path: Path, instance: Instance) -> Dataset:
    """The header of a deflated instance; its pixels are not inflated beyond the bound.

    Source: PS3.5 A.5
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    syntax = ExplicitVRLittleEndian.encode().ljust(20, b"\0")
    data = bytearray(_PART_10 + pack("<HH2sH", 0x0002, 0x0010, b"UI", len(syntax)) + syntax)
    with path.open("rb") as file:
        file.seek(instance.data_offset)
        while len(data) < MAX_HEADER_BYTES and (piece := file.read(_PIECE_BYTES)):
            data += stream.decompress(piece, MAX_HEADER_BYTES - len(data))
    inflated = BytesIO(data)
    header = dcmread(inflated, stop_before_pixels=True, force=True)
    if not stream.eof and inflated.read(len(_PIXELS)) != _PIXELS:
        raise HeaderTooLong
    return header


def _walked(path: Path, instance: Instance) -> Structure | None:
    """A header as the ingest walked it, in a third of the time of reading it otherwise.

    None where it is longer than headers may be, or the data set has an oddity, which readers may
    understand each in their way.
    """
    encoding = encoding_of(instance.transfer_syntax_uid)
    # read, and not mapped: a disk that fails under a map ends the process
    with path.open("rb", buffering=0) as file:
        for most in _BEGINNINGS:
            data = memoryview(os.pread(file.fileno(), most, instance.data_offset))
            try:
                top = walk_head(data, encoding) if len(data) == most else walk(data, encoding)
            except InstanceRejected:
                return None
            if top is not None:
                return None if top.notes else top
    return None


def _undecoded(top: Structure) -> Dataset | None:
    """The elements in front of the pixels; None where nobody can tell how texts are written."""
    is_implicit, is_little = top.encoding.is_implicit, top.encoding.is_little_endian
    elements: dict[BaseTag, DataElement | RawDataElement] = {}
    for number, found in top.elements.items():
        if number >= FIRST_PIXELS:
            break
        end = found.offset + found.length
        is_long = found.length > MAX_VALUE_BYTES and not (
            found.vr == b"SQ" or number in SEQUENCE_TAGS
        )
        tag = BaseTag(number)
        elements[tag] = RawDataElement(
            *(tag, found.vr.decode() or None, found.length),
            None if is_long else bytes(top.data[found.offset : end]),
            *(found.offset, is_implicit, is_little),
        )
    header = Dataset(elements)
    header.set_original_encoding(is_implicit, is_little, default_encoding)
    named = value_of(header, "SpecificCharacterSet")
    if isinstance(named, Missing):
        return header if named == ABSENT else None
    header.set_original_encoding(is_implicit, is_little, convert_encodings(list(map(str, named))))
    return header


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
    unread = tuple(_Unread.of(header.dataset) for header in headers.values())
    frames = [frame for header in headers.values() for frame in frames_of(header.dataset)]
    verdict = judge_geometry(frames, minimum_of(wanted), quantities=wanted.quantities)
    if verdict.stack is None:
        raise SeriesUnusable(verdict.findings)
    common = HeaderMerger(header.dataset for header in headers.values()).header()
    given = SeriesInput(
        stack=verdict.stack,
        files=files,
        header=common.with_derived(derive(common, frames, verdict, None)),
        pixels={
            uid: StoredPixels.of(header.dataset, header.pixels_at)
            for uid, header in headers.items()
        },
    )
    return Source(given=given, _unread=unread)


@dataclass(frozen=True, slots=True)
class _Unread:
    """The raw elements of one header: what a data set holds that nobody has looked at."""

    elements: _Elements
    meta: _Elements
    encoding: tuple[bool | None, bool | None]
    character_set: str | MutableSequence[str]

    @classmethod
    def of(cls, header: Dataset) -> _Unread:
        """Of a header that was just read; looking at that one does not change these."""
        return cls(
            _own(_raw(header)),
            _own(_raw(header.file_meta)),
            header.original_encoding,
            header.original_character_set,
        )

    def data_set(self) -> Dataset:
        twin = Dataset(_own(self.elements))
        twin.set_original_encoding(*self.encoding, self.character_set)
        twin.file_meta = FileMetaDataset(_own(self.meta))
        return twin


def _raw(dataset: Dataset) -> _Elements:
    return {tag: dataset.get_item(tag) for tag in dataset.keys()}  # noqa: SIM118 - that would decode


def _own(elements: _Elements) -> _Elements:
    """Raw elements cannot be changed; what reading took apart already is copied."""
    return {
        tag: found if isinstance(found, RawDataElement) else _copied(found)
        for tag, found in elements.items()
    }


def _copied(element: DataElement) -> DataElement:
    is_plain = element.VR != "SQ" and element.VM == 1
    return copy(element) if is_plain else deepcopy(element)
