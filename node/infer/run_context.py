"""The run of one model: what its kind is given, the one call, and what is made sure of afterwards.

Padding, voxels that only fill the rectangle of an image, is dealt with on both ways. A model gets it
as the number that its ``model.yaml`` names. Without one that is air for Hounsfield units: -1024, the
least that 12 bits with the usual intercept hold and what scanners write beside the reconstructed
circle, so it is what networks saw there; for any other quantity it is the least number of the volume.
What a model finds there is taken out again, unless it says that labels may lie there.

Source: PS3.3 C.7.5.1.1.2 (padding), C.7.6.2 (image plane).
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from node.domain.errors import JobRefused
from node.domain.grid import Stack
from node.domain.header import Header
from node.domain.quantity import Quantity
from node.domain.result import LabelArray, LabelCounts, label_values_of
from node.infer.assets import Kept
from node.infer.registry import ModelSpec, load_model
from node.infer.report import LOG_FILE, Report
from node.infer.volume import Mask, StoredPixels, Volume, VoxelArray, read_volume

AIR_HU = -1024

_INT16 = np.iinfo(np.int16)
_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesInput:
    """One input series that passed the gate; its pixels are read by kinds that want them.

    Args:
        files: SOP Instance UID -> Part 10 file.
        header: What is equal in all instances.
        pixels: SOP Instance UID -> what its header says of its pixels; read from the file of one
            that is not there.
    """

    stack: Stack
    files: Mapping[str, Path]
    header: Header
    pixels: Mapping[str, StoredPixels] = field(default_factory=dict, repr=False, compare=False)
    _content: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def voxels(self, quantities: Collection[Quantity] = ()) -> Volume:
        """Its voxels, in one of these quantities where there are any; see ``read_volume``."""
        return read_volume(self.stack, self.files, quantities, self.pixels)

    def note_content(self, volume: Volume) -> None:
        """Its voxels were read: remember what they show.

        The bytes of one series differ by transfer syntax, by length encoding, by what a peer re-wrote
        on the way; its voxels, where they lie and whose instances they are do not. What a result is
        called follows from them, so that a series that comes by STOW-RS to one node and by C-STORE
        to another gets one and the same result.
        """
        grid = self.stack.grid
        place = (grid.shape, grid.origin_mm, grid.steps_mm, grid.frame_of_reference_uid)
        digest = hashlib.sha256(repr((place, volume.array.dtype.str)).encode())
        with ThreadPoolExecutor(_THREADS) as threads:
            slices = threads.map(
                lambda plane: hashlib.sha256(np.ascontiguousarray(plane).data), volume.array
            )
            for frame, voxels in zip(self.stack.frames, slices, strict=True):
                digest.update(f"{frame.sop_instance_uid}:{frame.frame_number}:".encode())
                digest.update(voxels.digest())
        self._content[:] = [digest.hexdigest()]

    @property
    def content(self) -> str:
        """What it shows, whatever transport and encoding it came by; read for it where nobody did.

        Raises:
            JobFailed: A file is missing or cannot be decoded.
        """
        if not self._content:
            self.note_content(self.voxels())
        return self._content[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """Where a run happens.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        weights_dir: Pulled files of the model NAME lie in ``weights_dir/NAME/<path>``.
        scratch: An empty folder of this run in that of its job; removed afterwards.
        memory_gb: What the run may take of main memory.
        kept: What was kept of earlier runs in this process.
    """

    device: str
    weights_dir: Path
    scratch: Path
    memory_gb: float
    kept: Kept = field(default_factory=Kept, repr=False, compare=False)

    @property
    def log(self) -> Path:
        """Where the output of other programs goes: beside the results, kept for as long as they are.

        It may quote a header, so none of it ever becomes part of a sentence.
        """
        return self.scratch.parent / LOG_FILE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Padding:
    """Where a series is padding, shape (slice, row, column), and as what the model got it.

    Args:
        given_as: None where the model read the files itself.
    """

    where: Mask
    given_as: float | None = None

    @property
    def words(self) -> str:
        """For the record of what ran."""
        number = f"{np.count_nonzero(self.where)} voxels"
        return number if self.given_as is None else f"{number} given as {self.given_as:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Voxels:
    """What a model is given, by role; padding is filled as it wants, and known where there is any."""

    volumes: Mapping[str, Volume]
    padding: Mapping[str, Padding]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """What a runner kind hands on.

    Args:
        labels: On the grid of the first input, shape (slice, row, column); where the model's output
            is regions, bit n-1 is label value n.
        ran: What decided the result beyond the job's parameters, such as the variant and the
            precision; written into the object.
        padding: Of the first input.
        counts: Of the labels, once they were checked.
    """

    labels: LabelArray
    ran: Mapping[str, str] = field(default_factory=dict)
    padding: Padding | None = None
    counts: LabelCounts | None = None


Worker = Callable[[ModelSpec, Mapping[str, SeriesInput], RunContext, Report], ModelOutput]


def run_model(
    spec: ModelSpec,
    inputs: Mapping[str, SeriesInput],
    context: RunContext,
    report: Report,
    parameters: Mapping[str, object] | None = None,
) -> ModelOutput:
    """What a model makes of its inputs, on the grid of the first.

    Args:
        inputs: Role -> series, every role of the model.
        parameters: Of this job, over those of the model folder.
    Raises:
        JobFailed: The inputs are not the model's, or what it returned is not what it declares.
    """
    if inputs.keys() != spec.inputs.keys():
        raise JobRefused(f"{spec.name} takes {sorted(spec.inputs)}, not {sorted(inputs)}")
    module, _, function = spec.runner.WORKER.partition(":")
    work: Worker = getattr(importlib.import_module(module), function)
    produced = work(with_parameters(spec, parameters or {}), inputs, context, report)
    with report.stage("check"):
        counts = check_labels(spec, inputs[spec.grid_role].stack.grid.shape, produced.labels)
        return _without_padding(spec, replace(produced, counts=counts), report)


def warm(request: Mapping[str, Any], report: Report, kept: Kept) -> Mapping[str, Any]:
    """A job for an idle child: what ``request["models"]`` need before a first job.

    Each is given by its folder and the parameters that a job will have. The first real job then
    does not pay for it. A kind that can do more than be imported has a function
    ``warm(spec, weights_dir, device, kept)``.
    """
    with report.stage("warm"):
        for given in request["models"]:
            model = kept.model(Path(given["folder"]), load_model)
            spec = with_parameters(model, given["parameters"])
            worker = importlib.import_module(spec.runner.WORKER.partition(":")[0])
            if hasattr(worker, "warm"):
                worker.warm(spec, Path(request["weights_dir"]), request["device"], kept)
    return {}


def with_parameters(spec: ModelSpec, parameters: Mapping[str, object]) -> ModelSpec:
    """The model with the parameters of a job over its own."""
    given = {**spec.runner.parameters, **parameters}
    return replace(spec, runner=spec.runner.model_copy(update={"parameters": given}))


def read_volumes(spec: ModelSpec, inputs: Mapping[str, SeriesInput], report: Report) -> Voxels:
    """The voxels of every input in a quantity that the model takes.

    Raises:
        JobFailed: A file is missing, contradicts its stack or cannot be decoded.
        SeriesUnusable: The model takes SUV, which cannot be computed.
    """
    volumes: dict[str, Volume] = {}
    padding: dict[str, Padding] = {}
    with report.stage("read"):
        for role, given in inputs.items():
            wanted = spec.inputs[role]
            volume = given.voxels(wanted.quantities)
            given.note_content(volume)
            volumes[role], found = fill(volume, wanted.padding)
            if found is not None:
                padding[role] = found
    return Voxels(volumes=volumes, padding=padding)


def padding_of(given: SeriesInput) -> Padding | None:
    """Where a series is padding, for kinds that hand the files on as they are."""
    if all(frame.values.format.padding is None for frame in given.stack.frames):
        return None
    where = given.voxels().padding
    return None if where is None else Padding(where=where)


def fill(volume: Volume, wanted: float | None) -> tuple[Volume, Padding | None]:
    """The volume with its padding as a model wants it, in place where its type can hold that.

    Args:
        wanted: The model's number; None: the one of the quantity.
    """
    where, array = volume.padding, volume.array
    if where is None:
        return volume, None
    value = _usual_number(volume, where) if wanted is None else wanted
    is_whole = float(value).is_integer() and _INT16.min <= value <= _INT16.max
    if array.dtype == np.int16 and not is_whole:
        array = array.astype(np.float32)
    for plane, outside in zip(array, where, strict=True):
        np.copyto(plane, array.dtype.type(value), where=outside)
    return replace(volume, array=array), Padding(where=where, given_as=float(value))


def _usual_number(volume: Volume, where: Mask) -> float:
    if volume.quantity is Quantity.HU:
        return AIR_HU
    array: VoxelArray = volume.array
    inside = array[~where]
    return float(inside.min()) if inside.size else 0.0


def _without_padding(spec: ModelSpec, produced: ModelOutput, report: Report) -> ModelOutput:
    """What was found where there is no image is taken out, counted and told."""
    padding = produced.padding
    if padding is None:
        return produced
    ran = {**produced.ran, "padding": padding.words}
    if spec.inputs[spec.grid_role].labels_on_padding:
        return replace(produced, ran=ran)
    labels, number = cleared(produced.labels, padding)
    counts = produced.counts
    if number:
        counts = LabelCounts.of(labels)
        ran["padding_cleared"] = f"{number} voxels"
        report.note(f"labels on {number} voxels of padding were taken out")
    return replace(produced, labels=labels, ran=ran, counts=counts)


def cleared(labels: LabelArray, padding: Padding) -> tuple[LabelArray, int]:
    """The labels without those on padding, and how many voxels lost theirs."""
    number = int(np.count_nonzero(labels[padding.where]))
    if number:
        labels = labels if labels.flags.writeable else labels.copy()
        labels[padding.where] = 0
    return labels, number


def check_labels(spec: ModelSpec, shape: tuple[int, int, int], labels: LabelArray) -> LabelCounts:
    """Count an array that is what the model declares: on this grid, with no label but its own.

    Raises:
        JobRefused: It is not.
    """
    if labels.shape != shape or labels.dtype not in (np.uint8, np.uint16):
        raise JobRefused(
            f"{spec.name} returned {labels.dtype} of {labels.shape}, not labels on the grid {shape}"
        )
    counts = LabelCounts.of(labels)
    found = {
        value
        for stored in counts.values.tolist()
        for value in label_values_of(stored, overlapping=spec.has_regions)
    }
    unknown = sorted(found - spec.segment_of.keys())
    if unknown:
        raise JobRefused(
            f"{spec.name} returned labels that labels.csv does not describe: {unknown[:5]}"
        )
    return counts
