"""Reading a volume: the same voxels from every encoding, and no voxel from a file that lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from node.domain.errors import JobFailed, SeriesUnusable
from node.domain.frames import frames_of
from node.domain.grid import Grid, Stack
from node.infer.codestream import coded_size
from node.infer.volume import Volume, read_volume
from node.words import tell_all
from tests.support.cases import Cases
from tests.support.phantoms import ORDERS, TRANSFER_SYNTAXES, Phantom, stack_of

SHAPE = (4, 40, 50)
SMALL = Phantom(shape=SHAPE)
COMPRESSED = (JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1, RLELossless)


def files_of(paths: list[Path]) -> dict[str, Path]:
    return {
        str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): path for path in paths
    }


def series(folder: Path) -> tuple[Stack, Mapping[str, Path]]:
    paths = sorted(folder.glob("*.dcm"))
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    return stack_of(headers), files_of(paths)


def written(phantom: Phantom, folder: Path) -> Mapping[str, Path]:
    return files_of(phantom.write(folder))


def rewrite(path: Path, **attributes: object) -> None:
    instance = dcmread(path)
    for keyword, value in attributes.items():
        setattr(instance, keyword, value)
    instance.save_as(path)


def with_stored(folder: Path, stored: NDArray[np.integer], **attributes: object) -> Volume:
    """Read slices of these stored values, native, with these attributes."""
    datasets = SMALL.datasets()
    for instance, plane in zip(datasets, stored, strict=True):
        instance.BitsAllocated = instance.BitsStored = plane.itemsize * 8
        instance.PixelRepresentation = int(np.issubdtype(plane.dtype, np.signedinteger))
        for keyword, value in attributes.items():
            setattr(instance, keyword, value)
        instance.HighBit = instance.BitsStored - 1
        instance.PixelData = plane.tobytes()
        instance["PixelData"].VR = "OB" if plane.itemsize == 1 else "OW"
    return read_back(folder, datasets)


def read_back(folder: Path, datasets: list[Dataset]) -> Volume:
    paths = []
    for number, instance in enumerate(datasets):
        path = folder / f"{number}.dcm"
        instance.save_as(path, enforce_file_format=True)
        paths.append(path)
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    return read_volume(stack_of(headers), files_of(paths))


# --- the same voxels ---------------------------------------------------------------------------


@pytest.mark.parametrize("transfer_syntax", TRANSFER_SYNTAXES)
@pytest.mark.parametrize("enhanced", [False, True])
def test_every_encoding_gives_the_voxels_that_were_stored(
    transfer_syntax: str, enhanced: bool, tmp_path: Path
) -> None:
    phantom = replace(SMALL, transfer_syntax=transfer_syntax, enhanced=enhanced, order="shuffled")

    volume = read_volume(phantom.stack, written(phantom, tmp_path))

    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, phantom.hu_volume)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("plane", ["axial", "sagittal", "oblique"])
def test_slices_stand_in_the_order_of_the_stack(plane: str, order: str, tmp_path: Path) -> None:
    phantom = replace(SMALL, plane=plane, order=order)

    volume = read_volume(phantom.stack, written(phantom, tmp_path))

    assert volume.grid == phantom.grid or np.allclose(
        volume.grid.affine_lps, phantom.grid.affine_lps
    )
    assert np.array_equal(volume.array, phantom.hu_volume)


@pytest.mark.parametrize(
    "case",
    ["ts_rle", "ts_jpegls", "ts_j2k", "ts_deflated", "ts_big_endian", "ts_jpeg_lossless_sv1"],
)
def test_real_slices_read_the_same_from_every_encoding(shared_data: Cases, case: str) -> None:
    plain = read_volume(*series(shared_data / "derived_ct_sts_001" / "plain"))

    encoded = read_volume(*series(shared_data / "derived_ct_sts_001" / case))

    assert np.array_equal(encoded.array, plain.array)


def test_each_pet_slice_gets_its_own_slope(shared_data: Cases) -> None:
    stack, files = series(shared_data / "pet_uneven_spacing_slope")

    volume = read_volume(stack, files)

    assert volume.array.dtype == np.float32
    assert len({frame.slope for frame in stack.frames}) > 1
    for index in (0, 40, 79):
        instance = dcmread(files[stack.frames[index].sop_instance_uid])
        expected = instance.pixel_array * float(instance.RescaleSlope)
        assert np.allclose(volume.array[index], expected, rtol=1e-6)


def test_a_converted_enhanced_ct_reads_like_its_classic_series(shared_data: Cases) -> None:
    folder = shared_data / "ct_legacy_converted_enhanced"
    kinds: dict[str, list[tuple[Dataset, Path]]] = {}
    for path in sorted(folder.rglob("*.dcm")):
        header = dcmread(path, stop_before_pixels=True)
        kinds.setdefault(header.SOPClassUID.name, []).append((header, path))

    classic, converted = (
        read_volume(stack_of([h for h, _ in kind]), {h.SOPInstanceUID: p for h, p in kind})
        for name, kind in sorted(kinds.items())
        if name.endswith("CT Image Storage") or "Converted Enhanced CT" in name
    )

    assert np.array_equal(classic.array, converted.array)


# --- units and types ---------------------------------------------------------------------------


def test_unsigned_values_with_an_intercept_become_hounsfield_units(tmp_path: Path) -> None:
    stored = np.zeros(SHAPE, np.uint16)
    stored[1, 2, 3] = 4095

    volume = with_stored(tmp_path, stored, RescaleIntercept=-1024)

    assert volume.array.dtype == np.int16
    assert (volume.array[0, 0, 0], volume.array[1, 2, 3]) == (-1024, 3071)


def test_values_beyond_16_bits_stay_exact_as_floats(tmp_path: Path) -> None:
    stored = np.zeros(SHAPE, np.uint16)
    stored[1, 2, 3] = 65535

    volume = with_stored(tmp_path, stored, RescaleIntercept=-1024)

    assert volume.array.dtype == np.float32
    assert volume.array[1, 2, 3] == 65535 - 1024


@pytest.mark.parametrize("slope", [2.0, -1.0, 0.5])
def test_every_slope_is_applied(tmp_path: Path, slope: float) -> None:
    stored = np.arange(8000, dtype=np.int16).reshape(SHAPE) - 1500

    volume = with_stored(tmp_path, stored, RescaleSlope=slope, RescaleIntercept=10)

    assert np.array_equal(volume.array, stored * slope + 10)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_every_width_is_read(tmp_path: Path, dtype: type[np.integer]) -> None:
    stored = (np.arange(8000) % 251).astype(dtype).reshape(SHAPE)

    volume = with_stored(tmp_path, stored, RescaleIntercept=0)

    assert np.array_equal(volume.array, stored)


def test_bits_above_the_stored_ones_are_no_part_of_the_value(tmp_path: Path) -> None:
    values = np.full(SHAPE, -5, np.int16)
    with_overlay = (values & 0x0FFF) | 0x7000

    volume = with_stored(tmp_path, with_overlay.astype(np.int16), BitsStored=12, RescaleIntercept=0)

    assert np.array_equal(volume.array, values)


def test_signed_and_unsigned_slices_may_share_a_series(tmp_path: Path) -> None:
    datasets = SMALL.datasets()
    for number, instance in enumerate(datasets):
        value = -7 if number == 2 else 40000
        instance.PixelRepresentation = int(number == 2)
        instance.PixelData = np.full((40, 50), value, np.int16 if number == 2 else "<u2").tobytes()
        instance.RescaleIntercept = 0

    volume = read_back(tmp_path, datasets)

    assert volume.array[:, 0, 0].tolist() == [40000, 40000, -7, 40000]


# --- files that lie (F28, F29, F30) ------------------------------------------------------------


def refused(folder: Path, change: Mapping[str, object], phantom: Phantom = SMALL) -> str:
    """The sentence of the job after one file was changed behind the stack's back."""
    files = written(phantom, folder)
    victim = phantom.stack.frames[1].sop_instance_uid
    rewrite(files[victim], **change)

    with pytest.raises((JobFailed, SeriesUnusable)) as failure:
        read_volume(phantom.stack, files)

    if isinstance(failure.value, SeriesUnusable):
        said = tell_all(failure.value.reasons)
    else:
        assert failure.value.permanent
        said = failure.value.reason
    assert victim in said
    return said


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("size", [0, 3998, 8000, 12000])
def test_native_pixel_data_of_another_length_are_refused(
    tmp_path: Path, syntax: str, size: int
) -> None:
    sentence = refused(tmp_path, {"PixelData": bytes(size)}, replace(SMALL, transfer_syntax=syntax))

    assert f"{size} bytes of pixel data where 4000 are due" in sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"Rows": 65535}, "65535 rows and 50 columns are not the stack's"),
        ({"Rows": 0}, "0 rows and 50 columns are not the stack's"),
        ({"BitsAllocated": 33}, "Bits Allocated 33"),
        ({"BitsStored": 17, "HighBit": 16}, "Bits Stored 17 in Bits Allocated 16"),
        ({"BitsStored": 12, "HighBit": 15}, "High Bit 15"),
        ({"SamplesPerPixel": 3}, "Samples per Pixel 3"),
        ({"NumberOfFrames": 7}, "where 28000 are due"),
        ({"PixelRepresentation": 1}, "not those that were judged"),
        ({"NumberOfFrames": 2}, "where 8000 are due"),
    ],
)
def test_a_header_that_contradicts_the_stack_is_refused(
    tmp_path: Path, change: Mapping[str, object], sentence: str
) -> None:
    assert sentence in refused(tmp_path, change)


def test_pixel_data_that_end_early_are_refused(tmp_path: Path) -> None:
    files = written(SMALL, tmp_path)
    victim = files[SMALL.stack.frames[1].sop_instance_uid]
    victim.write_bytes(victim.read_bytes()[:-100])

    with pytest.raises(JobFailed, match="end early") as failure:
        read_volume(SMALL.stack, files)

    assert failure.value.permanent


def test_jpeg_behind_a_native_transfer_syntax_is_refused(tmp_path: Path) -> None:
    files = written(replace(SMALL, transfer_syntax=JPEGLSLossless), tmp_path)
    victim = files[SMALL.stack.frames[1].sop_instance_uid]
    instance = dcmread(victim)
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance["PixelData"].is_undefined_length = False
    victim.write_bytes(part10(instance))

    with pytest.raises(JobFailed, match="bytes of pixel data where"):
        read_volume(SMALL.stack, files)


def part10(instance: Dataset) -> bytes:
    buffer = BytesIO()
    instance.save_as(buffer)
    return buffer.getvalue()


def code_stream_of(phantom: Phantom, folder: Path) -> bytes:
    files = written(phantom, folder)
    pixel_data = dcmread(files[phantom.stack.frames[1].sop_instance_uid]).PixelData
    return next(generate_frames(pixel_data, number_of_frames=1))


@pytest.mark.parametrize("transfer_syntax", COMPRESSED[:3])
def test_a_frame_coded_larger_than_its_header_is_not_decoded(
    tmp_path: Path, transfer_syntax: str
) -> None:
    bomb = replace(SMALL, shape=(4, 200, 300), transfer_syntax=transfer_syntax)
    large = code_stream_of(bomb, tmp_path / "bomb")

    sentence = refused(
        tmp_path,
        {"PixelData": encapsulate([large])},
        replace(SMALL, transfer_syntax=transfer_syntax),
    )

    assert "frame 1 is coded as (200, 300, 1)" in sentence


@pytest.mark.parametrize("transfer_syntax", COMPRESSED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_truncated_code_stream_fails_the_job(tmp_path: Path, transfer_syntax: str) -> None:
    phantom = replace(SMALL, transfer_syntax=transfer_syntax)
    stream = code_stream_of(phantom, tmp_path / "good")

    sentence = refused(tmp_path, {"PixelData": encapsulate([stream[:60]])}, phantom)

    assert "decoded" in sentence or "too short" in sentence


@pytest.mark.parametrize(
    "pixel_data",
    [
        b"\xfe\xff\x00\xe0\x00\x00\x00\x00",
        b"\xfe\xff\x00\xe0\x04\x00\x00\x00\xff\xff\xff\x7f" + encapsulate([b"\xff\xd8\xff\xd9"]),
        encapsulate([b"not an image at all"]),
        encapsulate([b"\xff\xd8\xff\xf7\x00\x0b"]),
    ],
    ids=["no fragment", "offset out of range", "text", "cut header"],
)
def test_broken_encapsulation_fails_the_job(tmp_path: Path, pixel_data: bytes) -> None:
    refused(tmp_path, {"PixelData": pixel_data}, replace(SMALL, transfer_syntax=JPEGLSLossless))


def test_a_huge_run_length_frame_with_few_bytes_is_refused_before_it_is_allocated(
    tmp_path: Path,
) -> None:
    phantom = replace(SMALL, shape=(4, 500, 500), transfer_syntax=RLELossless)
    header = (2).to_bytes(4, "little") + (64).to_bytes(4, "little") + (80).to_bytes(4, "little")

    sentence = refused(
        tmp_path, {"PixelData": encapsulate([header.ljust(64, b"\0") + bytes(64)])}, phantom
    )

    assert "too short for its rows and columns" in sentence


def test_a_file_that_holds_another_instance_is_refused(tmp_path: Path) -> None:
    files = dict(written(SMALL, tmp_path))
    first, second = (frame.sop_instance_uid for frame in SMALL.stack.frames[:2])
    files[first] = files[second]

    with pytest.raises(JobFailed, match="as the index says") as failure:
        read_volume(SMALL.stack, files)

    assert failure.value.permanent


def test_a_missing_file_may_be_there_next_time(tmp_path: Path) -> None:
    files = written(SMALL, tmp_path)
    files[SMALL.stack.frames[2].sop_instance_uid].unlink()

    with pytest.raises(JobFailed) as failure:
        read_volume(SMALL.stack, files)

    assert not failure.value.permanent


def test_a_file_that_is_no_dicom_fails_the_job(tmp_path: Path) -> None:
    files = written(SMALL, tmp_path)
    files[SMALL.stack.frames[2].sop_instance_uid].write_text("hello")

    with pytest.raises(JobFailed) as failure:
        read_volume(SMALL.stack, files)

    assert failure.value.permanent


@pytest.mark.filterwarnings("ignore:End of file reached:UserWarning")
def test_the_real_frame_that_is_too_short_fails_and_its_siblings_agree(shared_data: Cases) -> None:
    folder = shared_data / "mr_enhanced_small_transfer_syntaxes"
    arrays, failures = [], []
    for path in sorted(folder.glob("*.dcm")):
        header = dcmread(path, stop_before_pixels=True)
        try:
            arrays.append(read_volume(unplaced(header), {header.SOPInstanceUID: path}).array)
        except JobFailed as failure:
            failures.append((path.name, failure.permanent))

    assert len(arrays) == 5
    assert all(np.array_equal(array, arrays[0]) for array in arrays)
    assert len(failures) == 1
    assert failures[0][1]


def unplaced(header: Dataset) -> Stack:
    """The frames in stored order on a made-up grid: these files have no positions."""
    frames = frames_of(header)
    return Stack(
        frames=frames,
        grid=Grid(
            shape=(len(frames), header.Rows, header.Columns),
            origin_mm=(0, 0, 0),
            steps_mm=((0, 0, 1), (0, 1, 0), (1, 0, 0)),
            frame_of_reference_uid="2.25.1",
        ),
    )


@pytest.mark.parametrize(
    ("code_stream", "size"),
    [
        (b"RLE or anything", None),
        (b"\xff\xd8", None),
        (b"\xff\xd8\xff\xda\x00\x08" + bytes(20), None),
        (
            b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc3\x00\x0b\x10\x01\x02\x03\x04\x01" + bytes(9),
            (258, 772, 1),
        ),
        (b"\xff\x4f\xff\x51\x00\x29", None),
    ],
)
def test_the_size_of_a_code_stream_is_read_or_unknown(
    code_stream: bytes, size: tuple[int, int, int] | None
) -> None:
    assert coded_size(code_stream) == size
