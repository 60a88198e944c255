"""The gate's judgement of stored values: each fault once, with its attribute and its count."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset

from node.assemble.gate import judge_geometry
from node.assemble.values import judge_quantity, judge_values
from node.domain.frames import Frame, frames_of
from node.domain.quantity import Quantity
from node.domain.reasons import ReasonCode
from node.words import tell
from tests.support.phantoms import Phantom

HU = (Quantity.HU,)
Change = Callable[[int, Dataset], None]


def frames(change: Change, *, enhanced: bool = False) -> list[Frame]:
    """24 slices of a CT, each changed."""
    headers = Phantom(shape=(24, 6, 7), enhanced=enhanced).headers()
    for number, header in enumerate(headers):
        change(number, header)
    return [frame for header in headers for frame in frames_of(header)]


def without(*keywords: str, first: int = 24) -> Change:
    def change(number: int, header: Dataset) -> None:
        for keyword in keywords if number < first else ():
            delattr(header, keyword)

    return change


def with_(first: int = 24, **attributes: object) -> Change:
    def change(number: int, header: Dataset) -> None:
        for keyword, value in attributes.items() if number < first else ():
            setattr(header, keyword, value)

    return change


def lut(**changes: object) -> list[Dataset]:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "HU"
    table.LUTData = [0, 1, 2, 3]
    for keyword, value in changes.items():
        setattr(table, keyword, value)
    return [table]


def with_lut(number: int, header: Dataset, **changes: object) -> None:
    without("RescaleSlope", "RescaleIntercept", "RescaleType")(number, header)
    header.ModalityLUTSequence = lut(**changes)


CASES: dict[str, tuple[Change, ReasonCode, str]] = {
    "no rescale": (
        without("RescaleSlope", "RescaleIntercept"),
        ReasonCode.RESCALE_ABSENT,
        "Rescale Slope and Rescale Intercept absent or empty in 24 of 24 images",
    ),
    "empty in 6": (
        with_(6, RescaleSlope="", RescaleIntercept=""),
        ReasonCode.RESCALE_ABSENT,
        "Rescale Slope and Rescale Intercept absent or empty in 6 of 24 images",
    ),
    "intercept empty in 3": (
        with_(3, RescaleIntercept=""),
        ReasonCode.RESCALE_ABSENT,
        "Rescale Intercept absent or empty in 3 of 24 images",
    ),
    "slope 0": (with_(2, RescaleSlope=0), ReasonCode.RESCALE_SLOPE_ZERO, "Slope 0 in 2 of 24"),
    "slope beyond any number": (
        with_(2, RescaleSlope="3e38"), ReasonCode.RESCALE_MALFORMED, "too large"
    ),
    "table beside rescale": (
        with_(5, ModalityLUTSequence=lut()),
        ReasonCode.MODALITY_LUT_AND_RESCALE,
        "Modality LUT Sequence beside Rescale Slope or Intercept in 5 of 24 images",
    ),
    "table too short": (
        lambda n, h: with_lut(n, h, LUTDescriptor=[9, 0, 16]),
        ReasonCode.MODALITY_LUT_MALFORMED,
        "4 LUT entries where 9 are declared",
    ),
    "a table that is text": (
        lambda _, h: h.add_new("ModalityLUTSequence", "LO", "no table"),
        ReasonCode.MODALITY_LUT_MALFORMED,
        "Modality LUT Sequence malformed in 24",
    ),
    "negative numbers in a table": (
        lambda n, h: with_lut(n, h, LUTData=[64512, 0, 1, 2]),
        ReasonCode.MODALITY_LUT_MALFORMED,
        "cannot hold negative numbers",
    ),
    "types differ": (
        with_(6, RescaleType="US"),
        ReasonCode.QUANTITY_DIFFERS,
        "HU in 18, unspecified (Rescale Type US) in 6",
    ),
    "bits stored absent": (
        without("BitsStored"), ReasonCode.PIXEL_BITS_ABSENT, "Bits Stored absent or malformed in 24"
    ),
    "high bit absent": (
        without("HighBit", first=1), ReasonCode.PIXEL_BITS_ABSENT, "High Bit absent or malformed in 1"
    ),
    "sign absent": (
        without("PixelRepresentation"), ReasonCode.PIXEL_BITS_ABSENT, "Pixel Representation absent"
    ),
    "bits stored too many": (
        with_(BitsStored=17), ReasonCode.PIXEL_BITS_CONTRADICT, "Bits Stored 17 in Bits Allocated 16"
    ),
    "bits stored 0": (with_(BitsStored=0), ReasonCode.PIXEL_BITS_CONTRADICT, "Bits Stored 0"),
    "high bit elsewhere": (
        with_(4, HighBit=11),
        ReasonCode.PIXEL_BITS_CONTRADICT,
        "High Bit 11 where Bits Stored 16 asks for 15 in 4 of 24 images",
    ),
    "sign 7": (
        with_(PixelRepresentation=7), ReasonCode.PIXEL_BITS_CONTRADICT, "Pixel Representation 7"
    ),
    "24 bits": (with_(BitsAllocated=24), ReasonCode.PIXEL_BITS_CONTRADICT, "Bits Allocated 24"),
    "limit alone": (
        lambda _, h: h.add_new(0x00280121, "US", 7), ReasonCode.PADDING_MALFORMED, "Range Limit"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_fault_of_stored_values_is_one_finding(case: str) -> None:
    change, code, words = CASES[case]

    verdict = judge_geometry(frames(change))

    assert [finding.code for finding in verdict.findings] == [code]
    assert words in tell(verdict.findings[0])


def test_an_enhanced_frame_without_its_transformation_is_found() -> None:
    def change(_: int, header: Dataset) -> None:
        shared = header.SharedFunctionalGroupsSequence[0]
        transformation = shared.PixelValueTransformationSequence
        del shared.PixelValueTransformationSequence
        for number, group in enumerate(header.PerFrameFunctionalGroupsSequence):
            if number != 7:
                group.PixelValueTransformationSequence = transformation

    (finding,) = judge_geometry(frames(change, enhanced=True)).findings

    assert tell(finding) == (
        "Rescale Slope and Rescale Intercept absent or empty in 1 of 24 images"
    )


def test_an_mr_needs_no_rescale_but_not_in_some_images_only() -> None:
    def mr(first: int) -> list[Frame]:
        def change(number: int, header: Dataset) -> None:
            header.SOPClassUID, header.Modality = "1.2.840.10008.5.1.4.1.1.4", "MR"
            header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
            without("RescaleSlope", "RescaleIntercept", "RescaleType", first=first)(number, header)
            if "RescaleType" in header:
                header.RescaleType = "US"

        return frames(change)

    assert judge_values(mr(24)) == []
    assert judge_values(mr(0)) == []
    assert [finding.code for finding in judge_values(mr(6))] == [ReasonCode.RESCALE_ABSENT]


def test_a_slope_per_slice_signed_slices_and_a_sound_table_are_no_findings() -> None:
    def change(number: int, header: Dataset) -> None:
        header.RescaleSlope = 1 + number / 100
        header.PixelRepresentation = number % 2
        if number == 5:
            with_lut(number, header)

    assert judge_values(frames(change)) == []


@pytest.mark.parametrize("kind", ["US", "MGML", "Z_EFF", "PCT", "whatever"])
def test_a_model_for_hounsfield_units_is_given_nothing_else(kind: str) -> None:
    series = frames(with_(RescaleType=kind))

    (reason,) = judge_quantity(series, HU)

    assert reason.code is ReasonCode.QUANTITY_NOT_TAKEN
    assert tell(reason).startswith("the model takes HU, the series is ")
    assert judge_geometry(series).stack is not None
    assert judge_geometry(series, quantities=HU).stack is None


def test_a_missing_rescale_is_told_once() -> None:
    series = frames(without("RescaleSlope"))

    codes = [finding.code for finding in judge_geometry(series, quantities=HU).findings]

    assert codes == [ReasonCode.RESCALE_ABSENT]
