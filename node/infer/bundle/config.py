"""A MONAI bundle as a model uses it: its folder, its configuration with overrides, its weights.

Configuration is code: ``_target_`` and ``$`` expressions are executed when it is read, so a bundle
is opened only after every file of it was held to the hash in model.yaml.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.domain.errors import JobFailed
from node.infer.assets import FileHashes, check_assets
from node.infer.bundle.spec import BundlePart
from node.infer.registry import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A checked bundle with one way to run it.

    Args:
        root: Its folder: configs/, scripts/, models/.
        config: The inference configuration in it.
        overrides: Config id -> value, as on MONAI's command line.
        weights: What the bundle loads with these overrides.
    """

    root: Path
    config: Path
    overrides: Mapping[str, Any]
    weights: Path


def settings_of(spec: ModelSpec) -> BundlePart:
    """What model.yaml says to this runner kind."""
    settings = spec.runner.settings
    if not isinstance(settings, BundlePart):
        raise JobFailed(f"{spec.name} is no bundle", permanent=True)
    return settings


def bundle_of(
    spec: ModelSpec, variant: str, weights_dir: Path, hashes: FileHashes | None = None
) -> Bundle:
    """The bundle of a model, every file held to its hash.

    Args:
        hashes: Of files that were read before.

    Raises:
        JobFailed: A file is missing or is not the one that was declared; permanent.
    """
    settings = settings_of(spec)
    chosen = settings.variants[variant]
    paths = [each.path for each in spec.files]
    checked = check_assets(spec, weights_dir, [*paths, chosen.weights], hashes=hashes)
    return Bundle(
        root=weights_dir / spec.name,
        config=checked[settings.entry],
        overrides={**settings.overrides, **chosen.overrides},
        weights=checked[chosen.weights],
    )


def parser_of(bundle: Bundle, device: str) -> Any:
    """MONAI's parser over the configuration, with the bundle's own code within reach.

    Raises:
        JobFailed: The configuration cannot be read; permanent.
    """
    from monai.bundle.config_parser import ConfigParser

    _reach_code(bundle.root)
    parser = ConfigParser()
    try:
        parser.read_config(str(bundle.config))
        metadata = bundle.config.parent / "metadata.json"
        if metadata.is_file():
            parser.read_meta(str(metadata))
    except (ValueError, OSError) as error:
        raise JobFailed(
            f"{bundle.config.name} of the bundle cannot be read", permanent=True
        ) from error
    parser["bundle_root"] = str(bundle.root)
    if "device" in parser:
        parser["device"] = f"$torch.device('{device}')"
    for name, value in bundle.overrides.items():
        parser[name.replace("::", "#")] = value
    return parser


# as global as sys.path, of which it says what is on it: the bundle whose code this process imports
_reachable: list[Path] = []


def _reach_code(root: Path) -> None:
    """Let ``import scripts`` mean the code of this bundle, and of no other one."""
    if _reachable == [root]:
        return
    for previous in _reachable:
        sys.path.remove(str(previous))
        for name, module in list(sys.modules.items()):
            said = getattr(module, "__dict__", {})  # some answer to every name, as torch.classes
            # a folder of code without __init__.py has a path and no file
            places = [said.get("__file__"), *said.get("__path__", ())]
            if any(str(place).startswith(f"{previous}/") for place in places):
                del sys.modules[name]
    _reachable[:] = [root]
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
