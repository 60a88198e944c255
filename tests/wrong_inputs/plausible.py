"""What ct_tissue must not be given, and results that no patient has.

Regions that a model does not take, and other models' bounds, need weights: they are shown in
``tests/models/test_what_models_take.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from tests.phantoms import Phantom
from tests.wrong_inputs.case import Case, File, file_of


def _torso(name: str, **attributes: object) -> Phantom:
    return Phantom(
        study=name,
        series=name,
        shape=(12, 56, 72),
        spacing_mm=(16.0, 4.0, 4.5),
        attributes=tuple(attributes.items()),
    )


def _changed(name: str, **attributes: object) -> Sequence[File]:
    return [File(content=content) for content in _torso(name, **attributes).files()]


def _scaled(factor: float) -> Sequence[File]:
    """Lengths in another unit, as an exporter writes inches, or a person types a spacing."""
    instances = _torso("scaled").datasets()
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
        files=lambda: _changed("mip type", ImageType=["DERIVED", "SECONDARY", "MIP"]),
        state="parked",
        reasons=["model_refuses"],
        sentence="ct_tissue must not be given it: ImageType is one of",
        exit_code=0,
        old="done",
    ),
    Case(
        name="a maximum intensity projection by name",
        files=lambda: _changed("mip name", SeriesDescription="Thorax MIP 10/5"),
        state="parked",
        reasons=["model_refuses"],
        sentence="ct_tissue must not be given it: SeriesDescription fits",
        exit_code=0,
        old="done",
    ),
    Case(
        name="a rotating projection",
        files=lambda: _changed("rotating", ImageType=["DERIVED", "PRIMARY", "PROJECTION IMAGE"]),
        state="parked",
        reasons=["model_refuses"],
        sentence="ct_tissue must not be given it: ImageType is one of",
        exit_code=0,
        old="done",
    ),
    Case(
        name="a localizer that is a volume",
        files=lambda: _changed("localizer", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        state="parked",
        reasons=["model_refuses"],
        sentence="ct_tissue must not be given it: is_localizer is true",
        exit_code=0,
        old="done",
    ),
)
