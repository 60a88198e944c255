"""Weights of any kind for public bundles: ``python -m tests.bench.random_weights FOLDER [BUNDLE ...]``.

Time and memory do not depend on what a network learnt, and the published weights may not be at hand. Each
network of FOLDER/BUNDLE is built from the bundle's own configuration with a seed, and saved where the
bundle looks for it; what is there already stays. The scales and shifts of its norms are moved a little:
as they begin, all classes would look alike.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from monai.bundle import ConfigParser

# the seed of each file is its place
FILES = {
    "wholeBody_ct_segmentation": ("model.pt", "model_lowres.pt"),
    "brats_mri_segmentation": ("model.pt",),
    "spleen_ct_segmentation": ("model.pt",),
    "NV-Segment-CTMR": ("model.pt",),
    "NV-Segment-CT": ("model.pt",),
    "vista3d": ("model.pt",),
}


def make_weights(bundle: Path, name: str, seed: int) -> None:
    """Write ``models/NAME`` of a bundle."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    torch.manual_seed(seed)
    network = parser.get_parsed_content("network_def")
    with torch.no_grad():
        for module in network.modules():
            is_norm = type(module).__name__.startswith(("GroupNorm", "InstanceNorm", "BatchNorm"))
            if is_norm and module.weight is not None:
                module.weight.mul_(torch.empty_like(module.weight).uniform_(0.5, 1.5))
                module.bias.add_(torch.empty_like(module.bias).normal_(0, 0.3))
    folder = bundle / "models"
    folder.mkdir(exist_ok=True)
    part = folder / f".{name}.part"
    torch.save(network.state_dict(), part)
    part.replace(folder / name)


def main(folder: Path, wanted: list[str]) -> None:
    """Make what is missing of the bundles that are wanted, or of all that are there."""
    for bundle in wanted or [name for name in FILES if (folder / name / "configs").is_dir()]:
        for seed, name in enumerate(FILES[bundle]):
            if not (folder / bundle / "models" / name).is_file():
                make_weights(folder / bundle, name, seed)
                sys.stdout.write(f"{bundle}: {name} made\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
