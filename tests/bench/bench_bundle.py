"""A whole CT through a real bundle, DICOM to DICOM SEG, against MONAI's own command on NIfTI.

``python -m tests.bench bundle glue``. The folder in SEGNODE_TEST_BUNDLES holds the public bundle
``wholeBody_ct_segmentation`` with weights of any kind: time and memory do not depend on what it
learnt. Both sides compute the 3 mm variant in fp32 and bring labels back to 512 x 512 x 397. MONAI
reads and writes NIfTI; the node starts from 397 DICOM files and ends with a verified SEG in a folder.
Memory is the resident set of the whole process tree, sampled.

``glue`` is everything but a network: one series of 126 slices, 104 structures painted as boxes.
"""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import node
from node.infer.assets import record_asset, sha256_of
from node.infer.registry import default_models_folder, load_model
from tests.bench.processes import resident_mb, sum_of_tree
from tests.bench.report import Goal, Report, Row
from tests.support.boxes import boxes_runner
from tests.support.phantoms import HOUNSFIELD, Phantom, Region, region_at

BUNDLE = "wholeBody_ct_segmentation"
MODEL = "wholebody_ct"
SHAPE, QUICK_SHAPE = (397, 512, 512), (60, 256, 256)
SPACING_MM = (1.5, 0.84, 0.84)
GLUE_SHAPE = (126, 512, 512)
TIME_RATIO, MEMORY_RATIO = 0.8, 0.5
GLUE_S, MHUB_GLUE_S = 5.0, 15.3
# what the bundle's publisher reports for 3 mm on a CPU of theirs; inversion is not in it
PUBLISHED_S = {"prepare": 1.24, "network": 3.67, "post": 1.44, "write": 0.18}
_SAMPLE_S = 0.2


def measure(is_quick: bool) -> list[Report]:
    """Both commands over one volume, taking turns."""
    bundles = os.environ.get("SEGNODE_TEST_BUNDLES")
    if not bundles or not (Path(bundles) / BUNDLE / "models" / "model_lowres.pt").is_file():
        note = f"not measured: SEGNODE_TEST_BUNDLES names no folder with {BUNDLE} and its weights"
        return [Report(part="bundle", title=BUNDLE, rows=[], notes=[note])]
    with TemporaryDirectory(prefix="segnode-bench-") as name:
        folder = Path(name)
        shape = QUICK_SHAPE if is_quick else SHAPE
        _prepare(folder, Path(bundles) / BUNDLE, shape)
        runs = {"MONAI": _by_monai(folder), "node": _by_node(folder)}
        stages = json.loads((folder / "node.json").read_text())["outcomes"][0]["stages"]
    return [_report(runs, stages, shape)]


def _report(
    runs: Mapping[str, Row], stages: Mapping[str, float], shape: tuple[int, int, int]
) -> Report:
    theirs, ours = runs["MONAI"], runs["node"]
    time_ratio = float(ours["s"]) / float(theirs["s"])
    memory_ratio = float(ours["peak MB"]) / float(theirs["peak MB"])
    slices, rows, columns = shape
    told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in stages.items())
    published = ", ".join(f"{name} {seconds}" for name, seconds in PUBLISHED_S.items())
    return Report(
        part="bundle",
        title=f"{BUNDLE} at 3 mm on {columns} x {rows} x {slices}, fp32, CPU",
        rows=[{"by": by, **run} for by, run in runs.items()],
        goals=[
            Goal(claim="time, of MONAI's", figure=time_ratio, limit=TIME_RATIO),
            Goal(claim="peak memory, of MONAI's", figure=memory_ratio, limit=MEMORY_RATIO),
        ],
        notes=[
            f"stages of the node, s: {told}",
            f"published for the bundle, s: {published}; without inversion to the source grid",
        ],
    )


def glue(is_quick: bool) -> list[Report]:
    """All that is not a network, for one series of 126 slices and 104 structures."""
    shape = (126, 256, 256) if is_quick else GLUE_SHAPE
    with TemporaryDirectory(prefix="segnode-bench-") as name:
        folder = Path(name)
        phantom = _torso(shape)
        (folder / "series").mkdir()
        phantom.write(folder / "series")
        _write_boxes_model(folder / "models" / "boxes", phantom)
        command = [*_segnode("run"), str(folder / "series"), str(folder / "out"), "--json"]
        command += ["--models-dir", str(folder / "models"), "--model", "boxes"]
        run = _timed(command, folder / "node.json", _installed())
        stages = json.loads((folder / "node.json").read_text())["outcomes"][0]["stages"]
    seconds = float(run["s"]) - stages["infer"]
    rows: list[Row] = [{"stage": name, "s": value} for name, value in stages.items()]
    rows.append({"stage": "everything, start and taking in included", "s": float(run["s"])})
    goal = Goal(claim="all but the network, s", figure=seconds, limit=GLUE_S)
    title = f"{shape[0]} slices, 104 structures, DICOM to DICOM SEG"
    notes = [f"MHub's own log for the same work: {MHUB_GLUE_S} s"]
    return [Report(part="glue", title=title, rows=rows, goals=[goal], notes=notes)]


def _prepare(folder: Path, bundle: Path, shape: tuple[int, int, int]) -> None:
    import nibabel

    phantom = _torso(shape)
    (folder / "series").mkdir()
    phantom.write(folder / "series")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ phantom.grid.affine_lps[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(phantom.hu_volume.transpose(), affine)
    (folder / "cases" / "imagesTs").mkdir(parents=True)
    nibabel.save(image, folder / "cases" / "imagesTs" / "ct.nii.gz")
    shutil.copytree(bundle, folder / "weights" / MODEL)
    spec = load_model(default_models_folder() / MODEL)
    own = folder / "weights" / MODEL
    for asset in spec.weights:  # of any kind, taken for those that were pulled
        record_asset(own, asset, sha256=sha256_of(own / asset.path), source="bench", at="bench")
    # JSON is YAML
    config = {
        "weights_dir": str(folder / "weights"),
        "data_dir": str(folder / "data"),
        "rules": [
            {
                "name": "whole body",
                "when": {"Modality": "CT"},
                "run": MODEL,
                "parameters": {"variant": "3mm"},
            }
        ],
    }
    (folder / "node.yaml").write_text(json.dumps(config))


def _torso(shape: tuple[int, int, int]) -> Phantom:
    """The torso with noise, made slice by slice."""
    phantom = Phantom(shape=shape, spacing_mm=SPACING_MM)
    table = np.array([HOUNSFIELD[region] for region in Region], np.float64)
    affine, chance = phantom.grid.affine_lps, np.random.default_rng(7)
    index = np.stack(np.indices((1, *shape[1:])), axis=-1).astype(float)
    hu = np.empty(shape, np.int16)
    for number in range(shape[0]):
        index[..., 0] = number
        regions = region_at(index @ affine[:3, :3].T + affine[:3, 3])[0]
        hu[number] = np.rint(table[regions] + chance.normal(0, 20, shape[1:]))
    phantom.__dict__["hu_volume"] = np.clip(hu, -1024, 3071)
    return phantom


def _write_boxes_model(folder: Path, phantom: Phantom) -> None:
    """104 boxes of all sizes, side by side, under the names of the whole-body table.

    Together they take as many frames as the work that MHub's time is known of: about 3850.
    """
    folder.mkdir(parents=True)
    original = default_models_folder() / MODEL
    for name in ("labels.csv", "README.md"):
        shutil.copy(original / name, folder / name)
    slices, rows, columns = phantom.grid.shape
    affine = phantom.grid.affine_lps
    boxes = []
    for value in range(104):
        across, down = value % 13, value // 13
        low = np.array([slices * 0.05, rows * (0.05 + down / 9), columns * (0.04 + across / 14)])
        size = np.array([slices * (0.1 + value / 266), rows / 11, columns / 16])
        ends = np.stack([low, low + size]) @ affine[:3, :3].T + affine[:3, 3]
        boxes.append([value + 1, *ends.min(axis=0).tolist(), *ends.max(axis=0).tolist()])
    model = {
        "name": "boxes",
        "version": "1",
        "title": "Boxes in place of a network",
        "inputs": {"ct": {"accepts": {"Modality": "CT"}}},
        "runner": boxes_runner(folder, boxes),
    }
    (folder / "model.yaml").write_text(json.dumps(model))


def _by_monai(folder: Path) -> Row:
    bundle = folder / "weights" / MODEL
    overrides: dict[str, Any] = {
        "bundle_root": str(bundle),
        "dataset_dir": str(folder / "cases"),
        "output_dir": str(folder / "by-monai"),
        "displayable_configs#highres": False,
        "dataloader#num_workers": 0,
        "config_file": str(bundle / "configs" / "inference.json"),
    }
    (folder / "arguments.json").write_text(json.dumps(overrides))
    command = [sys.executable, "-m", "monai.bundle", "run"]
    command += ["--args_file", str(folder / "arguments.json")]
    run = _timed(command, folder / "monai.log", {**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    if not list((folder / "by-monai").rglob("*.nii.gz")):
        raise RuntimeError("MONAI's command wrote nothing: see its log")
    return run


def _by_node(folder: Path) -> Row:
    command = [*_segnode("run"), str(folder / "series"), str(folder / "out"), "--json"]
    command += ["--config", str(folder / "node.yaml")]
    return _timed(command, folder / "node.json", _installed())


def _installed() -> Mapping[str, str]:
    """The environment of a package whose bytecode is there, as pip leaves it and MONAI's is."""
    compileall.compile_dir(Path(node.__file__).parent, quiet=1)
    return os.environ


def _segnode(command: str) -> list[str]:
    return [sys.executable, "-m", "node", command]


def _timed(command: Sequence[str], output: Path, environment: Mapping[str, str]) -> Row:
    """Seconds and peak memory of a command with all its processes."""
    done = threading.Event()
    peaks = [0.0]
    with output.open("wb") as stdout, output.with_suffix(".err").open("wb") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=dict(environment))
        watch = threading.Thread(target=_sample, args=(process.pid, done, peaks), daemon=True)
        watch.start()
        code = process.wait()
        seconds = time.perf_counter() - started
    done.set()
    watch.join()
    if code:
        raise RuntimeError(
            f"{command[2]} ended with {code}: {output.with_suffix('.err').read_text()[-2000:]}"
        )
    return {"s": seconds, "peak MB": max(peaks)}


def _sample(process_id: int, done: threading.Event, peaks: list[float]) -> None:
    while not done.wait(_SAMPLE_S):
        peaks.append(sum_of_tree(process_id, resident_mb))
