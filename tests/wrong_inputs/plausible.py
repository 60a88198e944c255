"""What ct_tissue must not be given, and results that no patient has.

Regions that a model does not take, and other models' bounds, need weights: they are shown in
``tests/models/test_what_models_take.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from tests.phantoms import Phantom
from tests.wrong_inputs.case import Case, File, file_of

_TORSO = Phantom(shape=(12, 56, 72), spacing_mm=(16.0, 4.0, 4.5))


def _changed(**attributes: object) -> Sequence[File]:
    phantom = Phantom(
        shape=_TORSO.shape, spacing_mm=_TORSO.spacing_mm, attributes=tuple(attributes.items())
    )
    return [File(content=content) for content in phantom.files()]


def _scaled(factor: float) -> Sequence[File]:
    """Lengths in another unit, as an exporter writes inches, or a person types a spacing."""
    instances = _TORSO.datasets()
    for instance in instances:
        _scale(instance, factor)
    return [File(content=file_of(instance)) for instance in instances]


def _scale(instance: Dataset, factor: float) -> None:
    for keyword in ("PixelSpacing", "ImagePositionPatient"):
        lengths = [round(float(length) * factor, 3) for length in instance[keyword].value]
        setattr(instance, keyword, lengths)
    instance.SliceThickness = float(instance.SliceThickness) * factor


CASES = (
    Case(
        name="a torso whose lengths are in another unit",
        files=lambda: _scaled(2.54),
        state="implausible",
        reasons=["implausible_volume"],
        sentence="plausible is up to 7500 ml",
        exit_code=1,
        old="done",
    ),
    Case(
        name="a maximum intensity projection by Image Type",
        files=lambda: _changed(ImageType=["DERIVED", "SECONDARY", "MIP"]),
        state="parked",
        reasons=["model_refuses"],
        sentence="ct_tissue must not be given it: ImageType is one of",
        exit_code=0,
        old="done",
    ),
    Case(
        name="a maximum intensity projection by name",
        files=lambda: _changed(SeriesDescription="Thorax MIP 10/5"),
        state="parked",
        reasons=["model_refuses"],
        sentence="ct_tissue must not be given it: SeriesDescription fits",
        exit_code=0,
        old="done",
    ),
    Case(
        name="a rotating projection",
        files=lambda: _changed(ImageType=["DERIVED", "PRIMARY", "PROJECTION IMAGE"]),
        state="parked",
        reasons=["model_refuses"],
        sentence="ct_tissue must not be given it: ImageType is one of",
        exit_code=0,
        old="done",
    ),
    Case(
        name="a localizer that is a volume",
        files=lambda: _changed(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        state="parked",
        reasons=["model_refuses"],
        sentence="ct_tissue must not be given it: is_localizer is true",
        exit_code=0,
        old="done",
    ),
)
