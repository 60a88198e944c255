"""Uptake: the facts that turn activity concentration in PET into SUV by body weight.

The rules are those that QIBA published as vendor-neutral pseudo-code, kept to what attributes of the
Standard tell. Activity must be corrected for attenuation and decay. Its reference time is that of
administration (ADMIN), or the start of the scan (START): Series Date and Time where no image was
acquired before them, else computed back from Acquisition Time, Frame Reference Time and Actual Frame
Duration. Where anything is missing, or no plausible number, there is no SUV.

Source: PS3.3 C.8.9.1 (PET Series), C.8.9.2 (PET Isotope), C.8.9.4 (PET Image), C.7.2.2 (weight);
QIBA, SUV vendor-neutral pseudo-code (happy path only), and FDG-PET/CT profile.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TypeAlias

from pydicom.dataset import Dataset

from node.domain.errors import SeriesUnusable
from node.domain.reasons import Reason, ReasonCode
from node.domain.sources import items, number, text, texts

_DAY_S = 86400.0
_LEAST_DOSE_BQ = 1e6  # below it the dose was written in MBq, or is none
_MOST_WEIGHT_KG = 700.0
_MOST_HALF_LIVES = 10.0
_SAME_START_S = 60.0  # scans of one series may differ so much in what they say of its start
_ISOTOPE = "RadiopharmaceuticalInformationSequence"
_TIME = re.compile(r"(\d{2})(\d{2})?(\d{2})?(\.\d{1,6})?")
_MOMENT = re.compile(r"(\d{8})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)(?:[+-]\d{4})?")


# a kind, and what it is about: ("absent", "Patient's Weight"), ("isotopes", 2)
_Fault: TypeAlias = tuple[str | int | float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uptake:
    """What one PET image says of dose, weight and time; None where absent or malformed.

    Args:
        corrected: Corrected Image (0028,0051).
        isotopes: Items of the Radiopharmaceutical Information Sequence.
        series_at: Series Date and Time, seconds since 1970 by the scanner's clock, like
            ``acquired_at`` and ``injected_at``.
        injected_time_s: Radiopharmaceutical Start Time, seconds since midnight.
    """

    corrected: tuple[str, ...] = ()
    decay_correction: str = ""
    isotopes: int = 0
    weight_kg: float | None = None
    dose_bq: float | None = None
    half_life_s: float | None = None
    series_at: float | None = None
    acquired_at: float | None = None
    injected_at: float | None = None
    injected_time_s: float | None = None
    reference_ms: float | None = None
    duration_ms: float | None = None


def uptake_of(instance: Dataset) -> Uptake:
    """The facts of a PET image; nothing in it raises."""
    top = (instance,)
    isotopes = items(top, _ISOTOPE)
    isotope = tuple(isotopes[:1])
    moment = _MOMENT.fullmatch(text(isotope, "RadiopharmaceuticalStartDateTime"))
    return Uptake(
        corrected=tuple(value.upper() for value in texts(top, "CorrectedImage")),
        decay_correction=text(top, "DecayCorrection").upper(),
        isotopes=len(isotopes),
        weight_kg=number(top, "PatientWeight"),
        dose_bq=number(isotope, "RadionuclideTotalDose"),
        half_life_s=number(isotope, "RadionuclideHalfLife"),
        series_at=_moment(text(top, "SeriesDate"), text(top, "SeriesTime")),
        acquired_at=_moment(text(top, "AcquisitionDate"), text(top, "AcquisitionTime")),
        injected_at=_moment(moment[1], moment[2]) if moment else None,
        injected_time_s=_seconds(text(isotope, "RadiopharmaceuticalStartTime")),
        reference_ms=number(top, "FrameReferenceTime"),
        duration_ms=number(top, "ActualFrameDuration"),
    )


def suv_factor(uptakes: Collection[Uptake]) -> float:
    """What activity concentration (Bq/ml) is multiplied with to give SUV by body weight (g/ml).

    Args:
        uptakes: Of all images of the series; equal ones need not be repeated.
    Raises:
        SeriesUnusable: It cannot be computed; the facts name everything that is in the way.
    """
    if not uptakes:
        raise _not_computable([("no_pet_image",)])
    faults = list(dict.fromkeys(chain.from_iterable(_faults(each) for each in uptakes)))
    doses = {(each.weight_kg, each.dose_bq, each.half_life_s) for each in uptakes}
    times = {(e.decay_correction, e.injected_at, e.injected_time_s) for e in uptakes}
    if not faults and (len(doses) > 1 or len(times) > 1):
        faults.append(("differ",))
    if faults:
        raise _not_computable(faults)
    one = next(iter(uptakes))
    weight_kg, dose_bq, half_life_s = one.weight_kg, one.dose_bq, one.half_life_s
    if weight_kg is None or dose_bq is None or half_life_s is None:
        raise _not_computable([("missing",)])
    if one.decay_correction == "START":
        decay_s = _decay_s(uptakes, half_life_s)
        if not 0.0 <= decay_s <= _MOST_HALF_LIVES * half_life_s:
            raise _not_computable([("decay_s", decay_s)])
        dose_bq *= 2.0 ** (-decay_s / half_life_s)
    return weight_kg * 1000.0 / dose_bq


def _not_computable(faults: Sequence[_Fault]) -> SeriesUnusable:
    return SeriesUnusable([Reason(ReasonCode.SUV_NOT_COMPUTABLE, {"faults": faults})])


def _faults(uptake: Uptake) -> list[_Fault]:
    """What is missing or implausible in one image, each by its attribute."""
    found: list[_Fault] = [
        ("not_corrected", name) for name in ("ATTN", "DECY") if name not in uptake.corrected
    ]
    if uptake.decay_correction not in ("START", "ADMIN"):
        found.append(("decay_correction",))
    if uptake.isotopes > 1:
        found.append(("isotopes", uptake.isotopes))
    for name, value, least, most in (
        ("Patient's Weight", uptake.weight_kg, 0.0, _MOST_WEIGHT_KG),
        ("Radionuclide Total Dose", uptake.dose_bq, _LEAST_DOSE_BQ, math.inf),
        ("Radionuclide Half Life", uptake.half_life_s, 0.0, math.inf),
    ):
        if value is None:
            found.append(("absent", name))
        elif not least < value <= most:
            found.append(("impossible", name, value))
    if uptake.decay_correction == "START":
        if uptake.injected_at is None and uptake.injected_time_s is None:
            found.append(("absent", "Radiopharmaceutical Start Time"))
        if uptake.acquired_at is None:
            found.append(("absent", "Acquisition Date or Time"))
    return found


def _decay_s(uptakes: Collection[Uptake], half_life_s: float) -> float:
    """From injection to the time that activity was corrected to."""
    scan_at = _scan_at(uptakes, half_life_s)
    one = next(iter(uptakes))
    if one.injected_at is not None:
        return scan_at - one.injected_at
    # a time of day: the last one before the scan
    return (scan_at % _DAY_S - (one.injected_time_s or 0.0)) % _DAY_S


def _scan_at(uptakes: Collection[Uptake], half_life_s: float) -> float:
    """When the scan started, seconds since 1970 by the scanner's clock."""
    acquired = [each.acquired_at for each in uptakes if each.acquired_at is not None]
    series = {each.series_at for each in uptakes}
    if len(series) == 1 and (series_at := series.pop()) is not None and series_at <= min(acquired):
        return series_at
    starts = [_start_at(each, half_life_s) for each in uptakes]
    if max(starts) - min(starts) > _SAME_START_S:
        raise _not_computable([("start_differs",)])
    return min(starts)


def _start_at(uptake: Uptake, half_life_s: float) -> float:
    """Computed back from one image: it shows the mean count rate of its time window."""
    reference_ms, duration_ms = uptake.reference_ms, uptake.duration_ms
    if not reference_ms or not duration_ms or min(reference_ms, duration_ms) <= 0:
        raise _not_computable([("start_unknown",)])
    rate = math.log(2.0) / half_life_s
    decay = rate * duration_ms / 1000.0
    mean_s = math.log(decay / -math.expm1(-decay)) / rate
    return (uptake.acquired_at or 0.0) - reference_ms / 1000.0 + mean_s


def _moment(date: str, time: str) -> float | None:
    seconds = _seconds(time)
    try:
        day = datetime.strptime(date.replace(".", ""), "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return None
    return None if seconds is None else (day + timedelta(seconds=seconds)).timestamp()


def _seconds(time: str) -> float | None:
    """A TM value as seconds since midnight."""
    found = _TIME.fullmatch(time.replace(":", ""))
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups()[:3])
    if hours > 23 or minutes > 59 or seconds > 60:
        return None
    return hours * 3600.0 + minutes * 60.0 + seconds + float(found[4] or 0.0)
