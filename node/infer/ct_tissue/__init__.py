"""Entry ``ct_tissue``: the tissues of a CT by Hounsfield ranges and morphology; no weights.

Shapes are decided on a coarse grid of about 2 mm, then every voxel of the source grid is judged by
its own Hounsfield units inside those shapes, a few slices at a time.

::

    grid      the coarse grid: shrink, morphology in millimetres, back to full resolution
    body      the patient without table and clothes, holes filled; bone with its marrow
    lungs     air in the body: airways, left and right lung, told apart along the patient's x axis
    compose   the labels of the source grid

What enters: one CT volume of any orientation. What leaves: the labels of
``models/ct_tissue/labels.csv``; an organ that is not there has no voxel. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from node.domain.errors import JobRefused
from node.domain.result import LabelArray
from node.infer.ct_tissue.body import find_body, find_bone, find_inner_region
from node.infer.ct_tissue.compose import compose
from node.infer.ct_tissue.grid import CoarseGrid
from node.infer.ct_tissue.lungs import find_airways, find_lungs, lung_sides
from node.infer.registry import ModelSpec
from node.infer.report import Report
from node.infer.run_context import RunContext
from node.infer.volume import Volume

REVISION = 1


def run(
    spec: ModelSpec, volumes: Mapping[str, Volume], context: RunContext, report: Report
) -> LabelArray:
    """Label the tissues of the only volume.

    Raises:
        JobFailed: A parameter is given; this version takes none.
    """
    del context
    if spec.runner.parameters:
        named = sorted(spec.runner.parameters)
        raise JobRefused(f"ct_tissue takes no parameters: {named}")
    (volume,) = volumes.values()
    return label_tissues(volume, report)


def label_tissues(volume: Volume, report: Report) -> LabelArray:
    """The labels of one CT volume in Hounsfield units, on its grid."""
    grid = CoarseGrid.over(volume.grid)
    with report.stage("shapes"):
        hu = grid.shrunk(volume.array)
        body = find_body(hu, grid)
        if not body.any():
            report.note("no body found")
            return np.zeros(volume.grid.shape, np.uint8)
        bone, marrow = find_bone(hu, body, grid)
        lungs = find_lungs(hu, body, grid)
        airways, airway_limit_hu = find_airways(hu, body, lungs, grid)
        left, right = lung_sides(lungs, airways, body, grid)
        inner = find_inner_region(hu, body, grid)
    with report.stage("compose"):
        return compose(
            volume.array,
            grid,
            body=body,
            inner=inner,
            bone=bone,
            marrow=marrow,
            left_lung=left,
            right_lung=right,
            airways=airways,
            airway_limit_hu=airway_limit_hu,
        )
