"""ct_tissue against anatomy that is a formula: every orientation, and bodies that are not whole."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from node.domain.errors import JobFailed
from node.domain.grid import Grid
from node.infer.ct_tissue import label_tissues
from node.infer.ct_tissue.compose import Tissue
from node.infer.registry import default_models_folder, load_model
from node.infer.report import Stopwatch
from node.infer.volume import Volume, read_volume
from tests.support.cases import Cases
from tests.support.phantoms import PLANES, POSITIONS, Phantom, Region, stack_of
from tests.support.rooms import entry_labels

TRUTH = {
    Region.LEFT_LUNG: Tissue.LEFT_LUNG,
    Region.RIGHT_LUNG: Tissue.RIGHT_LUNG,
    Region.AIRWAY: Tissue.AIRWAYS,
    Region.BONE: Tissue.BONE,
    Region.SOFT_TISSUE: Tissue.SOFT_TISSUE,
    Region.MARKER: Tissue.SOFT_TISSUE,  # as dense as enhanced vessels, and no bone
    Region.FAT: Tissue.SUBCUTANEOUS_FAT,
}
LEAST_DICE = {
    Tissue.LEFT_LUNG: 0.98,
    Tissue.RIGHT_LUNG: 0.98,
    Tissue.AIRWAYS: 0.92,
    Tissue.BONE: 0.98,
    Tissue.SOFT_TISSUE: 0.98,
    Tissue.SUBCUTANEOUS_FAT: 0.96,
}


def labels_of(array: NDArray[np.int16], grid: Grid) -> NDArray[np.uint8]:
    return label_tissues(Volume(array=array, grid=grid), Stopwatch())


@cache
def labels_of_phantom(phantom: Phantom) -> NDArray[np.uint8]:
    return labels_of(phantom.hu_volume, phantom.grid)


def dice(labels: NDArray[np.uint8], truth: NDArray[np.uint8], value: int) -> float:
    found, true = labels == value, truth == value
    return 2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true))


def points_mm(grid: Grid) -> NDArray[np.float64]:
    index = np.stack(np.indices(grid.shape), axis=-1)
    return index @ grid.affine_lps[:3, :3].T + grid.affine_lps[:3, 3]


def box(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Grid:
    """An axial grid around the patient's origin."""
    between_slices, between_rows, between_columns = spacing_mm
    z, y, x = (-(n - 1) / 2 * s for n, s in zip(shape, spacing_mm, strict=True))
    return Grid(
        shape=shape,
        origin_mm=(x, y, z),
        steps_mm=((0, 0, between_slices), (0, between_rows, 0), (between_columns, 0, 0)),
        frame_of_reference_uid="2.25.1",
    )


# --- against the formula -----------------------------------------------------------------------


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("plane", PLANES)
def test_every_tissue_is_where_the_formula_puts_it(plane: str, position: str) -> None:
    phantom = Phantom(plane=plane, position=position)

    labels = labels_of_phantom(phantom)

    truth = phantom.truth(TRUTH)
    scores = {tissue.name: dice(labels, truth, tissue) for tissue in LEAST_DICE}
    assert all(scores[tissue.name] >= least for tissue, least in LEAST_DICE.items()), scores


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("plane", PLANES)
def test_the_left_lung_lies_on_the_left_of_the_patient(plane: str, position: str) -> None:
    phantom = Phantom(plane=plane, position=position)

    labels = labels_of_phantom(phantom)

    x_mm = points_mm(phantom.grid)[..., 0]
    assert x_mm[labels == Tissue.LEFT_LUNG].min() > x_mm[labels == Tissue.RIGHT_LUNG].max()


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_flipped_array_with_its_flipped_geometry_gives_the_flipped_labels(
    axes: tuple[int, ...],
) -> None:
    phantom = Phantom()
    grid = phantom.grid
    corner = [grid.shape[a] - 1 if a in axes else 0 for a in range(3)]
    steps = [tuple(-v for v in step) if a in axes else step for a, step in enumerate(grid.steps_mm)]
    flipped = replace(
        grid,
        origin_mm=tuple((grid.affine_lps @ [*corner, 1])[:3].tolist()),
        steps_mm=tuple(steps),
    )

    labels = labels_of(np.ascontiguousarray(np.flip(phantom.hu_volume, axes)), flipped)

    assert np.array_equal(np.flip(labels, axes), labels_of_phantom(phantom))


def test_fine_slices_are_judged_voxel_by_voxel() -> None:
    phantom = Phantom(shape=(60, 256, 300), spacing_mm=(2.0, 0.75, 1.0), noise_hu=15)

    labels = labels_of_phantom(phantom)

    truth = phantom.truth(TRUTH)
    scores = {tissue.name: round(dice(labels, truth, tissue), 3) for tissue in LEAST_DICE}
    assert all(score > 0.97 for score in scores.values()), scores


# --- bodies that are not whole -----------------------------------------------------------------


def test_absent_organs_have_no_voxel() -> None:
    phantom = Phantom()
    tissue = phantom.hu_volume.copy()
    tissue[np.isin(phantom.regions, (Region.LEFT_LUNG, Region.RIGHT_LUNG, Region.AIRWAY))] = 40

    labels = labels_of(tissue, phantom.grid)

    assert set(np.unique(labels)) == {
        0,
        Tissue.BONE,
        Tissue.SOFT_TISSUE,
        Tissue.SUBCUTANEOUS_FAT,
    }


@pytest.mark.parametrize("lung", [Region.LEFT_LUNG, Region.RIGHT_LUNG])
def test_one_lung_alone_keeps_its_side(lung: Region) -> None:
    phantom = Phantom()
    other = Region.LEFT_LUNG if lung is Region.RIGHT_LUNG else Region.RIGHT_LUNG
    collapsed = phantom.hu_volume.copy()
    collapsed[phantom.regions == other] = 30

    labels = labels_of(collapsed, phantom.grid)

    assert dice(labels, phantom.truth({lung: 1}), TRUTH[lung]) == 0 or lung is Region.LEFT_LUNG
    assert np.mean(labels[phantom.regions == lung] == TRUTH[lung]) > 0.95
    assert not (labels == TRUTH[other]).any()


def test_lungs_that_touch_are_parted() -> None:
    phantom = Phantom(shape=(40, 88, 110), spacing_mm=(5.0, 2.5, 3.0))
    touching = phantom.hu_volume.copy()
    x_mm, y_mm, _ = np.moveaxis(points_mm(phantom.grid), -1, 0)
    front = (np.abs(x_mm - 7.5) < 30) & (np.abs(y_mm + 181.25 + 26) < 4)
    touching[front & (phantom.regions == Region.SOFT_TISSUE)] = -850

    labels = labels_of(touching, phantom.grid)

    for lung in (Region.LEFT_LUNG, Region.RIGHT_LUNG):
        assert np.mean(labels[phantom.regions == lung] == TRUTH[lung]) > 0.97


def test_lung_bases_at_the_top_are_lung_and_bowel_gas_at_the_bottom_is_not() -> None:
    grid = box((40, 100, 120), (5.0, 3.0, 3.0))
    x, y, z = np.moveaxis(points_mm(grid), -1, 0)
    array = np.where((x / 160) ** 2 + (y / 110) ** 2 < 1, 40, -1000).astype(np.int16)
    for side in (-80, 80):
        array[((x - side) / 45) ** 2 + (y / 60) ** 2 + ((z - 110) / 70) ** 2 < 1] = -850
    array[((x - 30) / 25) ** 2 + ((y + 50) / 25) ** 2 < np.where(z < -60, 1, 0)] = -940

    labels = labels_of(array, grid)

    assert (labels[-1] == Tissue.LEFT_LUNG).any()
    assert (labels[-1] == Tissue.RIGHT_LUNG).any()
    assert set(np.unique(labels[0])) == {0, Tissue.SOFT_TISSUE, Tissue.OTHER_BODY}


def pelvis(gas_hu: int, middles_mm: tuple[float, ...]) -> tuple[NDArray[np.int16], Grid]:
    """167 mm of a trunk with a ring of bone, and gas that reaches its lower end."""
    grid = box((56, 100, 130), (2.98, 3.0, 3.0))
    x, y, z = np.moveaxis(points_mm(grid), -1, 0)
    radius = np.hypot(x / 1.4, y)
    array = np.select([radius < 100, radius < 120], [40, -100], -1000).astype(np.int16)
    array[(np.abs(np.hypot(x / 1.5, y) - 75) < 6) & (np.abs(z) < 50)] = 600
    for middle in middles_mm:
        tube = np.hypot((x - middle) / 1.3, y - 45) < 14
        array[tube & (z < -83.4 + 45)] = gas_hu
    return array, grid


@pytest.mark.parametrize("gas_hu", [-700, -850, -940, -1000])
@pytest.mark.parametrize("middles_mm", [(8.0,), (-8.0,), (50.0,), (-20.0, 20.0)])
def test_gas_of_the_rectum_at_the_end_of_a_pelvis_is_no_lung(
    gas_hu: int, middles_mm: tuple[float, ...]
) -> None:
    array, grid = pelvis(gas_hu, middles_mm)

    labels = labels_of(array, grid)

    gas_ml = np.count_nonzero(array[:20] == gas_hu) * grid.voxel_ml / len(middles_mm)
    assert gas_ml > 25
    assert not np.isin(labels, (Tissue.LEFT_LUNG, Tissue.RIGHT_LUNG)).any()


@pytest.mark.parametrize("end", [0, -1])
def test_small_bases_or_apices_of_both_lungs_are_lung(end: int) -> None:
    grid = box((30, 100, 130), (3.0, 3.0, 3.0))
    x, y, z = np.moveaxis(points_mm(grid), -1, 0)
    array = np.where((x / 180) ** 2 + (y / 120) ** 2 < 1, 40, -1000).astype(np.int16)
    at = 43.5 if end else -43.5
    domes = {
        side: ((x - side) / 50) ** 2 + (y / 45) ** 2 + ((z - at) / 25) ** 2 < 1
        for side in (-80.0, 80.0)
    }
    for dome in domes.values():
        array[dome] = -820

    labels = labels_of(array, grid)

    assert np.count_nonzero(domes[80.0]) * grid.voxel_ml < 200
    assert np.mean(labels[domes[80.0]] == Tissue.LEFT_LUNG) > 0.97
    assert np.mean(labels[domes[-80.0]] == Tissue.RIGHT_LUNG) > 0.97


def test_table_and_blanket_are_background() -> None:
    phantom = Phantom()
    x_mm, y_mm, _ = np.moveaxis(points_mm(phantom.grid) - [7.5, -181.25, 312.5], -1, 0)
    table = (np.abs(y_mm - 100) < 2.5) & (np.abs(x_mm) < 140)
    with_table = phantom.hu_volume.copy()
    with_table[table] = 200

    labels = labels_of(with_table, phantom.grid)

    assert table.any()
    assert not labels[table].any()
    assert np.array_equal(labels, labels_of_phantom(phantom))


def test_arms_and_legs_beside_the_largest_part_belong_to_the_body() -> None:
    grid = box((30, 70, 130), (6.0, 3.0, 3.0))
    x, y, _ = np.moveaxis(points_mm(grid), -1, 0)
    array = np.full(grid.shape, -1000, np.int16)
    for middle, radius in ((-110, 70), (90, 60)):
        array[(x - middle) ** 2 + y**2 < radius**2] = -100
        array[(x - middle) ** 2 + y**2 < (radius - 15) ** 2] = 50
        array[(x - middle) ** 2 + y**2 < 14**2] = 900
    array[(np.abs(x - 175) < 12) & (np.abs(y) < 60)] = -120  # a foam wedge

    labels = labels_of(array, grid)

    assert ((labels == Tissue.BONE) == (array == 900)).all()
    assert np.mean(labels[array == -100] == Tissue.SUBCUTANEOUS_FAT) > 0.97
    assert not labels[array == -120].any()


def test_fat_inside_the_muscular_wall_is_inner_fat() -> None:
    grid = box((30, 110, 130), (5.0, 2.5, 2.5))
    x, y, _ = np.moveaxis(points_mm(grid), -1, 0)
    radius = np.hypot(x / 1.2, y)
    array = np.select([radius < 60, radius < 80, radius < 110], [-100, 50, -100], -1000)

    labels = labels_of(array.astype(np.int16), grid)

    assert (labels[radius < 58] == Tissue.INNER_FAT).all()
    assert (labels[(radius > 83) & (radius < 108)] == Tissue.SUBCUTANEOUS_FAT).all()


def test_marrow_is_bone_and_the_spinal_canal_is_not() -> None:
    grid = box((20, 120, 120), (3.0, 1.0, 1.0))
    x, y, _ = np.moveaxis(points_mm(grid), -1, 0)
    body = np.hypot(x, y) < 55
    vertebra, canal = np.hypot(x, y + 10), np.hypot(x, y - 20)
    array = np.where(body, 50, -1000)
    array[(vertebra < 20) | (canal < 14)] = 700
    array[vertebra < 17] = 130
    array[canal < 10] = 30

    labels = labels_of(array.astype(np.int16), grid)

    assert np.mean(labels[vertebra < 17] == Tissue.BONE) > 0.97
    assert (labels[canal < 9] == Tissue.SOFT_TISSUE).all()


def test_enhanced_vessels_are_not_bone() -> None:
    grid = box((20, 80, 80), (4.0, 2.0, 2.0))
    x, y, _ = np.moveaxis(points_mm(grid), -1, 0)
    array = np.where(np.hypot(x, y) < 70, 50, -1000)
    array[np.hypot(x - 20, y) < 12] = 350

    labels = labels_of(array.astype(np.int16), grid)

    assert not (labels == Tissue.BONE).any()


def test_padding_outside_the_field_of_view_changes_nothing() -> None:
    phantom = Phantom()
    padded = phantom.hu_volume.copy()
    padded[phantom.regions == Region.AIR] = -3024

    labels = labels_of(padded, phantom.grid)

    assert np.array_equal(labels, labels_of_phantom(phantom))


def test_float_voxels_give_the_labels_of_whole_ones() -> None:
    phantom = Phantom()
    volume = Volume(array=phantom.hu_volume.astype(np.float32), grid=phantom.grid)

    labels = label_tissues(volume, Stopwatch())

    assert np.array_equal(labels, labels_of_phantom(phantom))


def test_an_unknown_parameter_fails_for_good() -> None:
    phantom = Phantom()
    volume = Volume(array=phantom.hu_volume, grid=phantom.grid)

    with pytest.raises(JobFailed, match="takes no parameters") as failure:
        entry_labels(
            load_model(default_models_folder() / "ct_tissue"), {"ct": volume}, {"threshold": 3}
        )

    assert failure.value.permanent


def test_the_label_table_names_the_labels_of_the_code() -> None:
    model = load_model(default_models_folder() / "ct_tissue")

    names = {value: segment.name.casefold() for value, segment in model.segment_of.items()}

    assert set(names) == {int(tissue) for tissue in Tissue}
    assert all(
        tissue.name.replace("_", " ").casefold() in names[tissue].replace("-like", "")
        for tissue in Tissue
    )


# --- a real patient ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def liver_ct(shared_data: Cases) -> Volume:
    paths = sorted((shared_data / "ct_abdomen_crlm-ct-1004").glob("*.dcm"))
    headers = {path: dcmread(path, stop_before_pixels=True) for path in paths}
    files = {str(header.SOPInstanceUID): path for path, header in headers.items()}
    return read_volume(stack_of(list(headers.values())), files)


def test_a_real_abdomen_has_lung_bases_on_their_sides_and_no_airways(liver_ct: Volume) -> None:
    labels = labels_of(liver_ct.array, liver_ct.grid)

    x_mm = points_mm(liver_ct.grid)[..., 0]
    ml = {tissue: np.count_nonzero(labels == tissue) * liver_ct.grid.voxel_ml for tissue in Tissue}
    assert x_mm[labels == Tissue.LEFT_LUNG].min() > x_mm[labels == Tissue.RIGHT_LUNG].mean()
    assert 300 < ml[Tissue.LEFT_LUNG] < 450
    assert 300 < ml[Tissue.RIGHT_LUNG] < 450
    assert ml[Tissue.AIRWAYS] == 0
    assert not np.isin(labels[: len(labels) // 2], (Tissue.LEFT_LUNG, Tissue.RIGHT_LUNG)).any()
    assert 5000 < ml[Tissue.SOFT_TISSUE] < 6500
