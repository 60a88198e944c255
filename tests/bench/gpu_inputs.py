"""What the measurement on a card runs on: series of phantoms, models with weights of any kind.

The bundles lie in the folder that SEGNODE_TEST_BUNDLES names, unchanged, each with weights in
``models/``. Everything is made once in a folder of the measurement and is the same every time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import MRImageStorage

from node.infer.assets import record_asset, sha256_of
from node.infer.registry import ModelSpec, default_models_folder, load_model
from tests.support.bundles import MADE_BUNDLES, Recipe, resampled, seg_resnet, write_bundle_model
from tests.support.phantoms import HOUNSFIELD, Phantom, Region, region_at

Files = Mapping[str, Path]

BUNDLES = {
    "wholebody_ct": "wholeBody_ct_segmentation",
    "ctmr": "NV-Segment-CTMR",
    "brats_mri": "brats_mri_segmentation",
}
TORSO, QUICK_TORSO = (397, 512, 512), (40, 128, 128)
TORSO_MM = (1.5, 0.84, 0.84)
HEAD, QUICK_HEAD = (155, 240, 240), (40, 80, 80)
SMALL = Phantom(shape=(60, 96, 96), spacing_mm=(3.5, 3.0, 2.5))
MANY_LABELS = 300  # more than a byte holds


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model folder and the folder that holds its weights."""

    spec: ModelSpec
    weights_dir: Path


def torso(shape: tuple[int, int, int]) -> Phantom:
    """The torso of ``bench_bundle``; its voxels are made where they are written."""
    return Phantom(shape=shape, spacing_mm=TORSO_MM)


def _fill(phantom: Phantom) -> None:
    """The voxels of ``bench_bundle``, made by every core."""
    shape = phantom.grid.shape
    chance, hu = np.random.default_rng(7), np.empty(shape, np.int16)
    with ProcessPoolExecutor() as pool:
        planes = pool.map(_plane, [(phantom, k) for k in range(shape[0])], chunksize=8)
        for number, plane in enumerate(planes):
            hu[number] = np.rint(plane + chance.normal(0, 20, shape[1:]))
    phantom.__dict__["hu_volume"] = np.clip(hu, -1024, 3071)


def _plane(which: tuple[Phantom, int]) -> NDArray[np.float64]:
    """One slice without noise."""
    phantom, number = which
    table = np.array([HOUNSFIELD[region] for region in Region], np.float64)
    affine = phantom.grid.affine_lps
    index = np.stack(np.indices((1, *phantom.grid.shape[1:])), axis=-1).astype(float)
    index[..., 0] = number
    return table[region_at(index @ affine[:3, :3].T + affine[:3, 3])[0]]


def head(shape: tuple[int, int, int], role: str) -> Phantom:
    """One body on the grid of BraTS, as MR, in the series of a role."""
    mr = (("Modality", "MR"), ("SOPClassUID", MRImageStorage), ("BodyPartExamined", "HEAD"))
    return Phantom(shape=shape, spacing_mm=(1.0, 1.0, 1.0), attributes=mr, series=role)


def written(phantom: Phantom, folder: Path, *, nifti: Path | None = None) -> Files:
    """SOP Instance UID -> file; and the image as a bundle's data set has it, where that is wanted."""
    if not folder.is_dir():
        _fill(phantom)
        part = folder.with_name(folder.name + ".part")
        phantom.write(part)
        if nifti is not None:
            _write_nifti(phantom, nifti)
        part.rename(folder)
    paths = sorted(folder.iterdir())
    headers = (dcmread(path, specific_tags=["SOPInstanceUID"]) for path in paths)
    return {str(each.SOPInstanceUID): path for each, path in zip(headers, paths, strict=True)}


def _write_nifti(phantom: Phantom, path: Path) -> None:
    import nibabel

    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ phantom.grid.affine_lps[:, [2, 1, 0, 3]]
    path.parent.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(phantom.hu_volume.transpose(), affine), path)


def bundles_folder() -> Path | None:
    """Where the unchanged bundles lie."""
    named = os.environ.get("SEGNODE_TEST_BUNDLES")
    return Path(named).resolve() if named else None


def published(name: str, folder: Path, *, is_quick: bool = False) -> Model:
    """A model of this repository over its published bundle, its weights taken for those pulled.

    The four series of ``brats_mri`` lie on one grid here, so the step that strips skulls and registers
    is left out: it is no work of the card.

    Raises:
        FileNotFoundError: The bundle or its weights are not there.
    """
    bundle = (bundles_folder() or Path("SEGNODE_TEST_BUNDLES")) / BUNDLES[name]
    own = folder / "weights" / name
    model_folder = folder / "models" / name
    if not own.exists():
        if not (bundle / "models" / "model.pt").is_file():
            raise FileNotFoundError(f"no {BUNDLES[name]} with weights: set SEGNODE_TEST_BUNDLES")
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(bundle, own, copy_function=os.symlink)
        shutil.copytree(default_models_folder() / name, model_folder)
        if name == "brats_mri":
            _write_brats(model_folder / "model.yaml", is_quick=is_quick)
        spec = load_model(model_folder)
        for asset in spec.weights:  # of any kind, taken for those that were pulled
            if (own / asset.path).is_file():
                digest = sha256_of(own / asset.path)
                record_asset(own, asset, sha256=digest, source="bench", at="bench")
    return Model(spec=load_model(model_folder), weights_dir=folder / "weights")


def _write_brats(path: Path, *, is_quick: bool) -> None:
    model: dict[str, Any] = yaml.safe_load(path.read_text())
    if is_quick:  # its own windows are for a card
        model["runner"]["overrides"]["inferer#roi_size"] = [48, 48, 32]
    for key in ("prepare", "prepare_files"):
        model["runner"].pop(key)
    model["weights"] = [each for each in model["weights"] if each["path"] == "models/model.pt"]
    path.write_text(yaml.safe_dump(model, sort_keys=False))


def made(folder: Path) -> dict[str, Model]:
    """Small bundles of every shape of inference, and one with labels beyond a byte."""
    recipes: dict[str, Recipe] = {name: make() for name, make in MADE_BUNDLES.items()}
    few = resampled()
    many = {**few.config, "network_def": seg_resnet(1, MANY_LABELS)}
    recipes["many_labels"] = replace(few, config=many, labels=MANY_LABELS - 1)
    models = {}
    for name, recipe in recipes.items():
        bundle = write_bundle_model(folder / "made" / name, name, recipe)
        models[name] = Model(spec=bundle.spec, weights_dir=bundle.weights_dir)
    return models
