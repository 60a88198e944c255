"""One network of brainchop over one head: entry of the runner kind ``python``, and skull stripping.

brainchop crops the cube to a box around what is brighter than a part of the maximum, lets the network
see that box alone, and keeps the largest connected piece of its labels. The same is done here, with
the part and the margin that brainchop's list has for the network: another crop gives other labels,
because its edge is a border of zeros for the network, and because a normalisation takes its mean over
the box. The labels equal those of the plain network on that box.

Skull stripping is one such network, mindgrab. Its authors trained it on many contrasts (T1, T2, FLAIR,
DWI, CT, PET and more).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from node.domain.errors import JobRefused
from node.domain.result import LabelArray
from node.infer.brain.conform import SIDE, Cube, conform, unit_range
from node.infer.report import Report
from node.infer.run_context import RunContext
from node.infer.volume import Volume

if TYPE_CHECKING:
    from node.infer.registry import ModelSpec

REVISION = 1

SKULL_STRIP = "skull_strip/model.json"  # as models that need it declare it
_SMALLEST_ML = 100.0

_ITK: Any = SimpleITK  # its functions carry no types


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """The box that the network sees.

    Args:
        above: Part of the brightest voxel that a voxel must exceed to be inside, 0 to 1.
        margin_mm: Added at each side, within the cube.
    """

    above: float
    margin_mm: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.above < 1.0 or self.margin_mm < 0:
            raise ValueError(f"no box above {self.above} with a margin of {self.margin_mm} mm")

    def box(self, image: NDArray[np.float32]) -> tuple[slice, slice, slice]:
        """Where it lies in an image from 0 to 1."""
        bright = image > self.above
        ends = [np.flatnonzero(bright.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        left, inferior, anterior = (
            slice(max(0, int(at[0]) - self.margin_mm), min(SIDE, int(at[-1]) + 1 + self.margin_mm))
            for at in ends
        )
        return left, inferior, anterior


def segment(
    spec: ModelSpec, volumes: Mapping[str, Volume], context: RunContext, report: Report
) -> LabelArray:
    """The labels of the only volume, by the network in the model's folder of pulled files.

    Raises:
        JobRefused: Parameters, network or volume are not usable.
    """
    (volume,) = volumes.values()
    return head_labels(
        volume,
        context.weights_dir / spec.name,
        crop=_crop(spec.runner.parameters),
        device=context.device,
        report=report,
    )


def head_labels(
    volume: Volume, folder: Path, *, crop: Crop, device: str, report: Report
) -> NDArray[np.uint8]:
    """The labels of a volume on its own grid.

    Args:
        folder: Holds the network: ``model.json`` and its weight files.
    """
    # here, not above: a model folder is checked where torch is absent
    from node.infer.brain.meshnet import label_volume
    from node.infer.brain.tfjs import load_network

    with report.stage("load model"):
        network = load_network(folder).to(device)
    with report.stage("prepare"):
        cube = conform(volume)
        _note_cut(cube, report)
        image = unit_range(cube.array)
        box = crop.box(image)
    with report.stage("network"):
        labels = np.zeros(image.shape, np.uint8)
        labels[box] = label_volume(network, image[box], device=device)
    with report.stage("invert"):
        labels[box] *= _largest_piece(labels[box])
        return cube.back(labels)


# brainchop's own for mindgrab
_SKULL_STRIP_CROP = Crop(above=0.5, margin_mm=20)


def skull_strip(
    volume: Volume, files: Mapping[str, Path], *, device: str, report: Report
) -> NDArray[np.bool_]:
    """The brain in a volume, on its own grid.

    Args:
        files: Of a model, by their declared paths: mindgrab's ``model.json`` beside its weights.
    Raises:
        JobRefused: The network is not declared, cannot be read, or finds less than 100 ml of brain.
    """
    if SKULL_STRIP not in files:
        raise JobRefused(f"model.yaml names no {SKULL_STRIP} among prepare_files")
    labels = head_labels(
        volume, files[SKULL_STRIP].parent, crop=_SKULL_STRIP_CROP, device=device, report=report
    )
    brain: NDArray[np.bool_] = labels == 1
    found_ml = np.count_nonzero(brain) * volume.grid.voxel_ml
    if found_ml < _SMALLEST_ML:
        raise JobRefused(
            f"skull stripping found {found_ml:.0f} ml of brain: is this a series of a head?"
        )
    return brain


def _crop(parameters: Mapping[str, object]) -> Crop:
    unknown = sorted(set(parameters) - {"crop_above", "crop_margin_mm"})
    above, margin_mm = parameters.get("crop_above"), parameters.get("crop_margin_mm")
    if unknown or not isinstance(above, int | float) or not isinstance(margin_mm, int):
        raise JobRefused(
            "a head network takes the parameters crop_above (a number) and crop_margin_mm (a whole"
            f" number), not {sorted(parameters)}"
        )
    try:
        return Crop(above=float(above), margin_mm=margin_mm)
    except ValueError as error:
        raise JobRefused(str(error)) from error


def _note_cut(cube: Cube, report: Report) -> None:
    names = ("right and left", "head and foot", "back and front")
    for name, mm in zip(names, cube.cut_mm, strict=True):
        if mm >= 0.5:
            report.note(
                f"{mm:.0f} mm at each end between {name} lie outside the {SIDE} mm cube around the"
                " centre of the series and stay without labels"
            )


def _largest_piece(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """1 in the largest piece of voxels with any label that touch by a face, edge or corner."""
    pieces = _ITK.ConnectedComponent(_ITK.GetImageFromArray((labels > 0).view(np.uint8)), True)
    largest: NDArray[np.uint8] = _ITK.GetArrayFromImage(_ITK.RelabelComponent(pieces) == 1)
    return largest
