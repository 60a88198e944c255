"""Which models there are here: what ``segnode models list`` needs to know, and nothing heavier.

A list of models is looked at often, so nothing is imported here that receives, judges, stores or runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.config import NodeConfig, load
from node.infer.registry import FoundModels, ModelSpec, default_models_folder, find_models


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsHere:
    """The models that a configuration gives, and the configuration."""

    config: NodeConfig
    found: FoundModels

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """Those that can be used, by name."""
        return self.found.usable


def models_here(config: Path | None, folders: Sequence[Path] = ()) -> ModelsHere:
    """The models that come with segnode, those of the configuration, and those of these folders.

    Rules are not looked at: one that is wrong is no reason to hide the models.

    Raises:
        ConfigInvalid: The configuration cannot be used.
    """
    read = load(config, os.environ)
    return ModelsHere(
        config=read,
        found=find_models([default_models_folder(), *read.models_dirs, *folders]),
    )
