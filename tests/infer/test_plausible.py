"""Measures of labels against brute force, bounds against made volumes, mistakes with their paths."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.infer.measure import measure_labels, why_implausible
from node.infer.registry import default_models_folder, load_model
from node.words import tell
from tests.infer.test_registry import mistakes_of, spoil
from tests.support.segmentations import volume_of

MODELS = default_models_folder()
SHIPPED = sorted(path.parent.name for path in MODELS.glob("*/model.yaml"))


# --- measures ----------------------------------------------------------------------------------


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    overlapping=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1, 997]),
)
@settings(max_examples=150)
def test_measures_are_those_of_brute_force(
    shape: tuple[int, int, int], dtype: type, overlapping: bool, seed: int, scale: int
) -> None:
    random = np.random.default_rng(seed)
    scale = scale if dtype is np.uint16 else 1
    labels = (random.integers(0, 8, shape) * (random.random(shape) < 0.3) * scale).astype(dtype)
    spacing_mm = (3.0, 0.5, 2.0)
    volume = volume_of(labels, spacing_mm, overlapping=overlapping)

    measured = measure_labels(volume)

    wanted = range(1, 17) if overlapping else [value * scale for value in range(1, 8)]
    masks = {
        value: ((labels >> (value - 1)) & 1 if overlapping else labels == value).astype(bool)
        for value in wanted
    }
    assert set(measured.labels) == {value for value, mask in masks.items() if mask.any()}
    assert measured.filled == pytest.approx(np.mean(labels > 0))
    for value, found in measured.labels.items():
        where = np.argwhere(masks[value])
        edges = (np.ptp(where, axis=0) + 1) * spacing_mm
        middle = (volume.stack.grid.affine_lps @ [*where.mean(axis=0), 1])[:3]
        outer = np.zeros(shape, bool)
        for axis in range(3):
            np.moveaxis(outer, axis, 0)[[0, -1]] = True
        assert found.voxels == len(where)
        assert found.ml == pytest.approx(len(where) * 0.003)
        assert found.edges_mm == pytest.approx(edges)
        assert found.middle_mm == pytest.approx(middle)
        assert found.touches_border == bool((masks[value] & outer).any())
        sections = [masks[value].sum(axis=tuple({0, 1, 2} - {axis})) for axis in (1, 2)]
        assert found.cut == pytest.approx(
            max(max(each[0], each[-1]) / each.max() for each in sections)
        )


def test_on_a_large_grid_edges_and_middle_are_right_to_a_few_voxels() -> None:
    labels = np.zeros((20, 300, 400), np.uint8)
    labels[5:15, 31:160, 77:301] = 3

    found = measure_labels(volume_of(labels, (2.0, 1.0, 1.0))).labels[3]

    assert found.edges_mm == pytest.approx((20, 129, 224), abs=4)
    assert found.middle_mm == pytest.approx((-100 + 188.5, -100 + 95, 19), abs=2)
    assert found.cut == 0


def test_nothing_found_is_never_implausible() -> None:
    measured = measure_labels(volume_of(np.zeros((5, 6, 7), np.uint8)))

    for name in SHIPPED:
        assert why_implausible(load_model(MODELS / name).plausible, measured) == ()


# --- shipped models on made labels ---------------------------------------------------------------


def reasons_of(
    name: str, pieces: Mapping[str, tuple[slice, slice, slice]], shape: tuple[int, int, int]
) -> list[str]:
    """What a shipped model would say of boxes named as its labels, in voxels of 4 mm."""
    model = load_model(MODELS / name)
    numbers = {segment.name: segment.label_value for segment in model.segments}
    labels = np.zeros(shape, np.uint16)
    for label, box in pieces.items():
        labels[box] |= numbers[label] if not model.has_regions else 1 << (numbers[label] - 1)
    measured = measure_labels(volume_of(labels, overlapping=model.has_regions))
    return [reason.code.value for reason in why_implausible(model.plausible, measured)]


def box(z: int, y: int, x: int, depth: int, height: int, width: int) -> tuple[slice, slice, slice]:
    return slice(z, z + depth), slice(y, y + height), slice(x, x + width)


ABDOMEN = (80, 80, 100)
# 4 mm voxels: 0.064 ml each
SPLEEN = box(40, 50, 70, 20, 15, 10)
LEFT_KIDNEY, RIGHT_KIDNEY = box(20, 50, 65, 25, 12, 10), box(20, 50, 20, 25, 12, 10)
LIVER = box(35, 20, 15, 30, 40, 40)
SPINE = box(0, 60, 47, 80, 8, 8)
BRAIN = box(5, 20, 20, 30, 40, 34)

MADE = [
    ("spleen", "spleen_ct", {"Spleen": SPLEEN}, ABDOMEN, []),
    ("a child's spleen", "spleen_ct", {"Spleen": box(40, 50, 70, 5, 5, 5)}, ABDOMEN, []),
    ("a giant spleen", "spleen_ct", {"Spleen": box(20, 30, 40, 50, 45, 40)}, ABDOMEN, []),
    ("a spleen cut off", "spleen_ct", {"Spleen": box(0, 50, 70, 1, 5, 5)}, ABDOMEN, []),
    (
        "a spleen of 30 litres",
        "spleen_ct",
        {"Spleen": box(5, 2, 5, 70, 76, 90)},
        ABDOMEN,
        ["implausible_volume", "implausible_share"],
    ),
    (
        "an island in a head",
        "spleen_ct",
        {"Spleen": box(20, 20, 20, 3, 4, 4)},
        (60, 60, 60),
        ["implausible_volume"],
    ),
    (
        "a trunk",
        "wholebody_ct",
        {
            **{"Spleen": SPLEEN, "Liver": LIVER, "Vertebrae L1": box(0, 60, 47, 10, 8, 8)},
            **{"Left kidney": LEFT_KIDNEY, "Right kidney": RIGHT_KIDNEY},
        },
        ABDOMEN,
        [],
    ),
    (
        "kidneys that changed sides",
        "wholebody_ct",
        {
            **{"Liver": LIVER, "Vertebrae L1": box(0, 60, 47, 10, 8, 8)},
            **{"Left kidney": RIGHT_KIDNEY, "Right kidney": LEFT_KIDNEY},
        },
        ABDOMEN,
        ["implausible_sides"],
    ),
    (
        "a bottle of water",
        "wholebody_ct",
        {"Liver": box(5, 10, 20, 70, 60, 60)},
        ABDOMEN,
        ["implausible_volume", "implausible_ratio"],
    ),
    (
        "a small bottle of water",
        "wholebody_ct",
        {"Liver": box(5, 20, 30, 40, 40, 40), "Stomach": box(50, 20, 30, 20, 40, 40)},
        ABDOMEN,
        ["implausible_ratio"],
    ),
    ("one kidney", "wholebody_ct", {"Left kidney": LEFT_KIDNEY}, ABDOMEN, []),
    (
        "kidneys that changed sides",
        "ctmr",
        {"Left kidney": RIGHT_KIDNEY, "Right kidney": LEFT_KIDNEY},
        ABDOMEN,
        ["implausible_sides"],
    ),
    ("a brain", "mindgrab", {"Brain": BRAIN}, (45, 80, 80), []),
    ("a brain cut at the vertex", "mindgrab", {"Brain": BRAIN}, (35, 80, 80), []),
    (
        "a thigh",
        "mindgrab",
        {"Brain": box(0, 10, 54, 40, 25, 20)},
        (50, 60, 74),
        ["implausible_border"],
    ),
    (
        "a sausage",
        "mindgrab",
        {"Brain": box(5, 20, 20, 70, 20, 20)},
        (80, 60, 60),
        ["implausible_extent"],
    ),
    (
        "crumbs of a leg",
        "brain_t1_meshnet",
        {"Cerebral cortex": box(20, 20, 20, 6, 8, 8)},
        (50, 60, 60),
        ["implausible_volume"],
    ),
    (
        "a glioma",
        "brats_mri",
        {"Whole tumor": box(10, 20, 20, 15, 15, 15), "Tumor core": box(12, 22, 22, 8, 8, 8)},
        (45, 80, 80),
        [],
    ),
    (
        "half a head of tumor",
        "brats_mri",
        {"Whole tumor": box(5, 10, 20, 30, 40, 34)},
        (45, 80, 80),
        ["implausible_volume"],
    ),
    (
        "lungs that changed sides",
        "ct_tissue",
        {"Left lung": box(10, 20, 10, 40, 30, 25), "Right lung": box(10, 20, 60, 40, 30, 25)},
        ABDOMEN,
        ["implausible_sides"],
    ),
    (
        "lungs of a giant",
        "ct_tissue",
        {"Left lung": box(5, 5, 52, 70, 70, 45)},
        ABDOMEN,
        ["implausible_volume"],
    ),
]


@pytest.mark.parametrize(
    ("model", "pieces", "shape", "codes"),
    [row[1:] for row in MADE],
    ids=[f"{row[1]}: {row[0]}" for row in MADE],
)
def test_a_shipped_model_tells_anatomy_from_what_cannot_be(
    model: str,
    pieces: Mapping[str, tuple[slice, slice, slice]],
    shape: tuple[int, int, int],
    codes: list[str],
) -> None:
    assert reasons_of(model, pieces, shape) == codes


def test_labels_that_nobody_asked_for_are_not_missing() -> None:
    model = load_model(MODELS / "wholebody_ct")
    labels = np.zeros(ABDOMEN, np.uint8)
    labels[LIVER] = 5
    measured = measure_labels(volume_of(labels))

    assert why_implausible(model.plausible, measured)
    assert why_implausible(model.plausible, measured, are_chosen=True) == ()


def test_a_sentence_tells_label_value_and_bound() -> None:
    model = load_model(MODELS / "spleen_ct")
    labels = np.zeros(ABDOMEN, np.uint8)
    labels[box(5, 2, 5, 60, 60, 60)] = 1

    (reason,) = why_implausible(model.plausible, measure_labels(volume_of(labels)))

    assert tell(reason) == "Spleen 13824.0 ml, plausible is up to 10000 ml"


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "key", "sentence"),
    [
        ("Left lung: {", "Left lungs: {", "plausible.labels.Left lungs", "no label is named"),
        ("{min_ml: 5, max_ml: 7500, max_mm: 500}", "{min_ml: 9, max_ml: 5}",
         "plausible.labels.Left lung", "above max_ml 5"),
        ("{max_ml: 400", "{max_mls: 400", "plausible.labels.Airways.max_mls", "did you mean max_ml"),
        ("{max_ml: 400", "{max_ml: -1", "plausible.labels.Airways.max_ml", "greater than 0"),
        ("sides: [lung]", "sides: [bone]", "plausible.sides.0", "no label is named 'left bone'"),
        ("sides: [lung]", "side: [lung]", "plausible.side", "did you mean sides"),
        ("sides: [lung]", "share: {min: 0.5, max: 0.1}", "plausible.share", "above max"),
        ("sides: [lung]", "ratios: [{of: [Bone], to: [Ear]}]", "plausible.ratios.0.to", "'Ear'"),
        ("sides: [lung]", "ratios: [{of: [Bone], to: [Airways], min: 3, max: 1}]",
         "plausible.ratios.0", "min 3 is above max 1"),
        ("sides: [lung]", "together: [{name: all, of: every, max_ml: 1}]",
         "plausible.together.0.of", ""),
        ("min_slices: 3", "min_extent_mm: -1", "inputs.ct.min_extent_mm", "greater than or equal"),
    ],
)  # fmt: skip
def test_a_mistake_in_what_is_plausible_is_told_with_its_path(
    tmp_path: Path, old: str, new: str, key: str, sentence: str
) -> None:
    folder = Path(shutil.copytree(MODELS / "ct_tissue", tmp_path / "models/ct_tissue"))
    spoil(folder / "model.yaml", old, new)

    mistakes = mistakes_of(lambda: load_model(folder))

    found = [where for where in mistakes if where.startswith(f"models/ct_tissue/model.yaml: {key}")]
    assert found, mistakes
    assert any(sentence in mistakes[where] for where in found), mistakes
