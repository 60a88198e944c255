"""The model ``boxes`` of tests: labels that are known beforehand, for any table of labels."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CODE = Path(__file__).parent / "models_probe" / "boxes" / "run.py"


def boxes_runner(folder: Path, boxes: Sequence[Sequence[float]]) -> dict[str, Any]:
    """What model.yaml says under ``runner``; the code is copied into the model's folder.

    Args:
        boxes: [label value, low x, y, z, high x, y, z] in LPS millimetres each.
    """
    shutil.copy(CODE, folder)
    return {
        "kind": "python",
        "entry": f"{CODE.name}:run",
        "code": [{"path": CODE.name, "sha256": hashlib.sha256(CODE.read_bytes()).hexdigest()}],
        "parameters": {"boxes": [list(box) for box in boxes]},
    }
