"""Small MONAI bundles after the bundle specification, each with the model folder that runs it.

Their weights are random but for a fixed seed, so that the labels mean nothing and every voxel of
them tells whether two ways of running a bundle are one. ``MADE_BUNDLES`` are by the shape of their
inference: what real bundles differ in. ``tests.support.bad_bundles`` are those that fail.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.infer.registry import ModelSpec, load_model
from tests.support.bundle_scripts import (
    MESHNET,
    PROMPTED_EVALUATOR,
    PROMPTED_INFERER,
    STEPS,
    THRESHOLD,
)

Config = dict[str, Any]

_CARD = "# Test\n\n## Intended use\n\n## How it works\n\n## Where it fails\n\n## Licence\n"
_COLUMNS = "label_value,name,category,type,modifier,region,region_modifier,rgb"
_URL = "https://models.invalid"


@dataclass(frozen=True, kw_only=True)
class BundleModel:
    """A model folder, and its files as ``models pull`` would have brought them."""

    folder: Path
    weights_dir: Path

    @property
    def spec(self) -> ModelSpec:
        return load_model(self.folder)

    @property
    def root(self) -> Path:
        """The bundle itself."""
        return self.weights_dir / self.folder.name

    @property
    def config(self) -> Path:
        return self.root / "configs" / "inference.json"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a bundle consists of.

    Args:
        scripts: File name -> text, in ``scripts/``.
        weights: Path -> values of ``network_def``'s parameters; or its seed, where it is MONAI's.
        variants: As in model.yaml; none: one, with the first of the weights.
        labels: How many label values labels.csv describes.
        runner: More keys of the runner in model.yaml.
    """

    config: Config
    weights: Mapping[str, Any] = field(default_factory=lambda: {"models/model.pt": 1})
    scripts: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, Any] = field(default_factory=dict)
    roles: Sequence[str] = ("image",)
    labels: int = 8
    outputs: str = "labels"
    runner: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=lambda: {"memory_gb": 4})


def write_bundle_model(folder: Path, name: str, recipe: Recipe) -> BundleModel:
    """Make the model NAME in ``folder/models`` and its files in ``folder/weights``."""
    made = BundleModel(folder=folder / "models" / name, weights_dir=folder / "weights")
    for part in ("configs", "models", *(["scripts"] if recipe.scripts else [])):
        (made.root / part).mkdir(parents=True)
    made.config.write_text(json.dumps(recipe.config))
    metadata = {"version": "0.1.0", "network_data_format": {"outputs": {"pred": _CHANNELS}}}
    (made.root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    for file_name, text in recipe.scripts.items():
        (made.root / "scripts" / file_name).write_text(text)
    _save_weights(made, recipe)
    _write_model_folder(made, recipe)
    return made


def adopt_bundle(folder: Path, name: str, root: Path, recipe: Recipe) -> BundleModel:
    """Make the model NAME in ``folder/models`` of a bundle that lies elsewhere, as it is there.

    Args:
        recipe: Its ``config`` and ``scripts`` are not looked at.
    """
    made = BundleModel(folder=folder / "models" / name, weights_dir=folder / "weights")
    made.root.parent.mkdir(parents=True)
    made.root.symlink_to(root.resolve())
    _write_model_folder(made, recipe)
    return made


_CHANNELS = {"channel_def": {"0": "background"}}


def _save_weights(made: BundleModel, recipe: Recipe) -> None:
    import torch
    from monai.bundle.config_parser import ConfigParser

    for path, given in recipe.weights.items():
        values = given
        if isinstance(given, int):
            torch.manual_seed(given)
            parser = ConfigParser(json.loads(made.config.read_text()))
            values = parser.get_parsed_content("network_def").state_dict()
        torch.save(values, made.root / path)


def _write_model_folder(made: BundleModel, recipe: Recipe) -> None:
    made.folder.mkdir(parents=True)
    (made.folder / "model.yaml").write_text(json.dumps(_model_file(made, recipe)))  # JSON is YAML
    kind = "SCT:91723000:Anatomical Structure"
    rows = [
        f"{n},Structure {n},{kind},99SEGNODE:T{n}:Structure {n},,,,#{n * 37 % 256:02X}8040"
        for n in range(1, recipe.labels + 1)
    ]
    (made.folder / "labels.csv").write_text("\n".join([_COLUMNS, *rows]) + "\n")
    (made.folder / "README.md").write_text(_CARD)


def _model_file(made: BundleModel, recipe: Recipe) -> dict[str, Any]:
    def asset(path: str) -> dict[str, Any]:
        digest = hashlib.sha256((made.root / path).read_bytes()).hexdigest()
        return {"path": path, "url": f"{_URL}/{path}", "sha256": digest}

    files = sorted(
        str(path.relative_to(made.root))
        for folder in ("configs", "scripts")
        for path in (made.root / folder).glob("*.*")
    )
    free = {"licence": "Apache-2.0", "commercial_use": True}
    only = {"only": {"weights": next(iter(recipe.weights))}}
    return {
        "name": made.folder.name,
        "version": "1.0.0",
        "title": "A bundle for tests",
        "inputs": {role: {"min_slices": 3} for role in recipe.roles},
        "runner": {
            "kind": "monai_bundle",
            "entry": "configs/inference.json",
            "variants": dict(recipe.variants) or only,
            "channels": list(recipe.roles),
            **recipe.runner,
        },
        "files": [asset(path) for path in files],
        "weights": [asset(path) | free for path in recipe.weights],
        "resources": dict(recipe.resources),
        "outputs": [recipe.outputs],
    }


# --- what inference configurations are made of ---------------------------------------------------


def transform(target: str, **arguments: Any) -> Config:
    """One dictionary transform of the image; of the answer with ``keys="pred"``."""
    return {"_target_": target, "keys": "@image_key", **arguments}


def on_answer(target: str, **arguments: Any) -> Config:
    """One dictionary transform of the network's answer."""
    return transform(target, **{"keys": "pred", **arguments})


LOAD = [transform("LoadImaged"), transform("EnsureChannelFirstd"), transform("EnsureTyped")]
ORIENT = transform("Orientationd", axcodes="RAS")
SOFTMAX, ARGMAX = on_answer("Activationsd", softmax=True), on_answer("AsDiscreted", argmax=True)


def spacing(millimetres: Any) -> Config:
    """Resample the image."""
    return transform("Spacingd", pixdim=millimetres, mode="bilinear")


def inverted(*, nearest: bool) -> Config:
    """Bring the answer back onto the grid of the file."""
    return on_answer(
        "Invertd",
        transform="@preprocessing",
        orig_keys="@image_key",
        nearest_interp=nearest,
        to_tensor=True,
    )


def windows(side: int, overlap: float, **arguments: Any) -> Config:
    """Sliding windows."""
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": [side] * 3,
        "sw_batch_size": 2,
        "overlap": overlap,
        **arguments,
    }


def inference(
    network: Config | str,
    preprocessing: Sequence[Config],
    inferer: Config,
    postprocessing: Sequence[Config],
    **more: Any,
) -> Config:
    """An inference configuration whose cases are the files in a folder."""
    save = on_answer(
        "SaveImaged",
        output_dir="@output_dir",
        output_ext="@output_ext",
        output_dtype="@output_dtype",
        output_postfix="seg",
        resample=False,
    )
    return {
        "imports": ["$import glob", "$import numpy"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "output_ext": ".nii.gz",
        "output_dtype": "$numpy.float32",
        "dataset_dir": "cases",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": list(preprocessing)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": True,
            "num_workers": 2,
        },
        "inferer": inferer,
        "postprocessing": {"_target_": "Compose", "transforms": [*postprocessing, save]},
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "amp": True,
        },
        "modelname": "model.pt",
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/' + @modelname",
            "load_dict": {"model": "@network"},
        },
        "initialize": ["$@checkpointloader(@evaluator)"],
        "run": ["$@evaluator.run()"],
        **more,
    }


def seg_resnet(channels: int, classes: int) -> Config:
    """A small residual network."""
    return {
        "_target_": "SegResNet",
        "spatial_dims": 3,
        "in_channels": channels,
        "out_channels": classes,
        "init_filters": 8,
        "blocks_down": [1, 1, 1],
        "blocks_up": [1, 1],
    }


# --- the bundles ---------------------------------------------------------------------------------


def resampled() -> Recipe:
    """Many exclusive labels at 3 mm, or with other weights at 6 mm; argmax before nearest."""
    return Recipe(
        config=inference(
            seg_resnet(1, 9),
            [
                *LOAD,
                ORIENT,
                spacing("$[3.0] * 3 if @highres else [6.0] * 3"),
                transform("NormalizeIntensityd", nonzero=True),
                transform("ScaleIntensityd", minv=-1.0, maxv=1.0),
            ],
            windows(32, 0.25, mode="gaussian", padding_mode="replicate"),
            [SOFTMAX, ARGMAX, inverted(nearest=True)],
            highres=True,
            modelname="$'model.pt' if @highres else 'model_low.pt'",
        ),
        weights={"models/model.pt": 1, "models/model_low.pt": 2},
        variants={
            "3mm": {"weights": "models/model.pt", "next": "6mm"},
            "6mm": {"weights": "models/model_low.pt", "overrides": {"highres": False}},
        },
    )


def linearly_inverted() -> Recipe:
    """Two classes whose probabilities come back to the grid before the larger one is taken."""
    network = {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8, 16],
        "strides": [2, 2],
        "num_res_units": 1,
        "norm": "instance",
    }
    clipped = {"a_min": -1000, "a_max": 800, "b_min": 0, "b_max": 1, "clip": True}
    return Recipe(
        config=inference(
            network,
            [*LOAD, ORIENT, spacing([3.5, 3.5, 4.0]), transform("ScaleIntensityRanged", **clipped)],
            windows(32, 0.5),
            [SOFTMAX, inverted(nearest=False), ARGMAX],
        ),
        labels=1,
    )


ROLES = ("t1c", "t1", "t2", "flair")
LIST_OF_CASES = "$monai.data.load_decathlon_datalist(@data_list, data_list_key='testing')"


def overlapping() -> Recipe:
    """Four channels and three regions that overlap; cases come from a data list."""
    merge = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 2 * (x[[1]] > 0)))"
    config = inference(
        seg_resnet(4, 3),
        [
            transform("LoadImaged"),
            transform("NormalizeIntensityd", nonzero=True, channel_wise=True),
        ],
        windows(48, 0.5),
        [
            on_answer("Activationsd", sigmoid=True),
            inverted(nearest=False),
            on_answer("AsDiscreted", threshold=0.5),
            on_answer("Lambdad", func=merge),
        ],
        data_list="$@bundle_root + '/cases.json'",
        test_cases=LIST_OF_CASES,
        output_dtype="uint8",
    )
    config["dataset"]["data"] = "@test_cases"
    return Recipe(
        config=config,
        roles=ROLES,
        labels=3,
        outputs="regions",
        runner={"region_channels": [0, 1, 2]},
    )


def prompted() -> Recipe:
    """A network that is asked for classes; image and prompts are one literal case."""
    classes = [3, 1, 14, 5]
    ranged = {"a_min": -1000, "a_max": 800, "b_min": 0, "b_max": 1, "clip": True}
    config = inference(
        "$monai.networks.nets.vista3d132(encoder_embed_dim=8, in_channels=1)",
        [
            *LOAD,
            spacing([6.0] * 3),
            transform("CropForegroundd", allow_smaller=True, margin=2, source_key="@image_key"),
            transform("monai.apps.vista3d.transforms.VistaPreTransformd", subclass={"2": [14, 5]}),
            transform("ScaleIntensityRanged", **ranged),
            ORIENT,
            transform("CastToTyped", dtype="$torch.float32"),
        ],
        {"_target_": "scripts.inferer.Vista3dInferer", "roi_size": [32] * 3, "overlap": 0.3},
        [
            on_answer("monai.apps.vista3d.transforms.VistaPostTransformd"),
            inverted(nearest=True) | {"transform": "$copy.deepcopy(@preprocessing)"},
            on_answer("Lambdad", func="$lambda x: torch.nan_to_num(x, nan=255)"),
        ],
        input_dict="${'image': 'case.nii.gz'}",
        everything_labels=classes,
    )
    config["imports"] += ["$import copy", "$import scripts"]
    config["dataset"]["data"] = "$[@input_dict]"
    config["evaluator"] |= {
        "_target_": "scripts.evaluator.Vista3dEvaluator",
        "hyper_kwargs": {"user_prompt": True, "everything_labels": "@everything_labels"},
    }
    scripts = {
        "__init__.py": "",
        "inferer.py": PROMPTED_INFERER,
        "evaluator.py": PROMPTED_EVALUATOR,
    }
    return Recipe(config=config, scripts=scripts, labels=16)


def post_processed() -> Recipe:
    """Between the labels and the grid: MONAI's choice of labels, then a step of the bundle's own."""
    return Recipe(
        config=inference(
            seg_resnet(1, 6),
            [*LOAD, ORIENT, spacing([4.0] * 3), transform("NormalizeIntensityd")],
            windows(32, 0.25, mode="gaussian"),
            [
                SOFTMAX,
                ARGMAX,
                on_answer("LabelFilterd", applied_labels=[1, 2, 3, 5]),
                on_answer("scripts.steps.Shrunkd", label=2, becomes=7),
                inverted(nearest=True),
            ],
        ),
        weights={"models/model.pt": 5},
        scripts={"__init__.py": "", "steps.py": STEPS},
    )


def mesh_net(network: Any) -> Recipe:
    """Learned weights: a chain of dilated convolutions over the whole image, its input LIA.

    Args:
        network: A ``torch.nn.Sequential`` of convolutions with rectified units between them.
    """
    layers = [
        {
            "in_channels": each.in_channels,
            "out_channels": each.out_channels,
            "kernel_size": each.kernel_size[0],
            "padding": each.padding[0],
            "dilation": each.dilation[0],
        }
        for each in network
        if hasattr(each, "kernel_size")
    ]
    ranged = {"lower": 5, "upper": 95, "b_min": 0.0, "b_max": 1.0, "clip": True}
    return Recipe(
        config=inference(
            {"_target_": "scripts.meshnet.network", "layers": layers},
            [
                *LOAD,
                transform("Orientationd", axcodes="LIA"),
                transform("ScaleIntensityRangePercentilesd", **ranged),
            ],
            {"_target_": "SimpleInferer"},
            [SOFTMAX, ARGMAX, inverted(nearest=True)],
        ),
        weights={"models/model.pt": network.state_dict()},
        scripts={"__init__.py": "", "meshnet.py": MESHNET},
        labels=network[-1].out_channels - 1,
    )


def threshold(above: float) -> Recipe:
    """No learning: label 1 is what is brighter than a number, so that the truth is known."""
    values = {"above": _tensor(above)}
    return Recipe(
        config=inference(
            {"_target_": "scripts.network.Threshold"},
            [*LOAD, ORIENT],
            windows(32, 0.25),
            [ARGMAX, inverted(nearest=True)],
        ),
        weights={"models/model.pt": values},
        scripts={"__init__.py": "", "network.py": THRESHOLD},
        labels=1,
    )


def _tensor(value: float) -> Any:
    import torch

    return torch.tensor([value])


MADE_BUNDLES: Mapping[str, Callable[[], Recipe]] = {
    "resampled": resampled,
    "linearly_inverted": linearly_inverted,
    "overlapping": overlapping,
    "prompted": prompted,
    "post_processed": post_processed,
}
