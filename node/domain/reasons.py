"""Reasons: why something was held, parked, refused a model or kept back, as a code with a sentence.

Programs compare codes; people read sentences. No code ever reads a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class ReasonCode(StrEnum):
    """What is the matter; the values are those of rows, ``--json`` and the API."""

    # a series is held
    IMAGES_REFUSED = "images_refused"
    COUNT_NOT_REACHED = "count_not_reached"
    LATE_IMAGES = "late_images"
    FILES_DELETED = "files_deleted"
    NOT_JUDGED = "not_judged"

    # a result was made, and is marked
    IMAGES_MISSING = "images_missing"

    # the gate: no one regular volume
    NO_IMAGES = "no_images"
    TOO_MANY_FRAMES = "too_many_frames"
    NO_FRAME_OF_REFERENCE = "no_frame_of_reference"
    FRAMES_OF_REFERENCE_DIFFER = "frames_of_reference_differ"
    NO_POSITION = "no_position"
    ORIENTATIONS_DIFFER = "orientations_differ"
    ORIENTATION_MALFORMED = "orientation_malformed"
    MATRIX_DIFFERS = "matrix_differs"
    NO_PIXEL_SPACING = "no_pixel_spacing"
    PIXEL_SPACING_MALFORMED = "pixel_spacing_malformed"
    PIXEL_SPACING_DIFFERS = "pixel_spacing_differs"
    SAME_POSITION = "same_position"
    GAP = "gap"
    UNEVEN_SPACING = "uneven_spacing"
    SHEAR = "shear"
    ONE_SLICE = "one_slice"
    TOO_SMALL = "too_small"

    # the gate: what the stored values mean
    PIXEL_BITS_ABSENT = "pixel_bits_absent"
    PIXEL_BITS_CONTRADICT = "pixel_bits_contradict"
    PADDING_MALFORMED = "padding_malformed"
    RESCALE_ABSENT = "rescale_absent"
    RESCALE_MALFORMED = "rescale_malformed"
    RESCALE_SLOPE_ZERO = "rescale_slope_zero"
    MODALITY_LUT_MALFORMED = "modality_lut_malformed"
    MODALITY_LUT_AND_RESCALE = "modality_lut_and_rescale"
    QUANTITY_DIFFERS = "quantity_differs"
    QUANTITY_NOT_TAKEN = "quantity_not_taken"
    SUV_NOT_COMPUTABLE = "suv_not_computable"

    # the model of the rule does not take it, or must not be given it
    NOT_ACCEPTED = "not_accepted"
    MODEL_REFUSES = "model_refuses"
    TOO_LITTLE_BODY = "too_little_body"

    # a result is implausible: no patient has it
    IMPLAUSIBLE_VOLUME = "implausible_volume"
    IMPLAUSIBLE_EXTENT = "implausible_extent"
    IMPLAUSIBLE_RATIO = "implausible_ratio"
    IMPLAUSIBLE_SIDES = "implausible_sides"
    IMPLAUSIBLE_BORDER = "implausible_border"
    IMPLAUSIBLE_SHARE = "implausible_share"


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is the matter, told in one sentence without patient data."""

    code: ReasonCode
    sentence: str

    def __post_init__(self) -> None:
        if not self.sentence:
            raise ValueError("a reason needs a sentence")


IMPLAUSIBLE_CODES = frozenset(code for code in ReasonCode if code.value.startswith("implausible_"))


def tells_implausible(codes: Iterable[str]) -> bool:
    """Whether codes of a row say that no patient has what the result shows."""
    return not IMPLAUSIBLE_CODES.isdisjoint(codes)


def in_one_sentence(reasons: Iterable[Reason]) -> str:
    """All of them in one line."""
    return "; ".join(reason.sentence for reason in reasons)


def codes_of(reasons: Iterable[Reason]) -> list[str]:
    """Their codes, each once, in order: what a row keeps."""
    return list(dict.fromkeys(reason.code.value for reason in reasons))
