"""A bundle run as published: MONAI's own command line in a process of its own, files between.

This is the reference that the fast way of running a bundle is held to. Nothing of the bundle is
changed: its configuration is given other values by id, as its publisher would on the command line
(``--args_file``), so that it reads the image of this run, writes into the run's scratch folder, and
loads in the order and in the process that it is given.

What can fail: ``JobFailed``. What the bundle's process says goes to the log of the run; its last
words, without paths, are the reason of the failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from node.domain.errors import JobFailed, JobRefused
from node.domain.grid import Floats, Grid
from node.domain.result import LabelArray
from node.infer.bundle.fast import affine_ras
from node.infer.bundle.spec import Bundle
from node.infer.report import Report
from node.infer.run_context import RunContext
from node.infer.volume import Volume

TOLERANCE_VOXELS = 0.1
"""How far a corner of the result may lie off that of the image; headers round to single precision."""

_ENDINGS = (".nii", ".nii.gz")
_PACKAGES = {"monai": "monai", "ignite": "pytorch-ignite", "fire": "fire", "nibabel": "nibabel"}
_ARGUMENTS = "arguments.json"
_RESULTS = "results"
_SENTENCE = 200  # characters of the process's last line
_TAIL_BYTES = 1 << 16
_CAUSE_OF = "The above exception was the direct cause"  # Python's words between two tracebacks
_PATH = re.compile(r"(?:(?<=[\s'\"(=\[:])|^)/[^\s'\",;:)\]]*/([^\s'\",;:)\]/]*)")
_MEMORY = re.compile(
    r"out of memory|allocate memory|MemoryError|bad_alloc|_ALLOC_FAILED", re.IGNORECASE
)


def run_strict(
    bundle: Bundle, channels: Sequence[Volume], context: RunContext, report: Report
) -> LabelArray:
    """The labels that a bundle gives when its publisher's command runs it.

    Returns:
        The label values of the file that it wrote, shape (slice, row, column) of the image.
    Raises:
        JobFailed: Packages are missing, the process failed, or what it wrote are no labels of this
            image.
    """
    _require_packages()
    folder = Path(tempfile.mkdtemp(dir=context.scratch))
    with report.stage("write"):
        files = write_image(channels, folder)
        arguments = strict_arguments(bundle, files)
        (folder / _ARGUMENTS).write_text(json.dumps(arguments), encoding="utf-8")
    with report.stage("infer"):
        _run(bundle, folder, context)
    with report.stage("collect"):
        return read_labels(folder / _RESULTS, channels[0].grid)


def strict_arguments(bundle: Bundle, files: list[str]) -> dict[str, object]:
    """What ``monai.bundle run`` is told: the configuration, and config id -> value over it.

    The data set gets one case whatever the configuration makes its list from: a pattern of file
    names, a data list, a literal. An override of ``dataset#data`` is a list of one mapping with what
    the case has beside its image, such as ``label_prompt``.

    Args:
        files: Of the image, one for each channel.
    Raises:
        JobRefused: The configuration is no inference over one data set.
    """
    config = _read_config(bundle.config)
    told = {name.replace("::", "#"): value for name, value in bundle.overrides.items()}
    case = {**_rest_of_case(told), _image_key(config, told): files[0] if len(files) == 1 else files}
    forced: dict[str, object] = {
        "bundle_root": str(bundle.root),
        "dataset#data": [case],
    }
    loader = config.get("dataloader")
    for name, value in {"num_workers": 0, "shuffle": False}.items():
        if isinstance(loader, dict) and name in loader:
            forced[f"dataloader#{name}"] = value
    # float32 holds every label and, unlike integers, a value that is not a number
    written = {"output_dir": _RESULTS, "output_ext": ".nii", "output_dtype": "float32"}
    forced |= {name: value for name, value in written.items() if name in config}
    for place, component in _components(config, "SaveImaged"):
        forced |= {f"{place}#{name}": value for name, value in written.items() if name in component}
    return {"config_file": str(bundle.config), **told, **forced}


def _rest_of_case(told: Mapping[str, object]) -> dict[str, object]:
    match told.get("dataset#data", [{}]):
        case [dict() as case]:
            return dict(case)
    raise JobRefused("the override of dataset#data is not a list of one mapping: mend model.yaml")


def _read_config(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    config = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    if not isinstance(config, dict) or not isinstance(config.get("dataset"), dict):
        raise JobRefused(
            f"{path.name} of the bundle has no dataset: it is no inference configuration"
        )
    return config


def _image_key(config: Mapping[str, Any], told: Mapping[str, object]) -> str:
    """The key under which the bundle loads its image from a case."""
    for _, component in _components(config, "LoadImaged"):
        match component.get("keys"):
            case str(key) | [key]:
                key = str(key)
                if key.startswith("@"):
                    key = str(told.get(key[1:], config.get(key[1:])))
                if not key.startswith("$"):
                    return key
            case list():
                raise JobRefused("the bundle loads an image under each of several keys")
    return str(told.get("image_key", config.get("image_key", "image")))


def _components(node: object, target: str, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every component of a class in the configuration, with its id."""
    if isinstance(node, dict):
        if str(node.get("_target_", "")).rpartition(".")[2] == target:
            yield place, node
        children: Iterator[tuple[object, object]] = iter(node.items())
    elif isinstance(node, list):
        children = iter(enumerate(node))
    else:
        return
    for key, child in children:
        yield from _components(child, target, f"{place}#{key}" if place else str(key))


def _require_packages() -> None:
    absent = [
        package for name, package in _PACKAGES.items() if importlib.util.find_spec(name) is None
    ]
    if absent:
        raise JobRefused(
            f"a bundle's own command needs {', '.join(absent)}: pip install segnode[monai]"
        )


def _run(bundle: Bundle, folder: Path, context: RunContext) -> None:
    setpriv = shutil.which("setpriv")
    command = [
        # dies with this process even where that is killed
        *([setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []),
        *(sys.executable, "-P", "-u", "-m", "monai.bundle", "run", "--args_file", _ARGUMENTS),
    ]
    with context.log.open("ab") as log:
        started_at = log.tell()
        ended = subprocess.run(  # noqa: S603 - our own interpreter and MONAI's module
            command,
            check=False,
            cwd=folder,
            env=_environment(bundle, context),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if ended.returncode:
        raise _failure(ended.returncode, _last_line(context.log, started_at))


def _environment(bundle: Bundle, context: RunContext) -> dict[str, str]:
    """That of this process; the bundle's own code is found, and nothing is written beside it."""
    # not sys.path: in a warm worker the code of another bundle may lie there
    inherited = os.environ.get("PYTHONPATH", "")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(bundle.root), *([inherited] if inherited else [])]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    kind, _, number = context.device.partition(":")
    if kind != "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif number:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        # the bundle takes the first device that it sees
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(number)] if visible else number
    return environment


def _failure(code: int, last_line: str) -> JobFailed:
    if _MEMORY.search(last_line):
        return JobFailed("out of memory in the bundle's own command")
    if code < 0:
        return JobFailed(f"the bundle's own command was killed by {signal.Signals(-code).name}")
    return JobFailed(f"the bundle's own command failed: {last_line or f'exit code {code}'}")


def _last_line(log: Path, started_at: int) -> str:
    """The last line that the process wrote, without the folders of this machine."""
    with log.open("rb") as file:
        file.seek(max(started_at, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    # MONAI raises "failed to evaluate" over whatever happened: the first error says what
    lines = text.partition(_CAUSE_OF)[0].splitlines()
    said = [" ".join(line.split()) for line in lines if line.strip()]
    return _PATH.sub(r"\1", said[-1])[:_SENTENCE] if said else ""


# --- files: an image there, labels back ---


def write_image(channels: Sequence[Volume], folder: Path) -> list[str]:
    """One file for each channel, named by its number.

    Returns:
        The names of the files in the folder.
    """
    import nibabel

    make: Any = nibabel.Nifti1Image  # has no types
    names = [f"image_{number}.nii" for number in range(len(channels))]
    for name, channel in zip(names, channels, strict=True):
        written = make(channel.array.transpose(), affine_ras(channel.grid))
        nibabel.save(written, folder / name)
    return names


def read_labels(folder: Path, grid: Grid) -> LabelArray:
    """The one label file somewhere below a folder, on the grid of the image.

    Raises:
        JobRefused: There is not one, it lies on another grid, or its values are no labels.
    """
    import nibabel

    files = sorted(path for path in folder.rglob("*") if path.name.endswith(_ENDINGS))
    if len(files) != 1:
        raise JobRefused(f"the bundle wrote {len(files)} NIfTI files, not one")
    image: Any = nibabel.load(files[0])  # has no types
    values = np.asarray(image.dataobj)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        shape = " x ".join(str(size) for size in values.shape)
        raise JobRefused(f"the bundle wrote {shape} values, not one label map")
    return _labels(_on_grid(values, np.asarray(image.affine, np.float64), grid))


def _on_grid(values: NDArray[Any], affine: Floats, grid: Grid) -> NDArray[Any]:
    """Values with the shape (slice, row, column), whatever order and direction their axes have.

    Args:
        affine: From the index of a value to RAS mm, shape (4, 4).
    """
    to_image = np.linalg.inv(affine_ras(grid)) @ affine
    axes = np.abs(to_image[:3, :3]).argmax(axis=1)  # of the result, by axis of the image
    size = grid.shape[::-1]
    signs = np.sign(to_image[range(3), axes])
    expected = np.zeros((3, 4))
    expected[range(3), axes] = signs
    expected[:, 3] = np.where(signs < 0, np.array(size) - 1, 0)
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in values.shape))])
    if (
        sorted(axes) != [0, 1, 2]
        or tuple(values.shape[axis] for axis in axes) != size
        or np.abs(corners @ (to_image[:3] - expected).T).max() > TOLERANCE_VOXELS
    ):
        given, wanted = (" x ".join(map(str, shape)) for shape in (values.shape, size))
        raise JobRefused(f"the bundle wrote {given} voxels that are not the {wanted} of its image")
    aligned = values.transpose(axes)[tuple(slice(None, None, int(sign)) for sign in signs)]
    return aligned.transpose()


def _labels(values: NDArray[Any]) -> LabelArray:
    if not np.isfinite(values).all():
        raise JobRefused("the bundle returned values that are not numbers")
    highest = int(values.max())
    if values.min() < 0 or highest > 65535 or np.any(values != np.floor(values)):
        raise JobRefused("the bundle returned values that are no labels")
    if highest < 256:
        return np.ascontiguousarray(values, np.uint8)
    return np.ascontiguousarray(values, np.uint16)
