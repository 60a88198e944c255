"""Whether a model could run here: told before a job fails for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from node.infer.assets import locked_licences, missing_assets
from node.infer.registry import ModelSpec


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
    yield from model.runner.settings.shortcomings()
