"""The output folder of a container: taken out as ours, and the result files in it found and read."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that
from numpy.typing import NDArray

from node.domain.errors import JobFailed, JobRefused
from node.domain.result import LabelArray
from node.domain.segment import Segment
from node.infer.container.grid import Canvas, Floats, SourceGrid
from node.infer.container.seg_output import paint_segmentation, refused
from node.infer.run_context import SeriesInput

USUAL_OUTPUTS = ("**/*.seg.dcm", "**/*.dcm", "**/*.nii.gz", "**/*.nii")
"""Where a model names no pattern: the first of these that any file fits."""

MOST_FILES = 10_000
MOST_BYTES = 16 << 30

_NIFTI = (".nii.gz", ".nii")
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a container wrote: where it lies here, and its name below the output folder."""

    path: Path
    name: PurePosixPath


def take_out(stream: IO[bytes], folder: Path, *, newer_than_s: float) -> list[OutputFile]:
    """Write the regular files of a tar stream into a new folder, as files of this process.

    Names, owners, modes and links of the archive are the container's: none of them is used on this
    machine. What is older than the run came with the image and is left out.

    Args:
        newer_than_s: Seconds since 1970, by the clock of the engine.
    Raises:
        JobRefused: The stream ends early, or holds more than a result could.
    """
    folder.mkdir()
    files: list[OutputFile] = []
    size_bytes = 0
    root: PurePosixPath | None = None
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                # the first member is the output folder itself; engines call it differently
                root = _plain(member.name) if root is None else root
                if not member.isfile() or member.mtime < newer_than_s:
                    continue
                size_bytes += member.size
                if len(files) >= MOST_FILES or size_bytes > MOST_BYTES:
                    raise JobRefused("the container wrote more than any result")
                name = _plain(member.name).relative_to(root)
                path = folder / f"{len(files)}{_suffix(name)}"
                content = archive.extractfile(member)
                if content is not None:
                    with path.open("wb") as file:
                        shutil.copyfileobj(content, file, _PIECE_BYTES)
                    files.append(OutputFile(path, name))
    except (tarfile.TarError, ValueError) as error:
        raise JobFailed("the container's output could not be taken out whole") from error
    return files


def choose(files: Sequence[OutputFile], patterns: Sequence[str]) -> list[OutputFile]:
    """The result files among all that the container wrote.

    Raises:
        JobRefused: A pattern fits no file or several.
    """
    chosen: list[OutputFile] = []
    for pattern in patterns or USUAL_OUTPUTS:
        fitting = _fitting(files, pattern)
        if fitting and not patterns:
            return fitting
        if patterns and not fitting:
            raise JobRefused(f"the container wrote no file that fits {pattern}")
        chosen += fitting
    if not chosen:
        raise JobRefused("the container wrote files, but no segmentation")
    return chosen


def read_outputs(
    files: Sequence[OutputFile],
    inputs: Mapping[str, SeriesInput],
    segments: Sequence[Segment],
    *,
    overlapping: bool,
) -> LabelArray:
    """The labels of all result files on the grid of the first input.

    Args:
        files: The chosen ones.
    Raises:
        JobFailed: One of them is not a result of these inputs.
    """
    stack = next(iter(inputs.values())).stack
    grid = SourceGrid(stack)
    canvas = Canvas(grid.shape, segments, overlapping=overlapping)
    for file in files:
        if _suffix(file.name) in _NIFTI:
            _paint_label_map(file.path, grid, canvas)
        else:
            paint_segmentation(file.path, inputs, grid, segments, canvas)
    return canvas.labels


def _fitting(files: Sequence[OutputFile], pattern: str) -> list[OutputFile]:
    """The file that fits a pattern, if any does.

    Raises:
        JobRefused: Several do.
    """
    # a glob as in a shell: ``**/`` is any folders or none, ``*`` and ``?`` stay in one folder
    meaning = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*|\?)", pattern)
    glob = re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))
    fitting = [file for file in files if glob.fullmatch(str(file.name))]
    if len(fitting) > 1:
        raise JobRefused(
            f"the container wrote {len(fitting)} files that fit {pattern}, where one is expected:"
            " runner.outputs of model.yaml names it"
        )
    return fitting


def _suffix(name: PurePosixPath) -> str:
    return next((suffix for suffix in _NIFTI if name.name.casefold().endswith(suffix)), ".dcm")


def _plain(name: str) -> PurePosixPath:
    return PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", ".")))


def _paint_label_map(path: Path, grid: SourceGrid, canvas: Canvas) -> None:
    """Paint the labels of a file, whose values are those of labels.csv, onto the source grid.

    Raises:
        JobRefused: It is no label map, lies elsewhere or has values that the model does not
            describe.
    """
    values, affine_lps = _read_nifti(path)
    if values.ndim != 3:
        raise refused("is not one volume of single values")
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise refused("holds values that are no labels")
    window = grid.place_volume(affine_lps, values.shape)
    present = np.unique(values)
    if np.any(present != np.floor(present)) or present[0] < 0:
        raise refused("holds values that are no labels: negative ones or fractions")
    for value in present:
        if value:
            canvas.paint(window, np.asarray(values == value), int(value))


def _read_nifti(path: Path) -> tuple[NDArray[Any], Floats]:
    """The values, shape (k, j, i), and from that index to LPS millimetres, SimpleITK's own frame."""
    library: Any = sitk  # has no types
    try:
        image = library.ReadImage(str(path))
    except RuntimeError as error:
        raise refused("cannot be read as NIfTI") from error
    affine_lps = np.eye(4)
    if image.GetDimension() == 3:
        direction = np.array(image.GetDirection()).reshape(3, 3)
        affine_lps[:3, :3] = (direction * np.array(image.GetSpacing()))[:, ::-1]
        affine_lps[:3, 3] = image.GetOrigin()
    return np.asarray(sitk.GetArrayFromImage(image)), affine_lps
