"""Whether a model could run here: told before a job fails for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator
from pathlib import Path

from node.domain.errors import JobFailed
from node.infer.assets import locked_licences, missing_assets
from node.infer.container.engine import find_image
from node.infer.registry import ModelSpec

_BUNDLE_LIBRARIES = ("torch", "monai")


def shortcomings(model: ModelSpec, weights_dir: Path, accepted: Collection[str]) -> Iterator[str]:
    """One sentence for each thing that stands between a model and its first job.

    Files are looked for, not into: every run holds them to their hashes.
    """
    missing = missing_assets(model, weights_dir)
    if missing:
        count = len(model.files) + len(model.weights)
        yield (
            f"{len(missing)} of {count} files are missing, {missing[0].path} among them:"
            f" segnode models pull {model.name}"
        )
    for licence in locked_licences(model, accepted):
        yield f"its weights forbid commercial use: read {licence} and name it in accept_licences"
    if model.runner.kind == "monai_bundle":
        absent = [name for name in _BUNDLE_LIBRARIES if importlib.util.find_spec(name) is None]
        if absent:
            yield f"{' and '.join(absent)} are not installed: pip install 'segnode[monai]'"
    if model.image is not None:
        try:
            find_image(model.runner.entry, model.image_id)
        except JobFailed as error:
            yield error.reason
