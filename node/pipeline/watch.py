"""One series while it arrives: its headers merged, its frames, its instances, slice by slice.

Kept in memory by the process that settles series, and rebuilt from the spool when that restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf

from pydicom.dataset import Dataset

from node.assemble.completion import trusted_images_in_acquisition
from node.assemble.gate import judge_geometry
from node.assemble.planes import PhaseHints, phase_hints_of
from node.domain.derived import derive
from node.domain.frames import Frame, frames_of
from node.domain.grid import GateVerdict
from node.domain.header import Header, HeaderMerger, Missing, value_of
from node.domain.instance import Instance, Origin
from node.domain.received import Loss
from node.jobs.values import SeriesPart
from node.receive.syntaxes import IMAGE_SOP_CLASSES, can_be_input
from node.route.sets import Candidate

ReadHeader = Callable[[Instance], Dataset]


@dataclass(frozen=True, slots=True)
class _Image:
    """What one input instance adds to the series."""

    instance: Instance
    header: Dataset
    frames: tuple[Frame, ...]
    hints: tuple[PhaseHints, ...]
    instance_number: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteSeries:
    """A series at one revision: the snapshot that rules judge and jobs are made of.

    Args:
        instances: In the order they came.
        frames: Of all instances.
        phase_hints: What may tell phases apart, frame by frame.
        missing: Images known to be missing, which somebody went on without.
    """

    series_instance_uid: str
    study_instance_uid: str
    patient_id: str
    revision: int
    header: Header
    instances: Sequence[Instance]
    frames: Sequence[Frame]
    origin: Origin
    phase_hints: Sequence[PhaseHints] = ()
    missing: int = 0

    @property
    def part(self) -> SeriesPart:
        """The series and its revision."""
        return SeriesPart(series_instance_uid=self.series_instance_uid, revision=self.revision)

    @property
    def candidate(self) -> Candidate:
        """What a study rule chooses by."""
        return Candidate(
            series_instance_uid=self.series_instance_uid,
            patient_id=self.patient_id,
            header=self.header,
            slices=len(self.frames),
        )

    @property
    def snapshot(self) -> dict[str, int]:
        """SOP Instance UID -> version."""
        return {one.sop_instance_uid: one.version for one in self.instances}


class SeriesWatch:
    """Takes instances as they come; answers for the series as a whole.

    Attributes:
        look_again_at: When the series is to be judged next.
        newest_row: The newest row of the index that it knows of.
        senders: Associations that carried it and were open when it was last judged.

    Args:
        read_header: Reads the header of a stored instance, without pixel data.
    """

    def __init__(
        self, series_instance_uid: str, study_instance_uid: str, read_header: ReadHeader
    ) -> None:
        self.series_instance_uid = series_instance_uid
        self.study_instance_uid = study_instance_uid
        self.look_again_at = -inf
        self.newest_row = 0
        self.senders: frozenset[str] = frozenset()
        self._read_header = read_header
        self._images: dict[str, _Image] = {}
        self._others: dict[str, Instance] = {}
        self._without_pixels: set[str] = set()
        self._other_header: Header | None = None
        self._merger: HeaderMerger | None = HeaderMerger()
        self._header: Header | None = None
        self._verdict: GateVerdict | None = None

    def take_rows(self, rows: Iterable[tuple[int, Instance]]) -> None:
        """Add instances with their rows of the index, and have the series looked at."""
        for row, instance in rows:
            self._take(instance)
            self.newest_row = max(self.newest_row, row)
        self.look_again_at = -inf

    def take_all(self, instances: Iterable[Instance]) -> None:
        """Add instances that no index knows of."""
        self.take_rows((0, instance) for instance in instances)

    def _take(self, instance: Instance) -> None:
        """Add an instance, or put an amended copy in the place of what it amends."""
        self._header = None
        if not instance.is_input:
            self._take_other(instance)
            return
        known = self._images.get(instance.sop_instance_uid)
        if known is not None and known.instance.version >= instance.version:
            return
        header = self._read_header(instance)
        self._images[instance.sop_instance_uid] = _Image(
            instance,
            header,
            frames_of(header),
            phase_hints_of(header),
            _instance_number(header),
        )
        self._verdict = None
        if known is not None:
            self._merger = None  # the old copy cannot be taken out: merged anew when asked
        elif self._merger is not None:
            self._merger.add(header)

    def _take_other(self, instance: Instance) -> None:
        self._others[instance.sop_instance_uid] = instance
        if self._other_header is None or instance.sop_class_uid in IMAGE_SOP_CLASSES:
            merger = HeaderMerger()
            merger.add(self._read_header(instance))
            header = merger.header()
            self._other_header = self._other_header or header
            if can_be_input(instance.sop_class_uid, header.text("PhotometricInterpretation")):
                self._without_pixels.add(instance.sop_instance_uid)

    @property
    def inputs(self) -> Sequence[Instance]:
        """Image instances, newest versions."""
        return [image.instance for image in self._images.values()]

    @property
    def others(self) -> Sequence[Instance]:
        """Instances that can be no input: SEG, SR, raw data, images without pixels."""
        return list(self._others.values())

    @property
    def without_pixels(self) -> Sequence[Loss]:
        """Grayscale images that came without pixels: beside images that have some they are lost."""
        return [
            Loss(
                series_instance_uid=self.series_instance_uid,
                image=uid,
                sop_instance_uid=uid,
                association_id=self._others[uid].origin.association_id,
                dimse_status=0,
                reason="it came without pixel data",
            )
            for uid in sorted(self._without_pixels - self._images.keys())
        ]

    @property
    def newest(self) -> Instance:
        """The instance that came last: who sent it is the sender of the revision."""
        return max([*self.inputs, *self.others], key=lambda instance: instance.received_at)

    @property
    def frames(self) -> list[Frame]:
        """All frames of all images."""
        return [frame for image in self._images.values() for frame in image.frames]

    def gate(self) -> GateVerdict:
        """The geometry gate's verdict on what is there now."""
        if self._verdict is None:
            self._verdict = judge_geometry(self.frames, phase_hints=self.phase_hints)
        return self._verdict

    def header(self) -> Header:
        """What all images have in common, with derived attributes."""
        if not self._images:
            return self._other_header or Header()
        if self._header is None:
            merged = self._merged()
            origin = self.newest.origin
            self._header = merged.with_derived(derive(merged, self.frames, self.gate(), origin))
        return self._header

    def complete(self, *, revision: int, missing: int = 0) -> CompleteSeries:
        """What is there now, as rules and models take it."""
        header = self.header()
        return CompleteSeries(
            series_instance_uid=self.series_instance_uid,
            study_instance_uid=self.study_instance_uid,
            patient_id=header.text("PatientID"),
            revision=revision,
            header=header,
            instances=sorted(self.inputs, key=lambda one: one.received_at),
            frames=self.frames,
            origin=self.newest.origin,
            phase_hints=self.phase_hints,
            missing=missing,
        )

    def expected(self) -> int | None:
        """A count of images from the headers, where it can be trusted."""
        images = self._images.values()
        return trusted_images_in_acquisition(
            self.header(),
            [image.instance_number for image in images],
            is_single_frame=all(len(image.frames) == 1 for image in images),
        )

    def _merged(self) -> Header:
        if self._merger is None:
            self._merger = HeaderMerger()
            for image in self._images.values():
                self._merger.add(image.header)
        return self._merger.header()

    @property
    def phase_hints(self) -> list[PhaseHints]:
        """What tells phases apart, frame by frame in the order of ``frames``."""
        return [hints for image in self._images.values() for hints in image.hints]


def _instance_number(header: Dataset) -> int | None:
    value = value_of(header, "InstanceNumber")
    if isinstance(value, Missing) or not value or not isinstance(value[0], int):
        return None
    return value[0]
