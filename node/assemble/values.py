"""The gate's other half: does every stored value of a series mean one number of one quantity?

Each finding names its attribute and how many images it concerns. What is not a finding: slopes that
differ from slice to slice, signed beside unsigned slices, a Modality LUT beside slope and intercept
of other slices, as long as the quantity is the same.

Source: PS3.3 C.7.6.3.1 (Image Pixel), C.8.2.1 (CT Image), C.8.9.4 (PET Image), C.11.1 (Modality LUT).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from math import isfinite

from node.domain.errors import SeriesUnusable
from node.domain.frames import Frame, values_of
from node.domain.quantity import Quantity, given_as
from node.domain.reasons import Reason, ReasonCode
from node.domain.stored_values import StoredValues
from node.domain.uptake import suv_factor

_LARGEST = 3e38  # what a float32 holds
_Group = tuple[StoredValues, int]


def judge_values(frames: Sequence[Frame]) -> list[Reason]:
    """Everything that leaves the number, or the quantity, of a stored value open."""
    groups = values_of(frames)
    is_rescaled = any(
        values.lut or values.lut_fault or values.has_slope or values.has_intercept
        for values, _ in groups
    )
    return [
        *_counted(groups, lambda values: values.format.faults()),
        *_rescale(frames),
        *_counted(groups, _lut_malformed),
        *_counted(groups, _lut_and_rescale),
        *_counted(groups, partial(_absent, is_rescaled=is_rescaled)),
        *_quantities(groups),
    ]


def judge_quantity(frames: Sequence[Frame], wanted: Collection[Quantity]) -> list[Reason]:
    """Why a model that takes these quantities does not take the series; empty: it takes any."""
    groups = _sound(values_of(frames))
    found = {values.quantity for values, _ in groups}
    if not wanted or len(found) != 1:
        return []  # what differs, or lacks its transformation, is a finding of its own
    quantity = found.pop()
    given = given_as(quantity, wanted)
    if given is None:
        facts: dict[str, object] = {"takes": list(wanted), "is_given": quantity.value}
        if quantity is Quantity.UNSPECIFIED:
            facts["whys"] = list(dict.fromkeys(values.why for values, _ in groups if values.why))[
                :3
            ]
        return [Reason(ReasonCode.QUANTITY_NOT_TAKEN, facts)]
    if given is not quantity:
        try:
            suv_factor({values.uptake for values, _ in groups if values.uptake is not None})
        except SeriesUnusable as unusable:
            return [r.having(takes=given.value, is_given=quantity.value) for r in unusable.reasons]
    return []


def _counted(
    groups: Sequence[_Group], faults: Callable[[StoredValues], Iterable[Reason]]
) -> list[Reason]:
    """What is wrong with stored values, each fault with its number of images."""
    found: Counter[Reason] = Counter()
    for values, number in groups:
        found.update(dict.fromkeys(faults(values), number))
    of = sum(number for _, number in groups)
    return [fault.having(count=number, of=of) for fault, number in found.items()]


def _rescale(frames: Sequence[Frame]) -> list[Reason]:
    malformed = sum(not isfinite(frame.slope + frame.intercept) for frame in frames)
    zero = sum(frame.slope == 0 for frame in frames)
    beyond = sum(
        isfinite(frame.slope + frame.intercept)
        and abs(frame.slope) * max(map(abs, frame.values.format.limits)) + abs(frame.intercept)
        > _LARGEST
        for frame in frames
    )
    codes: tuple[tuple[ReasonCode, int, dict[str, bool]], ...] = (
        (ReasonCode.RESCALE_MALFORMED, malformed, {}),
        (ReasonCode.RESCALE_MALFORMED, beyond, {"is_too_large": True}),
        (ReasonCode.RESCALE_SLOPE_ZERO, zero, {}),
    )
    return [Reason(code, {"count": n, "of": len(frames), **more}) for code, n, more in codes if n]


def _lut_malformed(values: StoredValues) -> Iterator[Reason]:
    if values.lut_fault:
        yield Reason(ReasonCode.MODALITY_LUT_MALFORMED, {"fault": values.lut_fault})


def _lut_and_rescale(values: StoredValues) -> Iterator[Reason]:
    if values.lut and not values.lut_fault and (values.has_slope or values.has_intercept):
        yield Reason(ReasonCode.MODALITY_LUT_AND_RESCALE)


def _absent(values: StoredValues, *, is_rescaled: bool) -> Iterator[Reason]:
    """Slope or intercept that the class requires, or that other images of the series have."""
    if values.lut or values.lut_fault or not (values.is_rescale_due or is_rescaled):
        return
    is_there = {"Rescale Slope": values.has_slope, "Rescale Intercept": values.has_intercept}
    names = [name for name, there in is_there.items() if not there]
    if names:
        yield Reason(ReasonCode.RESCALE_ABSENT, {"attributes": names})


def _quantities(groups: Sequence[_Group]) -> list[Reason]:
    """Different quantities among images whose values are transformed as they must be."""
    counts: Counter[tuple[str, str]] = Counter()
    for values, number in _sound(groups):
        why = values.why if values.quantity is Quantity.UNSPECIFIED else ""
        counts[values.quantity.value, why] += number
    if len(counts) < 2:
        return []
    found = [(*which, number) for which, number in counts.most_common(4)]
    return [Reason(ReasonCode.QUANTITY_DIFFERS, {"quantities": found})]


def _sound(groups: Iterable[_Group]) -> list[_Group]:
    """Those whose stored values are transformed as their class requires, and in one way."""
    return [(values, number) for values, number in groups if _is_sound(values)]


def _is_sound(values: StoredValues) -> bool:
    if values.lut is not None or values.lut_fault:
        return not (values.lut_fault or values.has_slope or values.has_intercept)
    return not values.is_rescale_due or (values.has_slope and values.has_intercept)
