"""A bundle's own command: what it is given, what it may not touch, how it fails."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monai")
pytest.importorskip("ignite")
pytest.importorskip("nibabel")

import nibabel

from node.domain.errors import JobFailed
from node.infer.bundle import strict
from node.infer.bundle.spec import Bundle, bundle_of
from node.infer.bundle.strict import read_labels, run_strict, strict_arguments, write_image
from node.infer.report import Stopwatch
from node.infer.runner import Runner
from node.infer.volume import Volume
from tests.support import bad_bundles
from tests.support.bundles import MADE_BUNDLES, Recipe, overlapping, threshold, write_bundle_model
from tests.support.phantoms import PLANES, POSITIONS, Phantom
from tests.support.rooms import room
from tests.support.waiting import eventually

SMALL = Phantom(plane="oblique", position="HFDR", shape=(20, 24, 28), spacing_mm=(9.0, 8.0, 7.0))
LONG_S = 60.0


def image_of(*phantoms: Phantom) -> tuple[Volume, ...]:
    return tuple(Volume(array=each.hu_volume, grid=each.grid) for each in phantoms)


def bundle_in(folder: Path, recipe: Recipe, **overrides: object) -> Bundle:
    made = write_bundle_model(folder, "bundle", recipe)
    checked = bundle_of(made.spec, next(iter(made.spec.runner.variants)), made.weights_dir)
    return Bundle(
        root=checked.root, config=checked.config, overrides=overrides, weights=checked.weights
    )


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("plane", PLANES)
def test_a_written_image_lies_where_the_series_does(
    tmp_path: Path, plane: str, position: str
) -> None:
    sitk = pytest.importorskip("SimpleITK")
    phantom = Phantom(plane=plane, position=position, shape=(4, 5, 6))  # type: ignore[arg-type]

    (name,) = write_image(image_of(phantom), tmp_path)

    image = sitk.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), phantom.hu_volume)
    for index in ((0, 0, 0), (3, 4, 5), (2, 0, 5)):  # slice, row, column; SimpleITK speaks LPS
        place = (phantom.grid.affine_lps @ (*index, 1))[:3]
        written = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(written, place, atol=1e-3)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "AIL", "SPR"])
def test_labels_come_back_whatever_the_order_of_their_axes(tmp_path: Path, axes: str) -> None:
    (name,) = write_image(image_of(SMALL), tmp_path)
    written = nibabel.load(tmp_path / name)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(written.affine), nibabel.orientations.axcodes2ornt(axes)
    )
    labels = nibabel.Nifti1Image((written.get_fdata() > 0).astype(np.float32), written.affine)
    (tmp_path / "results" / "case").mkdir(parents=True)
    nibabel.save(labels.as_reoriented(turn), tmp_path / "results" / "case" / "labels.nii.gz")

    read = read_labels(tmp_path / "results", SMALL.grid)

    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, SMALL.hu_volume > 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda values, affine: (values[1:], affine), "voxels that are not"),
        (lambda values, affine: (values, affine + 5 * np.eye(4, k=3)), "voxels that are not"),
        (lambda values, affine: (values, affine * 1.02), "voxels that are not"),
        (lambda values, affine: (np.stack([values] * 3, -1), affine), "not one label map"),
        (lambda values, affine: (values + np.nan, affine), "not numbers"),
        (lambda values, affine: (values + 0.5, affine), "no labels"),
        (lambda values, affine: (values - 1, affine), "no labels"),
        (lambda values, affine: (values * 70000, affine), "no labels"),
    ],
)
def test_what_is_no_label_map_of_the_image_is_refused(
    tmp_path: Path, change: Callable[..., tuple[np.ndarray, np.ndarray]], sentence: str
) -> None:
    (name,) = write_image(image_of(SMALL), tmp_path)
    written = nibabel.load(tmp_path / name)
    values = (written.get_fdata() > 0).astype(np.float32)
    (tmp_path / "results").mkdir()
    changed = nibabel.Nifti1Image(*change(values, written.affine))
    nibabel.save(changed, tmp_path / "results" / "labels.nii")

    with pytest.raises(JobFailed, match=sentence) as failed:
        read_labels(tmp_path / "results", SMALL.grid)

    assert failed.value.permanent


def test_more_labels_than_a_byte_holds(tmp_path: Path) -> None:
    (name,) = write_image(image_of(SMALL), tmp_path)
    affine = nibabel.load(tmp_path / name).affine
    values = np.full(SMALL.grid.shape[::-1], 345, np.float32)
    (tmp_path / "results").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "results" / "labels.nii")

    assert read_labels(tmp_path / "results", SMALL.grid).dtype == np.uint16


def test_two_files_are_not_an_answer(tmp_path: Path) -> None:
    write_image(image_of(SMALL, SMALL), tmp_path)

    with pytest.raises(JobFailed, match="2 NIfTI files"):
        read_labels(tmp_path, SMALL.grid)


# --- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE_BUNDLES)
def test_every_way_to_list_cases_becomes_one_case(tmp_path: Path, name: str) -> None:
    bundle = bundle_in(tmp_path, MADE_BUNDLES[name](), highres=False)
    files = ["0.nii", "1.nii"] if name == "overlapping" else ["0.nii"]

    told = strict_arguments(bundle, files)

    assert told["dataset#data"] == [{"image": files if len(files) > 1 else "0.nii"}]
    assert told["bundle_root"] == str(bundle.root)
    assert told["dataloader#shuffle"] is False
    assert told["highres"] is False


def test_the_key_of_the_image_is_the_bundles(tmp_path: Path) -> None:
    recipe = threshold(0.0)
    recipe.config["image_key"] = "ct"
    bundle = bundle_in(tmp_path, recipe, **{"dataset::data": [{"label_prompt": [3]}]})

    assert strict_arguments(bundle, ["0.nii"])["dataset#data"] == [
        {"ct": "0.nii", "label_prompt": [3]}
    ]


def test_results_go_to_the_scratch_folder_though_the_bundle_names_another(tmp_path: Path) -> None:
    recipe = threshold(0.0)
    save = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "/elsewhere"}
    recipe.config["postprocessing"]["transforms"][-1] = save
    bundle = bundle_in(tmp_path, recipe)

    assert strict_arguments(bundle, ["0.nii"])["postprocessing#transforms#2#output_dir"] == (
        "results"
    )


def test_a_configuration_without_a_data_set_is_refused(tmp_path: Path) -> None:
    recipe = threshold(0.0)
    del recipe.config["dataset"]
    bundle = bundle_in(tmp_path, recipe)

    with pytest.raises(JobFailed, match="no inference configuration"):
        strict_arguments(bundle, ["0.nii"])


def test_packages_that_the_command_needs_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict, "_PACKAGES", {"no_such_module": "fire"})
    bundle = bundle_in(tmp_path, threshold(0.0))

    with pytest.raises(JobFailed, match=r"needs fire: pip install segnode\[monai\]"):
        run_strict(bundle, image_of(SMALL), room(tmp_path), Stopwatch())


@pytest.mark.parametrize(
    ("device", "seen", "expected"),
    [
        ("cpu", "0,1", ""),
        ("cuda", None, None),
        ("cuda:1", None, "1"),
        ("cuda:1", "4,6", "6"),
    ],
)
def test_the_command_sees_the_device_of_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    seen: str | None,
    expected: str | None,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    bundle = bundle_in(tmp_path, threshold(0.0))

    environment = strict._environment(bundle, replace(room(tmp_path), device=device))

    assert environment.get("CUDA_VISIBLE_DEVICES") == expected


# --- runs ------------------------------------------------------------------------------------------


def test_a_bundle_labels_the_voxels_of_the_series_and_is_left_as_it_was(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path, threshold(-500.0))
    place, before = room(tmp_path), sorted(bundle.root.rglob("*"))

    labels = run_strict(bundle, image_of(SMALL), place, Stopwatch())

    np.testing.assert_array_equal(labels, SMALL.hu_volume > -500)
    assert sorted(bundle.root.rglob("*")) == before
    assert b"Traceback" not in place.log.read_bytes()


def test_the_first_error_of_a_bundle_is_the_reason_without_paths(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path, bad_bundles.raises())

    with pytest.raises(JobFailed) as failed:
        run_strict(bundle, image_of(SMALL), room(tmp_path), Stopwatch())

    assert str(failed.value) == (
        "the bundle's own command failed: ValueError: no such channel in x.json"
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (bad_bundles.gives_no_numbers, "the bundle returned values that are not numbers"),
        (bad_bundles.gives_fractions, "the bundle returned values that are no labels"),
        (bad_bundles.lies_elsewhere, "voxels that are not the 28 x 24 x 20 of its image"),
        (bad_bundles.dies, "the bundle's own command was killed by SIGSEGV"),
    ],
)
def test_bad_results_and_crashes_are_told(
    tmp_path: Path, recipe: Callable[[], Recipe], sentence: str
) -> None:
    bundle = bundle_in(tmp_path, recipe())

    with pytest.raises(JobFailed, match=sentence):
        run_strict(bundle, image_of(SMALL), room(tmp_path), Stopwatch())


def test_four_channels_are_one_case_in_their_order(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path, overlapping())
    files = write_image(image_of(SMALL, SMALL, SMALL, SMALL), tmp_path)

    told = strict_arguments(bundle, files)

    assert json.loads(json.dumps(told))["dataset#data"] == [
        {"image": ["image_0.nii", "image_1.nii", "image_2.nii", "image_3.nii"]}
    ]


def test_the_command_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path, bad_bundles.hangs())
    request = {"folder": str(tmp_path), "root": str(bundle.root)}
    with Runner() as runner:
        runner.start("tests.infer.bundle.targets:strict", request, deadline_s=LONG_S)
        assert eventually(lambda: bool(_processes_at(tmp_path / "scratch")), LONG_S)

        os.kill(runner.process_id or 0, signal.SIGKILL)  # its group is not told

        assert eventually(lambda: not _processes_at(tmp_path / "scratch"), LONG_S)


def _processes_at(place: Path) -> list[Path]:
    """Processes that work in a folder or below it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            works_in = (process / "cwd").readlink()
        except OSError:
            continue
        if works_in.is_relative_to(place):
            found.append(process)
    return found
