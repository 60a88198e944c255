"""The verifier of NIfTI images lets a true one pass and finds what one change makes of it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from node.domain.errors import ResultRefused
from node.domain.result import LabelVolume
from node.encode.nifti import encode
from node.verify.nifti import verify
from tests.support.phantoms import PLANES, Phantom
from tests.support.segmentations import SEGMENTS, Segmentation, of_phantom

SMALL = Phantom(shape=(8, 20, 24), spacing_mm=(25.0, 12.0, 13.0))
GIVEN = of_phantom(SMALL)
AT = {"dim": 40, "datatype": 70, "pixdim": 76, "slope": 112, "descrip": 148, "aux_file": 228,
      "qform": 252, "quatern": 256, "qoffset": 268, "srow": 280, "magic": 344}  # fmt: skip

Mutant = Callable[[bytearray], None]


def files_of(given: Segmentation) -> dict[str, bytes]:
    return {file.part: b"".join(file.chunks()) for file in encode(given)}


def check(files: dict[str, bytes], given: Segmentation = GIVEN) -> None:
    views = {part: memoryview(data) for part, data in files.items()}
    verify(views, given)


def refusal(files: dict[str, bytes], given: Segmentation = GIVEN) -> str:
    with pytest.raises(ResultRefused) as refused:
        check(files, given)
    return "; ".join(refused.value.faults)


def put(kind: str, place: str, *values: float | bytes, skip: int = 0) -> Mutant:
    def change(data: bytearray) -> None:
        struct.pack_into(f"<{kind}", data, AT[place] + skip, *values)

    return change


def scaled(place: str, factor: float, skip: int = 0) -> Mutant:
    def change(data: bytearray) -> None:
        at = AT[place] + skip
        struct.pack_into("<f", data, at, struct.unpack_from("<f", data, at)[0] * factor)

    return change


def moved(place: str, by_mm: float, skip: int = 0) -> Mutant:
    def change(data: bytearray) -> None:
        at = AT[place] + skip
        struct.pack_into("<f", data, at, struct.unpack_from("<f", data, at)[0] + by_mm)

    return change


def voxel(data: bytearray) -> None:
    data[352 + 1234] ^= 1


def flipped(axis: int) -> Mutant:
    def change(data: bytearray) -> None:
        voxels = np.frombuffer(bytes(data[352:]), np.uint8).reshape(SMALL.stack.grid.shape)
        data[352:] = np.flip(voxels, axis).tobytes()

    return change


@pytest.mark.parametrize("plane", PLANES)
def test_a_true_image_passes(plane: str) -> None:
    given = of_phantom(replace(SMALL, plane=plane, order="shuffled"))

    check(files_of(given), given)


def test_an_image_of_nothing_passes_and_no_image_does_not() -> None:
    empty = LabelVolume(labels=np.zeros(SMALL.stack.grid.shape, np.uint8), stack=SMALL.stack)
    given = replace(GIVEN, volume=empty)

    check(files_of(given), given)
    assert "0 regions, not of 1" in refusal({}, given)


@pytest.mark.parametrize(
    ("mutant", "word"),
    [
        (voxel, "1 voxels differ"),
        (flipped(0), "voxels differ"),
        (flipped(1), "voxels differ"),
        (flipped(2), "voxels differ"),
        (put("h", "dim", 19, skip=2), "size"),
        (put("h", "datatype", 16), "no whole numbers"),
        (put("f", "slope", 2.0), "scaled"),
        (put("8s", "descrip", b"somebody"), "key of its result"),
        (put("11s", "aux_file", b"IMPLAUSIBLE"), "marked as IMPLAUSIBLE"),
        (put("hh", "qform", 0, 1), "where it lies"),
        (put("4s", "magic", b"ni1"), "no NIfTI-1 image"),
        (moved("srow", 0.5 * 13.0, skip=12), "sform does not lie on the grid"),
        (moved("srow", 26.0, skip=12), "sform puts slice 0 elsewhere"),
        (scaled("srow", -1.0, skip=0), "sform puts slice 0 elsewhere"),
        (scaled("srow", 1.2, skip=0), "sform puts slice 0 elsewhere"),
        (scaled("srow", 0.0, skip=0), "sform spans no volume"),
        (moved("qoffset", 0.5 * 13.0), "qform does not lie on the grid"),
        (put("f", "pixdim", -1.0), "qform puts slice 1 elsewhere"),
        (scaled("pixdim", 1.2, skip=4), "qform puts slice 0 elsewhere"),
        (put("3f", "quatern", 0.0, 0.0, 0.0), "qform puts slice 0 elsewhere"),
        (put("f", "qoffset", float("nan")), "qform spans no volume"),
    ],
)
def test_one_change_is_found(mutant: Mutant, word: str) -> None:
    data = bytearray(gzip.decompress(files_of(GIVEN)[""]))
    mutant(data)

    assert word in refusal({"": gzip.compress(bytes(data))})


@pytest.mark.parametrize("cut", [10, -9])
def test_a_file_that_was_cut_off_is_no_image(cut: int) -> None:
    whole = files_of(GIVEN)[""]

    assert "cannot be read" in refusal({"": whole[:cut]})


def test_an_image_of_another_series_is_refused() -> None:
    other = of_phantom(replace(SMALL, position="FFS"))

    assert "sform puts slice 0 elsewhere" in refusal(files_of(other))


def test_regions_must_all_be_there_each_with_its_own_voxels() -> None:
    labels = np.zeros(SMALL.stack.grid.shape, np.uint8)
    labels[:, 4:12, 4:12] |= 1
    labels[:, 8:16, 8:16] |= 2
    given = replace(
        GIVEN,
        volume=LabelVolume(labels=labels, stack=SMALL.stack, overlapping=True),
        segments=[replace(SEGMENTS[k], label_value=k + 1) for k in range(2)],
    )
    files = files_of(given)
    first, second = files

    check(files, given)
    assert "1 regions, not of 2" in refusal({first: files[first]}, given)
    assert "image of region 1: " in refusal({first: files[second], second: files[second]}, given)


def test_a_mark_that_is_due_and_absent_is_refused() -> None:
    told = replace(GIVEN, provenance=replace(GIVEN.provenance, incomplete="7 of 8 images"))

    assert "marked as INCOMPLETE" in refusal(files_of(GIVEN), told)


def test_labels_that_nobody_describes_are_refused() -> None:
    assert "does not describe" in refusal(files_of(GIVEN), replace(GIVEN, segments=SEGMENTS[1:]))
