"""Bundles that fail, each in its own way; what they are is otherwise ``tests.support.bundles.threshold``."""

from __future__ import annotations

from dataclasses import replace

from tests.support.bundles import (
    ARGMAX,
    LOAD,
    ORIENT,
    SOFTMAX,
    Recipe,
    inference,
    inverted,
    on_answer,
    threshold,
    windows,
)

_NETWORK = """
import time

import torch


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.above = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        {body}
"""


def failing(body: str, **changes: object) -> Recipe:
    """A bundle whose network does what ``body`` says with its window ``x``."""
    recipe = threshold(-500.0)
    network = {"_target_": "scripts.network.Network"}
    scripts = {"__init__.py": "", "network.py": _NETWORK.format(body=body)}
    config = {**recipe.config, "network_def": network, **changes}
    return replace(recipe, config=config, scripts=scripts)


def raises() -> Recipe:
    """Its network has a bug."""
    return failing('raise ValueError("no such channel in /root/secret/place/x.json")')


def hangs() -> Recipe:
    """Its network never answers."""
    return failing("time.sleep(3600)")


def eats_memory() -> Recipe:
    """Its network takes more memory than any machine has, a piece at a time."""
    return failing("return [torch.ones(1 << 26) for _ in range(1 << 20)]")


def dies() -> Recipe:
    """Its network crashes the process."""
    return failing("import ctypes; ctypes.string_at(0)")


def gives_no_numbers() -> Recipe:
    """Its network answers NaN, and nothing after it hides that."""
    recipe = failing("return x * float('nan')")
    post = {**recipe.config["postprocessing"]}
    post["transforms"] = [inverted(nearest=True), post["transforms"][-1]]
    return replace(recipe, config={**recipe.config, "postprocessing": post})


def gives_no_numbers_to_compare() -> Recipe:
    """Its network answers NaN for every class, of which argmax would make background."""
    return failing("return torch.full((len(x), 2, *x.shape[2:]), float('nan'))")


def gives_another_shape() -> Recipe:
    """Its network answers half as many voxels as it was asked about."""
    return failing("return torch.cat([x, -x], dim=1)[..., ::2]")


def lies_elsewhere() -> Recipe:
    """Its labels stay on the grid that it resampled to."""
    recipe = threshold(-500.0)
    spaced = {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [9.0] * 3}
    config = inference(
        recipe.config["network_def"], [*LOAD, ORIENT, spaced], windows(32, 0.25), [SOFTMAX, ARGMAX]
    )
    return replace(recipe, config=config)


def gives_fractions() -> Recipe:
    """It writes probabilities where labels belong."""
    recipe = failing("return torch.sigmoid(x / 1000)")
    post = {**recipe.config["postprocessing"]}
    post["transforms"] = [inverted(nearest=False), post["transforms"][-1]]
    return replace(recipe, config={**recipe.config, "postprocessing": post})


def gives_unknown_labels() -> Recipe:
    """Its labels are not in labels.csv."""
    recipe = threshold(-500.0)
    post = {**recipe.config["postprocessing"]}
    shifted = on_answer("Lambdad", func="$lambda x: x * 200")
    post["transforms"] = [*post["transforms"][:-1], shifted, post["transforms"][-1]]
    return replace(recipe, config={**recipe.config, "postprocessing": post})


def finds_nothing() -> Recipe:
    """It labels no voxel: no failure, and nothing to send."""
    return threshold(100_000.0)
