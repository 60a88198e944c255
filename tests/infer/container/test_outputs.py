"""What a container wrote: taken out as this process's own files, and the result among them.

A label map in NIfTI lies on the source grid, whatever the order of its axes.
"""

from __future__ import annotations

import io
import os
import tarfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that

from node.domain.errors import JobFailed
from node.infer.container import outputs
from node.infer.container.outputs import OutputFile, choose, read_outputs, take_out
from node.infer.run_context import SeriesInput
from tests.infer.container.made import volume_image
from tests.support.phantoms import Phantom
from tests.support.rooms import given_files
from tests.support.segmentations import SEGMENTS, painted_boxes

STARTED = 1_000_000.0
SMALL = Phantom(shape=(6, 24, 28))


def member(
    name: str, content: bytes = b"x", *, kind: bytes = tarfile.REGTYPE, mtime: float = STARTED + 5
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.mtime, info.mode = kind, mtime, 0o4777
    info.uid = info.gid = 4321
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return info, content


def archive(*members: tuple[tarfile.TarInfo, bytes], root: str = "output_data") -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(member(root, kind=tarfile.DIRTYPE)[0])
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    stream.seek(0)
    return stream


def names(*paths: str) -> list[OutputFile]:
    return [OutputFile(Path(str(n)), PurePosixPath(path)) for n, path in enumerate(paths)]


def test_files_are_ours_whatever_their_owner_and_mode_were(tmp_path: Path) -> None:
    stream = archive(member("output_data/1.2/a.seg.dcm", b"seg"))

    (file,) = take_out(stream, tmp_path / "out", newer_than_s=STARTED)

    assert file.name == PurePosixPath("1.2/a.seg.dcm")
    assert file.path.read_bytes() == b"seg"
    assert file.path.stat().st_uid == os.geteuid()
    assert not file.path.stat().st_mode & 0o7111


@pytest.mark.parametrize("root", ["", "./", "output_data/"])
def test_names_begin_below_the_output_folder_whatever_the_engine_calls_it(
    root: str, tmp_path: Path
) -> None:
    stream = archive(member(f"{root}/a.dcm"), root=root)

    (file,) = take_out(stream, tmp_path / "out", newer_than_s=STARTED)

    assert file.name == PurePosixPath("a.dcm")


def test_links_and_devices_are_left_where_they_are(tmp_path: Path) -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    stream = archive(*(member(f"output_data/{n}.dcm", kind=k) for n, k in enumerate(kinds)))

    assert take_out(stream, tmp_path / "out", newer_than_s=STARTED) == []
    assert list((tmp_path / "out").iterdir()) == []


def test_what_came_with_the_image_is_no_output_of_the_run(tmp_path: Path) -> None:
    stream = archive(member("output_data/old.seg.dcm", mtime=STARTED - 60))

    assert take_out(stream, tmp_path / "out", newer_than_s=STARTED) == []


@pytest.mark.parametrize("name", ["output_data/../../../x.dcm", "/etc/x.dcm", "other/x.dcm"])
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))

    with suppress(JobFailed):
        take_out(archive(member(name)), tmp_path / "out", newer_than_s=STARTED)
    made = set(tmp_path.rglob("*")) - before - {tmp_path / "out"}

    assert made <= {tmp_path / "out/0.dcm"}


def test_a_stream_that_ends_early_is_not_half_a_result(tmp_path: Path) -> None:
    whole = archive(member("output_data/a.dcm", b"y" * 5000)).getvalue()

    with pytest.raises(JobFailed, match="could not be taken out whole"):
        take_out(io.BytesIO(whole[:3000]), tmp_path / "out", newer_than_s=STARTED)


def test_more_than_any_result_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MOST_BYTES", 1000)
    stream = archive(
        member("output_data/a.dcm", b"y" * 600), member("output_data/b.dcm", b"y" * 600)
    )

    with pytest.raises(JobFailed, match="wrote more than any result") as failure:
        take_out(stream, tmp_path / "out", newer_than_s=STARTED)

    assert failure.value.permanent


@pytest.mark.parametrize(
    ("patterns", "written", "chosen"),
    [
        ((), ["1.2/a.seg.dcm", "1.2/b.dcm", "log.txt"], ["1.2/a.seg.dcm"]),
        ((), ["a.dcm", "b.nii.gz"], ["a.dcm"]),
        ((), ["1.2/seg.nii.gz"], ["1.2/seg.nii.gz"]),
        (["**/lungs.seg.dcm", "**/lobes.seg.dcm"], ["x/lobes.seg.dcm", "lungs.seg.dcm"], None),
        (["*/b?.dcm"], ["b1.dcm", "1/b1.dcm", "1/2/b1.dcm"], ["1/b1.dcm"]),
        (["a+b.dcm"], ["aab.dcm", "a+b.dcm"], ["a+b.dcm"]),
    ],
)
def test_patterns_choose_the_result_files(
    patterns: list[str], written: list[str], chosen: list[str] | None
) -> None:
    found = choose(names(*written), patterns)

    assert sorted(str(file.name) for file in found) == sorted(chosen or written)


@pytest.mark.parametrize(
    ("patterns", "written", "sentence"),
    [
        ((), ["log.txt"], "wrote files, but no segmentation"),
        (
            (),
            ["a.seg.dcm", "b.seg.dcm"],
            r"2 files that fit \*\*/\*.seg.dcm, where one is expected",
        ),
        (["b.dcm"], ["x/b.dcm"], "wrote no file that fits b.dcm"),
        (["*.dcm"], ["b.dcm", "c.dcm"], "2 files that fit"),
    ],
)
def test_none_or_several_where_one_is_expected_is_refused(
    patterns: list[str], written: list[str], sentence: str
) -> None:
    with pytest.raises(JobFailed, match=sentence) as failure:
        choose(names(*written), patterns)

    assert failure.value.permanent


def read(
    image: sitk.Image, given: SeriesInput, folder: Path, name: str = "labels.nii.gz"
) -> np.ndarray:
    sitk.WriteImage(image, str(folder / name))
    file = OutputFile(folder / name, PurePosixPath(name))
    return read_outputs([file], {"ct": given}, SEGMENTS, overlapping=False)


@pytest.fixture
def given(tmp_path: Path) -> SeriesInput:
    return given_files(SMALL, tmp_path / "series")


@pytest.mark.parametrize("plane", ["axial", "oblique", "sagittal"])
@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "ASL"])
def test_labels_come_back_whatever_the_order_of_the_axes(
    plane: str, orientation: str, tmp_path: Path
) -> None:
    phantom = Phantom(shape=(6, 24, 28), plane=plane, position="HFP")
    given = given_files(phantom, tmp_path / "series")
    labels = painted_boxes(phantom.stack)

    image = sitk.DICOMOrient(volume_image(phantom, labels), orientation)

    assert np.array_equal(read(image, given, tmp_path), labels)


def test_whole_numbers_may_be_stored_as_floats(given: SeriesInput, tmp_path: Path) -> None:
    labels = painted_boxes(SMALL.stack)

    image = volume_image(SMALL, labels.astype(np.float32))

    assert np.array_equal(read(image, given, tmp_path, "labels.nii"), labels)


def shifted(image: sitk.Image) -> sitk.Image:
    image.SetOrigin(image.TransformContinuousIndexToPhysicalPoint((0.5, 0, 0)))
    return image


def resampled(image: sitk.Image) -> sitk.Image:
    image.SetSpacing([value * 1.02 for value in image.GetSpacing()])
    return image


def fractions(image: sitk.Image) -> sitk.Image:
    return sitk.Cast(image, sitk.sitkFloat32) * 0.5


def nothing_finite(image: sitk.Image) -> sitk.Image:
    return sitk.Log(sitk.Cast(image, sitk.sitkFloat32) - 1)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (shifted, "not on the grid of its input: its pixels lie between"),
        (resampled, "its pixels have another size or direction"),
        (lambda image: image[:, :-1, :], "it has 6 x 23 x 28 voxels"),
        (lambda image: image + 40, "holds label 40, which labels.csv does not describe"),
        (fractions, "holds values that are no labels"),
        (nothing_finite, "holds values that are no labels"),
        (lambda image: sitk.JoinSeries([image, image]), "is not one volume of single values"),
        (lambda image: sitk.Compose([image, image]), "is not one volume of single values"),
    ],
)
def test_what_is_no_label_map_of_the_input_is_refused(
    spoil: object, sentence: str, given: SeriesInput, tmp_path: Path
) -> None:
    image = spoil(volume_image(SMALL, painted_boxes(SMALL.stack)))

    with pytest.raises(JobFailed, match=sentence) as failure:
        read(image, given, tmp_path)

    assert failure.value.permanent


def test_a_file_that_is_no_nifti_is_refused(given: SeriesInput, tmp_path: Path) -> None:
    path = tmp_path / "labels.nii.gz"
    path.write_bytes(b"nothing of the kind")

    with pytest.raises(JobFailed, match="cannot be read as NIfTI") as failure:
        read_outputs(
            [OutputFile(path, PurePosixPath(path.name))], {"ct": given}, SEGMENTS, overlapping=False
        )

    assert failure.value.permanent
