"""What ct_tissue must not be given, and results that no patient has.

Regions that a model does not take, and other models' bounds, need weights: they are shown in
``tests/models/test_what_models_take.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from tests.support.phantoms import Phantom
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


def _refused(name: str, series: str, why: str, **attributes: object) -> Case:
    return Case(
        name=name,
        files=lambda: _changed(series, **attributes),
        state="parked",
        reasons=["model_refuses"],
        sentence=f"ct_tissue must not be given it: {why}",
        exit_code=0,
        old="done",
    )


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
    _refused(
        "a maximum intensity projection by Image Type", "mip type", "ImageType is one of",
        ImageType=["DERIVED", "SECONDARY", "MIP"],
    ),
    _refused(
        "a maximum intensity projection by name", "mip name", "SeriesDescription fits",
        SeriesDescription="Thorax MIP 10/5",
    ),
    _refused(
        "a rotating projection", "rotating", "ImageType is one of",
        ImageType=["DERIVED", "PRIMARY", "PROJECTION IMAGE"],
    ),
    _refused(
        "a localizer that is a volume", "localizer", "is_localizer is true",
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    ),
)  # fmt: skip
