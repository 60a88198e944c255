"""What a runner is given in tests that have no node around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom import dcmread

from node.domain.grid import Stack
from node.domain.header import Header, HeaderMerger
from node.domain.result import LabelArray
from node.infer.assets import Kept
from node.infer.python.runner import entry_of
from node.infer.registry import ModelSpec
from node.infer.report import Report, Stopwatch
from node.infer.run_context import RunContext, SeriesInput, run_model, with_parameters
from node.infer.volume import Volume
from tests.support.phantoms import Phantom


def given_files(phantom: Phantom, folder: Path) -> SeriesInput:
    """The phantom as files in a folder."""
    merger = HeaderMerger()
    for header in phantom.headers():
        merger.add(header)
    paths = phantom.write(folder)
    files = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in paths}
    return SeriesInput(stack=phantom.stack, files=files, header=merger.header())


def nothing_known(stack: Stack) -> SeriesInput:
    """A series of which only the grid is known: for what fails before it reads."""
    return SeriesInput(stack=stack, files={}, header=Header({}))


def room(
    folder: Path,
    *,
    weights_dir: Path | None = None,
    memory_gb: float = 8.0,
    kept: Kept | None = None,
) -> RunContext:
    """A room whose scratch lies in a folder."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return RunContext(
        device="cpu",
        weights_dir=weights_dir or folder / "weights",
        scratch=scratch,
        memory_gb=memory_gb,
        kept=kept or Kept(),
    )


def labels_of(
    model: ModelSpec,
    phantom: Phantom,
    parameters: Mapping[str, object] | None = None,
    report: Report | None = None,
    *,
    weights_dir: Path | None = None,
) -> LabelArray:
    """What a model makes of a phantom in every role."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "series").mkdir()
        inputs = dict.fromkeys(model.inputs, given_files(phantom, folder / "series"))
        here = room(folder, weights_dir=weights_dir)
        return run_model(model, inputs, here, report or Stopwatch(), parameters).labels


def entry_labels(
    model: ModelSpec, volumes: Mapping[str, Volume], parameters: Mapping[str, object] | None = None
) -> LabelArray:
    """What the function of a ``python`` model makes of volumes in memory."""
    spec = with_parameters(model, parameters or {})
    with TemporaryDirectory() as name:
        labels: LabelArray = entry_of(spec)(spec, volumes, room(Path(name)), Stopwatch())
        return labels
