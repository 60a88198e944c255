"""The fast way of running a bundle gives what its publisher's command gives, voxel for voxel."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("monai")
pytest.importorskip("ignite")

import torch

from node.domain.result import LabelArray
from node.infer.registry import ModelSpec
from node.infer.report import Stopwatch
from node.infer.run_context import run_model
from tests.support.brain_images import t1_phantom
from tests.support.bundles import (
    MADE_BUNDLES,
    ROLES,
    BundleModel,
    Recipe,
    adopt_bundle,
    mesh_net,
    overlapping,
    resampled,
    seg_resnet,
    threshold,
    write_bundle_model,
)
from tests.support.cases import Cases
from tests.support.phantoms import Phantom
from tests.support.rooms import given_files, room

# what MONAI and a bundle's parts warn of is told to nobody where they run
pytestmark = pytest.mark.filterwarnings("ignore:::monai", "ignore:::torch")

# turned about every axis, with three different spacings; the second has steps of half the third's
LATTICES: Mapping[str, Phantom] = {
    "oblique": Phantom(plane="oblique", shape=(26, 34, 38), spacing_mm=(7.0, 6.0, 5.5)),
    "axial": Phantom(plane="axial", position="FFP", shape=(20, 40, 42), spacing_mm=(8.0, 6.0, 6.0)),
    "sagittal": Phantom(
        plane="sagittal", position="HFDR", shape=(40, 30, 36), spacing_mm=(5.0, 6.5, 7.25)
    ),
    "coronal": Phantom(
        plane="coronal", position="HFP", shape=(24, 44, 32), spacing_mm=(9.0, 4.5, 6.0)
    ),
}
SHOWN = (
    ("resampled", "oblique"),
    ("linearly_inverted", "sagittal"),
    ("prompted", "coronal"),
    ("post_processed", "axial"),
)
LEAST_LABELS = {"linearly_inverted": 2}  # in the result, that a comparison says something; else 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and its series, run in one way or the other."""

    made: BundleModel
    phantoms: Mapping[str, Phantom]
    folder: Path

    def labels(self, spec: ModelSpec | None = None, **parameters: object) -> LabelArray:
        inputs = {
            role: given_files(phantom, self.folder / role)
            for role, phantom in self.phantoms.items()
        }
        place = room(self.folder, weights_dir=self.made.weights_dir)
        return run_model(
            spec or self.made.spec, inputs, place, Stopwatch(), dict(parameters)
        ).labels


def case_of(folder: Path, name: str, recipe: Recipe, resampling: Phantom) -> Case:
    """A made bundle over one phantom for each of its roles."""
    made = write_bundle_model(folder, name, recipe)
    return Case(made=made, phantoms=phantoms_of(recipe, resampling), folder=folder)


def phantoms_of(recipe: Recipe, resampling: Phantom) -> dict[str, Phantom]:
    """Series on one grid that differ in their voxels."""
    return {
        role: replace(resampling, series=role, noise_hu=4.0 + 60.0 * number)
        for number, role in enumerate(recipe.roles)
    }


def assert_same(fast: LabelArray, strict: LabelArray, least: int = 3) -> None:
    assert len(np.unique(strict)) >= least
    assert fast.dtype == strict.dtype
    assert np.count_nonzero(fast != strict) == 0


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    size = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / size if size else 1.0


@pytest.mark.parametrize(("name", "plane"), SHOWN)
def test_fast_is_strict_label_for_label(tmp_path: Path, name: str, plane: str) -> None:
    case = case_of(tmp_path, name, MADE_BUNDLES[name](), LATTICES[plane])

    fast, strict = case.labels(), case.labels(mode="strict")

    assert_same(fast, strict, LEAST_LABELS.get(name, 3))


def test_labels_beyond_a_byte_are_those_of_the_command(tmp_path: Path) -> None:
    few = resampled()
    many = {**few.config, "network_def": seg_resnet(1, 300)}
    case = case_of(tmp_path, "many", replace(few, config=many, labels=299), LATTICES["oblique"])

    fast, strict = case.labels(), case.labels(mode="strict")

    assert strict.max() > 255
    assert_same(fast, strict)


@pytest.mark.long
@pytest.mark.parametrize("plane", LATTICES)
@pytest.mark.parametrize("name", [name for name in MADE_BUNDLES if name != "overlapping"])
def test_fast_is_strict_in_every_plane(tmp_path: Path, name: str, plane: str) -> None:
    case = case_of(tmp_path, name, MADE_BUNDLES[name](), LATTICES[plane])

    fast, strict = case.labels(), case.labels(mode="strict")

    assert_same(fast, strict, LEAST_LABELS.get(name, 3))


@pytest.mark.long
@pytest.mark.parametrize("plane", LATTICES)
def test_the_other_variant_is_that_of_the_bundle_too(tmp_path: Path, plane: str) -> None:
    case = case_of(tmp_path, "resampled", MADE_BUNDLES["resampled"](), LATTICES[plane])

    fast = case.labels(variant="6mm")

    assert_same(fast, case.labels(variant="6mm", mode="strict"))
    assert np.any(fast != case.labels())


@pytest.mark.parametrize("plane", ["oblique", pytest.param("axial", marks=pytest.mark.long)])
def test_regions_are_what_the_bundle_writes_as_one_map(tmp_path: Path, plane: str) -> None:
    regions = case_of(tmp_path / "r", "regions", overlapping(), LATTICES[plane])
    written = replace(overlapping(), outputs="labels", labels=4, runner={})
    whole = case_of(tmp_path / "w", "whole", written, LATTICES[plane])

    bits, strict = regions.labels(), whole.labels(mode="strict")

    assert_same(_as_written(bits), strict)
    assert_same(whole.labels(), strict)
    assert {3, 7} <= set(np.unique(bits).tolist())  # regions that overlap, which one map cannot say


def _as_written(bits: LabelArray) -> LabelArray:
    """The map that the bundle's last step makes of its three regions."""
    first, second, third = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0)
    return np.select([third, first, second], [4, 1, 2], 0).astype(np.uint8)


@pytest.mark.parametrize("first_is_package", [True, False])
def test_each_bundle_is_run_with_its_own_code(tmp_path: Path, first_is_package: bool) -> None:
    body = threshold(-500.0)
    code = body.scripts["network.py"]
    turned = code.replace("[self.above - x, x - self.above]", "[x - self.above, self.above - x]")
    air = replace(body, scripts={**body.scripts, "network.py": turned})
    if not first_is_package:
        body = replace(body, scripts={"network.py": code})

    in_body, in_air = (
        case_of(tmp_path / name, name, recipe, LATTICES["oblique"]).labels()
        for name, recipe in (("body", body), ("air", air))
    )

    np.testing.assert_array_equal(in_body, LATTICES["oblique"].hu_volume > -500)
    np.testing.assert_array_equal(in_air, LATTICES["oblique"].hu_volume < -500)


def test_a_package_of_the_same_name_that_was_imported_before_is_not_taken_for_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(tmp_path / "made", "body", threshold(-500.0), LATTICES["oblique"])
    stray = tmp_path / "stray" / "scripts"
    stray.mkdir(parents=True)
    (stray / "__init__.py").write_text("from . import network")
    (stray / "network.py").write_text("Threshold = None")
    for name in [each for each in sys.modules if each.partition(".")[0] == "scripts"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(stray.parent)
    assert importlib.import_module("scripts.network").Threshold is None

    labels = case.labels()

    np.testing.assert_array_equal(labels, LATTICES["oblique"].hu_volume > -500)


def test_learned_weights_agree_on_a_real_image(tmp_path: Path, shared_models: Cases) -> None:
    head = t1_phantom(shared_models, side=48)
    case = _mesh_net(tmp_path, shared_models, head)

    fast, strict = case.labels(), case.labels(mode="strict")

    assert_same(fast, strict)


def test_half_precision_keeps_learned_labels(
    tmp_path: Path, shared_models: Cases, record_property: Callable[[str, object], None]
) -> None:
    case = _mesh_net(tmp_path, shared_models, t1_phantom(shared_models, side=72))

    full, half = case.labels(), case.labels(precision="bf16")

    measured = {f"label {n}": dice(full == n, half == n) for n in np.unique(full).tolist()}
    record_property("equal", float(np.mean(full == half)))
    record_property("dice", str(measured))
    assert np.mean(full == half) > 0.98
    assert min(measured.values()) > 0.97
    assert np.any(full != half)  # it was another precision


def _mesh_net(folder: Path, shared_models: Cases, head: Phantom) -> Case:
    from node.infer.brain.tfjs import load_network

    network = load_network(shared_models / "brainchop" / "model5_gw_ae")
    made = write_bundle_model(folder, "mesh_net", mesh_net(network))
    return Case(made=made, phantoms={"image": head}, folder=folder)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A bundle as its publisher has it; windows are cut to what a small machine runs.

    Args:
        seed: Of other weights, where with those in the folder everything may be background.
    """

    recipe: Recipe
    resampling: Phantom
    seed: int | None = None


def _weights(*names: str) -> dict[str, int]:
    return {f"models/{name}": 0 for name in names}


def _published(resampling: Phantom, seed: int | None = None, **arguments: object) -> Published:
    recipe = Recipe(config={}, **{"weights": _weights("model.pt"), **arguments})  # type: ignore[arg-type]
    return Published(recipe=recipe, resampling=resampling, seed=seed)


def _reseeded(folder: Path, bundle: Path, seed: int) -> Path:
    """A copy of a bundle with random weights of our own."""
    from monai.bundle import ConfigParser

    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("*.pt"))
    torch.manual_seed(seed)
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


SMALL = Phantom(plane="oblique", shape=(28, 48, 48), spacing_mm=(3.5, 3.0, 2.5))
THICK = replace(SMALL, spacing_mm=(7.0, 6.0, 5.5))
BODY_CLASSES = [1, 3, 5, 14]
PUBLISHED: Mapping[str, tuple[str, Published]] = {
    "wholebody 3 mm": (
        "wholeBody_ct_segmentation",
        _published(
            THICK,
            weights=_weights("model_lowres.pt"),
            runner={"overrides": {"displayable_configs#highres": False}},
            labels=104,
        ),
    ),
    "wholebody 1.5 mm": ("wholeBody_ct_segmentation", _published(SMALL, labels=104)),
    "spleen": (
        "spleen_ct_segmentation",
        _published(SMALL, 2, labels=1, runner={"overrides": {"inferer#roi_size": [64, 64, 64]}}),
    ),
    "brats": (
        "brats_mri_segmentation",
        _published(
            SMALL,
            roles=ROLES,
            labels=4,
            runner={"overrides": {"inferer#roi_size": [48, 48, 32]}},
        ),
    ),
    "vista3d": (
        "vista3d",
        _published(
            SMALL,
            labels=255,
            runner={"overrides": {"patch_size": [64] * 3, "everything_labels": BODY_CLASSES}},
        ),
    ),
    "ctmr": (
        "NV-Segment-CTMR",
        _published(
            SMALL,
            labels=345,
            runner={
                "overrides": {
                    "patch_size": [64] * 3,
                    "modality": "CT_BODY",
                    "everything_labels": BODY_CLASSES,
                }
            },
        ),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_bundles_agree(
    tmp_path: Path, test_bundles: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, published = PUBLISHED[name]
    recipe = replace(published.recipe, resources={"memory_gb": 12})
    root = test_bundles / folder
    if published.seed is not None:
        root = _reseeded(tmp_path / folder, root, published.seed)
    made = adopt_bundle(tmp_path, "published", root, recipe)
    case = Case(made=made, phantoms=phantoms_of(recipe, published.resampling), folder=tmp_path)

    fast, strict = case.labels(), case.labels(mode="strict")

    values = np.unique(strict).tolist()
    least = min(dice(fast == n, strict == n) for n in values)
    with capsys.disabled():
        print(
            f"\n{name}: {np.mean(fast == strict):.6%} of {fast.size} voxels equal,"
            f" {len(values)} values, least Dice {least:.6f}"
        )
    assert_same(fast, strict, 2)
