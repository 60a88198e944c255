"""A real T1 image of a head as a DICOM series, cut small, for networks with learned weights."""

from __future__ import annotations

import numpy as np

from tests.support.cases import Cases
from tests.support.phantoms import Phantom


def t1_phantom(shared_models: Cases, *, side: int) -> Phantom:
    """A cube of a head around its middle, axial, 1 mm; MR values in place of Hounsfield units."""
    import nibabel

    image = nibabel.load(shared_models / "brainchop" / "t1_crop.nii.gz")
    ras = np.asarray(nibabel.as_closest_canonical(image).dataobj)  # type: ignore[no-untyped-call]
    lps = ras[::-1, ::-1].transpose()  # (slice, row, column)
    filled = np.argwhere(lps > 0)
    middle = (filled.min(axis=0) + filled.max(axis=0)) // 2
    cube = lps[tuple(slice(start, start + side) for start in (middle - side // 2).tolist())]
    phantom = Phantom(
        shape=(side, side, side),
        spacing_mm=(1.0, 1.0, 1.0),
        attributes=(("BodyPartExamined", "HEAD"),),
        series="t1",
    )
    phantom.__dict__["hu_volume"] = cube.astype(np.int16)  # instead of the torso's
    return phantom
