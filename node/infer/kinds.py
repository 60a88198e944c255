"""The runner kinds: a new one is its own file or folder, and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from node.infer.bundle.spec import BundlePart
from node.infer.container.spec import ContainerPart
from node.infer.python.spec import PythonPart
from node.infer.runner_part import RunnerPart

KINDS: Mapping[str, type[RunnerPart]] = {
    "python": PythonPart,
    "monai_bundle": BundlePart,
    "container": ContainerPart,
}
