"""Skull stripping: where the brain is, by brainchop's network mindgrab.

Its authors trained it on many contrasts (T1, T2, FLAIR, DWI, CT, PET and more).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from node.domain.errors import JobFailed
from node.infer.brain.brainchop import Crop, head_labels
from node.infer.report import Report
from node.infer.volume import Volume

FILE = "skull_strip/model.json"  # as models that need it declare it
# brainchop's own for this network
CROP = Crop(above=0.5, margin_mm=20)
_SMALLEST_ML = 100.0


def skull_strip(
    volume: Volume, files: Mapping[str, Path], *, device: str, report: Report
) -> NDArray[np.bool_]:
    """The brain in a volume, on its own grid.

    Args:
        files: Of a model, by their declared paths: mindgrab's ``model.json`` beside its weights.
    Raises:
        JobFailed: The network is not declared, cannot be read, or finds less than 100 ml of brain
            (permanent).
    """
    if FILE not in files:
        raise JobFailed(f"model.yaml names no {FILE} among prepare_files", permanent=True)
    labels = head_labels(volume, files[FILE].parent, crop=CROP, device=device, report=report)
    brain: NDArray[np.bool_] = labels == 1
    found_ml = np.count_nonzero(brain) * volume.grid.voxel_ml
    if found_ml < _SMALLEST_ML:
        raise JobFailed(
            f"skull stripping found {found_ml:.0f} ml of brain: is this a series of a head?",
            permanent=True,
        )
    return brain
