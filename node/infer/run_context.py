"""What a runner kind is given and what it hands on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from node.domain.grid import Stack
from node.domain.header import Header
from node.domain.quantity import Quantity
from node.domain.result import LabelArray
from node.infer.content import content_digest
from node.infer.kept import Kept
from node.infer.padding import Padding, fill
from node.infer.registry import ModelSpec
from node.infer.report import LOG_FILE, Report
from node.infer.volume import StoredPixels, Volume, read_volume


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
        """Its voxels were read: remember what they show."""
        self._content[:] = [content_digest(self.stack, volume.array)]

    @property
    def content(self) -> str:
        """What it shows, whatever road and encoding it came by; read for it where nobody did.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """What a runner kind hands on.

    Args:
        labels: On the grid of the first input, shape (slice, row, column); where the model's output
            is regions, bit n-1 is label value n.
        ran: What decided the result beyond the job's parameters, such as the variant and the
            precision; written into the object.
        padding: Of the first input.
    """

    labels: LabelArray
    ran: Mapping[str, str] = field(default_factory=dict)
    padding: Padding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Voxels:
    """What a model is given, by role; padding is filled as it wants, and known where there is any."""

    volumes: Mapping[str, Volume]
    padding: Mapping[str, Padding]


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
