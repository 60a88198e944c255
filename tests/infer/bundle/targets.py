"""What a runner's child is asked to do in tests of bundles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node.infer.assets import Kept
from node.infer.bundle.spec import Bundle
from node.infer.bundle.strict import run_strict
from node.infer.report import Report
from node.infer.volume import Volume
from tests.support.phantoms import Phantom
from tests.support.rooms import room


def strict(request: Mapping[str, Any], report: Report, kept: Kept) -> Mapping[str, Any]:
    """A small phantom through a bundle's own command."""
    root = Path(request["root"])
    bundle = Bundle(
        root=root,
        config=root / "configs" / "inference.json",
        overrides={},
        weights=root / "models" / "model.pt",
    )
    phantom = Phantom(shape=(20, 24, 28), spacing_mm=(9.0, 8.0, 7.0))
    image = (Volume(array=phantom.hu_volume, grid=phantom.grid),)
    run_strict(bundle, image, room(Path(request["folder"])), report)
    return {}
