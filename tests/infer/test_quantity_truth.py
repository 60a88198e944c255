"""A phantom of known Hounsfield units in every encoding: exactly the right labels, or parked (T3).

Labels are those of the true units, cut at the same threshold. Dice and wrong voxels are printed
(``pytest -s``), and what an encoding would have come to if its values were taken for Hounsfield units
as they are. What is read is also compared with pydicom's own Modality LUT where that has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from node.assemble.gate import judge_geometry
from node.domain.frames import frames_of
from node.domain.grid import GateVerdict
from node.domain.header import Header
from node.domain.reasons import ReasonCode
from node.infer.registry import default_models_folder, load_model
from node.infer.report import Stopwatch
from node.infer.run_context import RunContext, SeriesInput, run_model
from node.infer.volume import read_volume
from node.words import tell_all
from tests.support.phantoms import Phantom, encoded_as, stack_of

MODELS = Path(__file__).parents[1] / "support" / "models_probe"
THRESHOLD_HU = 170
PHANTOM = Phantom(shape=(24, 34, 40), spacing_mm=(8.0, 6.5, 8.0))
ENHANCED = replace(PHANTOM, enhanced=True)
PADDING = 63536

Change = Callable[[int, Dataset, NDArray[np.int16]], None]


@dataclass(frozen=True)
class Encoding:
    """How the phantom is written.

    Args:
        change: Gets number, instance and Hounsfield units of each instance.
        parks: The code of the finding; None: the labels are right.
    """

    change: Change
    phantom: Phantom = PHANTOM
    syntax: str = ExplicitVRLittleEndian
    parks: ReasonCode | None = None


def store(instance: Dataset, stored: NDArray[np.integer]) -> None:
    instance.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    instance["PixelData"].VR = "OW" if stored.itemsize > 1 else "OB"
    instance.BitsAllocated = stored.itemsize * 8
    if instance.BitsStored > instance.BitsAllocated or stored.itemsize == 4:
        instance.BitsStored = instance.BitsAllocated
    instance.HighBit = instance.BitsStored - 1
    instance.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))


def as_it_is(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
    del number, instance, hu


def signed(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
    del number
    store(instance, hu)
    instance.RescaleIntercept = 0


def twelve_bits(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
    """An old overlay lies in the four unused bits."""
    del number
    instance.BitsStored = 12
    store(instance, ((hu.astype(np.int32) + 1024) | 0xA000).astype(np.uint16))


def mixed_signs(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
    if number % 2:
        signed(number, instance, hu)


def slopes(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
    """Each slice has its own slope, as in PET; stored values are the whole multiples."""
    slope = (1, 2, 4)[number % 3]
    stored = np.rint((hu.astype(float) + 1024) / slope).astype(np.uint16)
    store(instance, stored)
    instance.RescaleSlope = slope


def without_rescale(first: int, *keywords: str, empty: bool = False) -> Change:
    def change(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
        del hu
        for keyword in keywords if number < first else ():
            if empty:
                setattr(instance, keyword, "")
            else:
                delattr(instance, keyword)

    return change


def typed(kind: str, add: int = 0) -> Change:
    def change(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
        del number
        instance.RescaleType = kind
        instance.RescaleIntercept = -1024 + add
        del hu

    return change


def table(kind: str, entries: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Change:
    """A Modality LUT in place of slope and intercept; stored values are units plus 1024."""

    def change(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
        del number, hu
        without_rescale(99, "RescaleSlope", "RescaleIntercept", "RescaleType")(0, instance, None)  # type: ignore[arg-type]
        item = Dataset()
        item.add_new(0x00283002, "US", [4096, 0, 16])
        item.ModalityLUTType = kind
        values = entries(np.arange(4096))
        item.add_new(0x00283006, "OW", values.astype("<u2").tobytes())
        instance.ModalityLUTSequence = [item]

    return change


def shifted_table(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
    """Only bright voxels are told apart: a table of 300 entries from stored value 1100, then flat."""
    table("HU", lambda stored: np.clip(stored - 1024, 0, None))(number, instance, hu)
    item = instance.ModalityLUTSequence[0]
    item.add_new(0x00283002, "US", [300, 1100, 16])
    item.add_new(0x00283006, "OW", np.arange(76, 376).astype("<u2").tobytes())


def outside(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Everything beside the circle that a scanner reconstructs."""
    row, column = np.indices(shape[-2:])
    middle_row, middle_column = (shape[-2] - 1) / 2, (shape[-1] - 1) / 2
    return np.broadcast_to(
        ((row - middle_row) / 18) ** 2 + ((column - middle_column) / 19) ** 2 > 1, shape
    )


def padded(*, low: int = PADDING, limit: int | None = None, as_signed: bool = False) -> Change:
    def change(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
        del number
        beside = outside(hu.shape)
        if as_signed:
            signed(0, instance, hu)
        stored = np.frombuffer(instance.PixelData, "<u2").reshape(hu.shape).copy()
        stored[beside] = low
        if limit is not None:
            stored[beside & (np.indices(hu.shape)[-1] % 2 == 0)] = limit
        instance.PixelData = stored.tobytes()
        instance.add_new(0x00280120, "US", low)
        if limit is not None:
            instance.add_new(0x00280121, "US", limit)

    return change


def one_frame_raw(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
    del number, hu
    shared = instance.SharedFunctionalGroupsSequence[0]
    transformation = shared.PixelValueTransformationSequence
    del shared.PixelValueTransformationSequence
    for index, group in enumerate(instance.PerFrameFunctionalGroupsSequence):
        if index != 11:
            group.PixelValueTransformationSequence = transformation


def bits(**attributes: object) -> Change:
    def change(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
        del number, hu
        for keyword, value in attributes.items():
            if value is None:
                delattr(instance, keyword)
            else:
                setattr(instance, keyword, value)

    return change


def excess(number: int, instance: Dataset, hu: NDArray[np.int16]) -> None:
    """More bytes than declared, by less than a frame: the ingest takes them."""
    del number, hu
    instance.PixelData += b"\x7f" * 1000


BOTH = ("RescaleSlope", "RescaleIntercept")
ABSENT, DIFFERS, NOT_TAKEN = (
    ReasonCode.RESCALE_ABSENT, ReasonCode.QUANTITY_DIFFERS, ReasonCode.QUANTITY_NOT_TAKEN,
)  # fmt: skip
ENCODINGS: Mapping[str, Encoding] = {
    "unsigned, intercept -1024": Encoding(as_it_is),
    "signed": Encoding(signed),
    "12 of 16 bits, overlay above": Encoding(twelve_bits),
    "signed and unsigned slices": Encoding(mixed_signs),
    "implicit VR": Encoding(as_it_is, syntax=ImplicitVRLittleEndian),
    "big endian": Encoding(as_it_is, syntax=ExplicitVRBigEndian),
    "big endian, 12 of 16 bits": Encoding(twelve_bits, syntax=ExplicitVRBigEndian),
    "RLE": Encoding(signed, syntax=RLELossless),
    "JPEG 2000": Encoding(signed, syntax=JPEG2000Lossless),
    "JPEG-LS": Encoding(as_it_is, syntax=JPEGLSLossless),
    "enhanced": Encoding(as_it_is, phantom=ENHANCED),
    "excess bytes": Encoding(excess),
    "excess bytes, big endian": Encoding(excess, syntax=ExplicitVRBigEndian),
    "no Rescale Type": Encoding(without_rescale(24, "RescaleType")),
    "rescale absent": Encoding(without_rescale(24, *BOTH), parks=ABSENT),
    "rescale empty": Encoding(without_rescale(24, *BOTH, empty=True), parks=ABSENT),
    "rescale absent in 6 of 24": Encoding(without_rescale(6, *BOTH), parks=ABSENT),
    "intercept empty in 3 of 24": Encoding(
        without_rescale(3, "RescaleIntercept", empty=True), parks=ABSENT
    ),
    "enhanced, one frame raw": Encoding(one_frame_raw, phantom=ENHANCED, parks=ABSENT),
    "Rescale Type US, HU + 1024": Encoding(typed("US", 1024), parks=NOT_TAKEN),
    "Rescale Type US, HU": Encoding(typed("US"), parks=NOT_TAKEN),
    "Rescale Type MGML": Encoding(typed("MGML", 1024), parks=NOT_TAKEN),
    "Rescale Type Z_EFF": Encoding(typed("Z_EFF", 1024), parks=NOT_TAKEN),
    "Modality LUT of HU, negative ones wrapped": Encoding(
        table("HU", lambda stored: (stored - 1024) & 0xFFFF),
        parks=ReasonCode.MODALITY_LUT_MALFORMED,
    ),
    "Modality LUT of HU from 0": Encoding(
        table("HU", lambda stored: np.clip(stored - 1024, 0, None))
    ),
    "Modality LUT of HU, 300 entries from 1100": Encoding(shifted_table),
    "Modality LUT of HU, big endian": Encoding(
        table("HU", lambda stored: np.clip(stored - 1024, 0, None)), syntax=ExplicitVRBigEndian
    ),
    "Modality LUT of US": Encoding(table("US", lambda stored: stored), parks=NOT_TAKEN),
    "padding 63536": Encoding(padded()),
    "padding 63536 to 65000": Encoding(padded(limit=65000)),
    "padding 65000 to 63536": Encoding(padded(low=65000, limit=63536)),
    "padding -2000, signed, written as 63536": Encoding(padded(as_signed=True)),
    "padding 63536, RLE": Encoding(padded(), syntax=RLELossless),
    "padding 63536, big endian": Encoding(padded(), syntax=ExplicitVRBigEndian),
    "padding 63536, enhanced": Encoding(padded(), phantom=ENHANCED),
    "a slope per slice": Encoding(slopes),
    "slope 0": Encoding(bits(RescaleSlope=0), parks=ReasonCode.RESCALE_SLOPE_ZERO),
    "High Bit absent": Encoding(bits(HighBit=None), parks=ReasonCode.PIXEL_BITS_ABSENT),
    "High Bit 11": Encoding(bits(HighBit=11), parks=ReasonCode.PIXEL_BITS_CONTRADICT),
    "Bits Stored absent": Encoding(bits(BitsStored=None), parks=ReasonCode.PIXEL_BITS_ABSENT),
    "Pixel Representation absent": Encoding(
        bits(PixelRepresentation=None), parks=ReasonCode.PIXEL_BITS_ABSENT
    ),
}


def files_of(encoding: Encoding, folder: Path) -> dict[str, Path]:
    units = encoding.phantom.hu_volume
    files = {}
    for number, instance in enumerate(encoding.phantom.datasets()):
        encoding.change(number, instance, units if encoding.phantom.enhanced else units[number])
        path = folder / f"{number}.dcm"
        path.write_bytes(_written(instance, encoding.syntax))
        files[str(instance.SOPInstanceUID)] = path
    return files


def _written(instance: Dataset, syntax: str) -> bytes:
    data = encoded_as(instance, syntax)
    if syntax != ExplicitVRBigEndian or "ModalityLUTSequence" not in instance:
        return data
    swapped = dcmread(BytesIO(data))  # a table of words has the byte order of its file
    entries = swapped.ModalityLUTSequence[0]["LUTData"]
    entries.value = np.frombuffer(entries.value, "<u2").astype(">u2").tobytes()
    buffer = BytesIO()
    swapped.save_as(buffer)
    return buffer.getvalue()


def judged(files: Mapping[str, Path]) -> tuple[GateVerdict, list[Dataset]]:
    headers = [dcmread(path, stop_before_pixels=True) for path in files.values()]
    frames = [frame for header in headers for frame in frames_of(header)]
    model = load_model(default_models_folder() / "ct_tissue")
    (wanted,) = model.inputs.values()
    return judge_geometry(frames, quantities=wanted.quantities), headers


def labels_of(files: Mapping[str, Path], folder: Path) -> NDArray[np.uint8]:
    """What a model that labels everything above a threshold makes of the files."""
    probe = load_model(_probe_for_hounsfield(folder))
    headers = [dcmread(path, stop_before_pixels=True) for path in files.values()]
    given = SeriesInput(stack=stack_of(headers), files=files, header=Header())
    scratch = folder / "scratch"
    scratch.mkdir()
    room = RunContext(device="cpu", weights_dir=folder, scratch=scratch, memory_gb=1)
    parameters = {"method": "above", "threshold": THRESHOLD_HU}
    return run_model(probe, {"image": given}, room, Stopwatch(), parameters).labels


def _probe_for_hounsfield(folder: Path) -> Path:
    target = folder / "probe"
    target.mkdir()
    for source in (MODELS / "probe").iterdir():
        text = source.read_text()
        if source.name == "model.yaml":
            text = text.replace("    accepts: {}", "    accepts: {}\n    quantity: HU")
        (target / source.name).write_text(text)
    return target


def truth(encoding: Encoding) -> NDArray[np.bool_]:
    units = encoding.phantom.hu_volume
    expected = units > THRESHOLD_HU
    is_padded = "padded" in encoding.change.__qualname__
    return expected & ~outside(units.shape) if is_padded else expected


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_gives_the_right_labels_or_is_parked(name: str, tmp_path: Path) -> None:
    encoding = ENCODINGS[name]
    files = files_of(encoding, tmp_path)

    verdict, _ = judged(files)

    if encoding.parks is not None:
        print(f"{name:45} parked: {tell_all(verdict.findings)}")
        assert [finding.code for finding in verdict.findings] == [encoding.parks]
        return
    labels = labels_of(files, tmp_path) > 0
    expected = truth(encoding)
    wrong = int((labels != expected).sum())
    dice = 2 * (labels & expected).sum() / (labels.sum() + expected.sum())
    print(f"{name:45} Dice {dice:.4f}, {wrong} wrong of {expected.sum()} voxels")
    assert verdict.stack is not None
    assert expected.any()
    assert (wrong, dice) == (0, 1.0)


@pytest.mark.parametrize(
    "name",
    [
        "signed",
        "signed and unsigned slices",
        "big endian, 12 of 16 bits",
        "JPEG 2000",
        "Modality LUT of HU, 300 entries from 1100",
        "padding -2000, signed, written as 63536",
        "a slope per slice",
    ],
)
def test_the_numbers_are_those_of_pydicom(name: str, tmp_path: Path) -> None:
    files = files_of(ENCODINGS[name], tmp_path)
    stack = stack_of([dcmread(path, stop_before_pixels=True) for path in files.values()])

    volume = read_volume(stack, files)

    for plane, frame in enumerate(stack.frames):
        instance = dcmread(files[frame.sop_instance_uid])
        inside = slice(None) if volume.padding is None else ~volume.padding[plane]
        theirs = apply_modality_lut(instance.pixel_array, instance)
        assert np.allclose(volume.array[plane][inside], theirs[inside])
