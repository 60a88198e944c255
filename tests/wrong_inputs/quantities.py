"""Values without a number, a unit or an end: bits, rescale, tables, padding (section 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset

from node.domain.reasons import ReasonCode
from tests.support.simulated_node import ct
from tests.wrong_inputs.case import Case, File, file_of

SLICES = 24
Change = Callable[[int, Dataset], None]

BOTH = ("RescaleSlope", "RescaleIntercept")


def _files(name: str, change: Change, *, enhanced: bool = False) -> Callable[[], Sequence[File]]:
    def make() -> Sequence[File]:
        phantom = replace(ct(name, slices=SLICES, study=name), enhanced=enhanced)
        instances = phantom.datasets()
        for number, instance in enumerate(instances):
            change(number, instance)
        return [File(content=file_of(instance)) for instance in instances]

    return make


def _without(*keywords: str, first: int = SLICES) -> Change:
    def change(number: int, instance: Dataset) -> None:
        for keyword in keywords if number < first else ():
            delattr(instance, keyword)

    return change


def _with(first: int = SLICES, **attributes: object) -> Change:
    def change(number: int, instance: Dataset) -> None:
        for keyword, value in attributes.items() if number < first else ():
            setattr(instance, keyword, value)

    return change


def _one_frame_raw(number: int, instance: Dataset) -> None:
    del number
    shared = instance.SharedFunctionalGroupsSequence[0]
    transformation = shared.PixelValueTransformationSequence
    del shared.PixelValueTransformationSequence
    for index, group in enumerate(instance.PerFrameFunctionalGroupsSequence):
        if index != 11:
            group.PixelValueTransformationSequence = transformation


def _table(kind: str, *, is_beside: bool = False, signed: bool = False) -> Change:
    """A Modality LUT: HU + 1024 as it is, or HU with its negative numbers wrapped."""

    def change(number: int, instance: Dataset) -> None:
        if not is_beside:
            _without(*BOTH, "RescaleType")(number, instance)
        item = Dataset()
        item.add_new(0x00283002, "US", [4096, 0, 16])
        item.ModalityLUTType = kind
        values = (np.arange(4096) - 1024 * signed) & 0xFFFF
        item.add_new(0x00283006, "OW", values.astype("<u2").tobytes())
        instance.ModalityLUTSequence = [item]

    return change


def padded(number: int, instance: Dataset) -> None:
    """63536 beside a circle, as scanners write -2000; in Hounsfield units it would be 62512."""
    del number
    shape = (instance.Rows, instance.Columns)
    stored = np.frombuffer(instance.PixelData, "<u2").reshape(shape).copy()
    row, column = np.indices(shape)
    beside = ((row - shape[0] / 2) / 11) ** 2 + ((column - shape[1] / 2) / 13) ** 2 > 1
    stored[beside] = 63536
    instance.PixelData = stored.tobytes()
    instance.add_new(0x00280120, "US", 63536)


def _excess(number: int, instance: Dataset) -> None:
    """More bytes than declared, by less than a frame."""
    del number
    instance.PixelData += b"\x7f" * 200


def _parked(
    name: str, change: Change, reason: ReasonCode, sentence: str, *, old: str = "done", **how: bool
) -> Case:
    return Case(
        name=name,
        files=_files(name, change, **how),
        state="parked",
        reasons=(reason.value,),
        sentence=sentence,
        exit_code=0,
        old=old,
    )


def _done(name: str, change: Change, *, old: str, sentence: str = "") -> Case:
    return Case(
        name=name, files=_files(name, change), state="done", sentence=sentence, exit_code=0, old=old
    )


_RAISED = "failed in stage read, with the name of an exception"

CASES: tuple[Case, ...] = (
    _parked(
        "rescale absent in all slices", _without(*BOTH), ReasonCode.RESCALE_ABSENT,
        "Rescale Slope and Rescale Intercept absent or empty in 24 of 24 images",
    ),
    _parked(
        "rescale empty in all slices", _with(RescaleSlope="", RescaleIntercept=""),
        ReasonCode.RESCALE_ABSENT,
        "Rescale Slope and Rescale Intercept absent or empty in 24 of 24 images",
    ),
    _parked(
        "rescale absent in 6 of 24", _without(*BOTH, first=6), ReasonCode.RESCALE_ABSENT,
        "Rescale Slope and Rescale Intercept absent or empty in 6 of 24 images",
    ),
    _parked(
        "intercept empty in 3 of 24", _with(3, RescaleIntercept=""), ReasonCode.RESCALE_ABSENT,
        "Rescale Intercept absent or empty in 3 of 24 images",
    ),
    _parked(
        "one enhanced frame without its transformation", _one_frame_raw, ReasonCode.RESCALE_ABSENT,
        "Rescale Slope and Rescale Intercept absent or empty in 1 of 24 images", enhanced=True,
    ),
    _parked(
        "a table of HU + 1024 in place of the rescale", _table("US"), ReasonCode.QUANTITY_NOT_TAKEN,
        "the model takes HU, the series is unspecified (Modality LUT Type US)",
    ),
    _parked(
        "a table of HU with negative numbers wrapped", _table("HU", signed=True),
        ReasonCode.MODALITY_LUT_MALFORMED, "Modality LUT of HU with entries above 32767",
    ),
    _parked(
        "a table beside the rescale", _table("US", is_beside=True),
        ReasonCode.MODALITY_LUT_AND_RESCALE, "Modality LUT Sequence beside Rescale Slope",
    ),
    _parked(
        "Rescale Type US, HU + 1024", _with(RescaleType="US", RescaleIntercept=0),
        ReasonCode.QUANTITY_NOT_TAKEN,
        "the model takes HU, the series is unspecified (Rescale Type US)",
    ),
    _parked(
        "Rescale Type MGML", _with(RescaleType="MGML"), ReasonCode.QUANTITY_NOT_TAKEN,
        "the model takes HU, the series is MGML",
    ),
    _parked(
        "Rescale Type Z_EFF", _with(RescaleType="Z_EFF"), ReasonCode.QUANTITY_NOT_TAKEN,
        "the model takes HU, the series is Z_EFF",
    ),
    _parked(
        "Rescale Type US in 6 of 24", _with(6, RescaleType="US"), ReasonCode.QUANTITY_DIFFERS,
        "images of different quantities: HU in 18, unspecified (Rescale Type US) in 6",
    ),
    _done("padding 63536", padded, old="done, with padding as bone", sentence=""),
    _done("more bytes of pixel data than declared", _excess, old=_RAISED),
    _parked(
        "slope 0", _with(RescaleSlope=0), ReasonCode.RESCALE_SLOPE_ZERO,
        "Rescale Slope 0 in 24 of 24 images", old=_RAISED,
    ),
    _parked(
        "High Bit absent", _without("HighBit"), ReasonCode.PIXEL_BITS_ABSENT,
        "High Bit absent or malformed in 24 of 24 images",
    ),
    _parked(
        "High Bit above Bits Stored", _with(BitsStored=12), ReasonCode.PIXEL_BITS_CONTRADICT,
        "High Bit 15 where Bits Stored 12 asks for 11 in 24 of 24 images", old=_RAISED,
    ),
    _parked(
        "Bits Stored absent", _without("BitsStored"), ReasonCode.PIXEL_BITS_ABSENT,
        "Bits Stored absent or malformed in 24 of 24 images", old=_RAISED,
    ),
    _parked(
        "Bits Stored beyond Bits Allocated in 2 of 24", _with(2, BitsStored=17, HighBit=16),
        ReasonCode.PIXEL_BITS_CONTRADICT, "Bits Stored 17 in Bits Allocated 16 in 2 of 24 images",
        old=_RAISED,
    ),
    _parked(
        "Pixel Representation absent", _without("PixelRepresentation"),
        ReasonCode.PIXEL_BITS_ABSENT, "Pixel Representation absent or malformed in 24 of 24 images",
        old=_RAISED,
    ),
    _parked(
        "Pixel Representation 7", _with(PixelRepresentation=7), ReasonCode.PIXEL_BITS_CONTRADICT,
        "Pixel Representation 7, neither 0 nor 1 in 24 of 24 images",
    ),
)  # fmt: skip
