"""Runner kind ``python``: a model that is a function of this package.

::

    def run(volumes: Mapping[str, Volume], parameters: Mapping[str, object], report: Report)
        -> labels on the grid of the first input

Entries outside ``node.infer`` are refused when the model folder is loaded: a model folder is data
and must not make the node import what it names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from node.domain.result import LabelArray
from node.infer.registry import ModelSpec
from node.infer.report import Report
from node.infer.volume import Volume


def run(spec: ModelSpec, volumes: Mapping[str, Volume], report: Report) -> LabelArray:
    """Call the model's entry."""
    module, _, function = spec.runner.entry.partition(":")
    labels: LabelArray = getattr(importlib.import_module(module), function)(
        volumes, spec.runner.parameters, report
    )
    return labels
