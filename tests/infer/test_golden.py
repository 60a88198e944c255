"""Golden labels: what decides results may not change them without raising its REVISION.

For every module and every runner kind that declares a revision, ``golden.json`` records the revision and
the sha256 of what it makes of a fixed input. Nothing here has learned weights and no voxel lies near a
decision, so that another machine rounds to the same labels. After raising a revision, record anew::

    SEGNODE_RECORD_GOLDEN=1 python -m pytest tests/infer/test_golden.py
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from numpy.typing import NDArray

import node.infer
from node.domain.grid import Grid
from node.infer.kinds import KINDS
from node.infer.registry import default_models_folder, load_model
from node.infer.report import Stopwatch
from node.infer.revision import revision_of
from node.infer.run_context import fill, run_model
from node.infer.volume import Volume, read_volume
from tests.support.node_in_process import MODELS_PROBE
from tests.support.phantoms import Phantom
from tests.support.rooms import given_files, labels_of, room

GOLDEN = Path(__file__).with_name("golden.json")
RECORD = "SEGNODE_RECORD_GOLDEN"
SMALL = Phantom(shape=(6, 24, 28))

Arrays = list[NDArray[np.generic]]


def voxels(folder: Path) -> Arrays:
    """Voxels of every way to read them: as they lie, by a fraction, with padding, coded, oblique."""
    series = {
        "plain": SMALL,
        "fraction": replace(SMALL, attributes=(("RescaleSlope", 0.5),)),
        "padded": replace(
            SMALL, attributes=(("PixelPaddingValue", int(SMALL.hu_volume.min()) + 1024),)
        ),
        "oblique": replace(SMALL, plane="oblique", order="shuffled"),
    }
    arrays: Arrays = []
    for name, phantom in series.items():
        given = given_files(phantom, folder / name)
        volume, padding = fill(read_volume(given.stack, given.files), None)
        arrays.append(volume.array)
        if padding is not None:
            arrays.append(padding.where)
    return arrays


def of_model(name: str) -> Callable[[Path], Arrays]:
    folder = default_models_folder() if name == "ct_tissue" else MODELS_PROBE
    return lambda _: [labels_of(load_model(folder / name), Phantom())]


def head(values: NDArray[np.generic]) -> Volume:
    """A volume of 1 mm, whose voxels are those of any cube around it."""
    return Volume(
        array=values.astype(np.int16),
        grid=Grid(
            shape=values.shape,  # type: ignore[arg-type]
            origin_mm=(-19.5, -23.5, -21.5),
            steps_mm=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
            frame_of_reference_uid="2.25.5",
        ),
    )


def brightness() -> NDArray[np.int64]:
    """A lopsided thing of whole numbers: dark outside, 40 to 255 inside."""
    z, y, x = np.indices((44, 48, 40))
    inside = ((z - 22) / 19) ** 2 + ((y - 25) / 20) ** 2 + ((x - 19) / 16) ** 2 < 1
    return np.where(inside, 40 + (7 * (x // 5) + 11 * (y // 6) + 13 * (z // 4)) % 216, 0)


def by_head_network(folder: Path) -> Arrays:
    """A network of one layer that is a threshold."""
    pytest.importorskip("torch")
    from node.infer.brain.brainchop import Crop, head_labels
    from tests.infer.brain.networks import Written, model_json, write_network

    kernel = np.zeros((3, 3, 3, 1, 2), np.float32)
    kernel[1, 1, 1, 0, 1] = 1.0
    layer = Written(kernel, np.array([0.5019, 0.0], np.float32))  # between 127 and 129 of 255
    network = write_network(folder / "network", *model_json([layer]))
    found = head_labels(
        head(brightness()),
        network,
        crop=Crop(above=0.1, margin_mm=2),
        device="cpu",
        report=Stopwatch(),
    )
    return [found]


def by_brats(_: Path) -> Arrays:
    from node.infer.brain.brats import CHANNELS, gathered

    volumes = {role: head(brightness() + n) for n, role in enumerate(CHANNELS)}
    prepared = gathered(volumes, brightness() > 0, {})
    images = [np.rint(channel.array).astype(np.int16) for channel in prepared.channels]
    return [*images, prepared.back((images[0] > 128).astype(np.uint8))]


def by_template(folder: Path) -> Arrays:
    """A brain on a template that is the brain itself, and labels of blocks the way back."""
    import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that

    from node.infer.brain.template import onto_template

    volume = head(brightness())
    image = sitk.GetImageFromArray(volume.array.astype(np.float32))
    image.SetOrigin(volume.grid.origin_mm)
    sitk.WriteImage(image, str(folder / "template.nii.gz"))
    brain = volume.array > 0
    prepared = onto_template(volume, brain, folder / "template.nii.gz", report=Stopwatch())
    z, y, x = np.indices(volume.array.shape)
    blocks = (1 + x // 10 + 4 * (y // 12) + 16 * (z // 11)).astype(np.uint8)
    middle = (
        (x % 10 > 1) & (x % 10 < 8) & (y % 12 > 1) & (y % 12 < 10) & (z % 11 > 1) & (z % 11 < 9)
    )
    return [np.where(middle & brain, prepared.back(blocks), 0)]


def by_bundle(folder: Path) -> Arrays:
    pytest.importorskip("monai")
    from tests.support.bundles import threshold, write_bundle_model

    made = write_bundle_model(folder, "golden", threshold(-500.0))
    phantom = Phantom(shape=(12, 40, 44), plane="sagittal", noise_hu=0)
    inputs = {role: given_files(phantom, folder / role) for role in made.spec.inputs}
    place = room(folder, weights_dir=made.weights_dir)
    return [run_model(made.spec, inputs, place, Stopwatch()).labels]


def by_container(folder: Path) -> Arrays:
    from node.infer.container.outputs import OutputFile, read_outputs
    from tests.infer.container.made import segmentation, written
    from tests.support.segmentations import SEGMENTS, painted_boxes

    phantom = replace(SMALL, plane="oblique", order="reversed")
    given = given_files(phantom, folder / "series")
    path = written(segmentation(phantom, painted_boxes(phantom.stack)), folder)
    output = OutputFile(path, PurePosixPath("made.seg.dcm"))
    return [read_outputs([output], {"ct": given}, SEGMENTS, overlapping=False)]


MAKERS: Mapping[str, Callable[[Path], Arrays]] = {
    "node.infer.volume": voxels,
    "node.infer.ct_tissue": of_model("ct_tissue"),
    "node.infer.threshold": of_model("probe"),
    "node.infer.brain.brainchop": by_head_network,
    "node.infer.brain.brats": by_brats,
    "node.infer.brain.template": by_template,
    "python": of_model("boxes"),
    "monai_bundle": by_bundle,
    "container": by_container,
}


def revision(name: str) -> int:
    return KINDS[name].REVISION if name in KINDS else revision_of(name)


def digest(arrays: Arrays) -> str:
    """Of types, shapes and values, whatever lies where in memory."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


@pytest.mark.filterwarnings("ignore:::monai", "ignore:::torch")
@pytest.mark.parametrize("name", MAKERS)
def test_labels_change_only_with_the_revision(name: str, tmp_path: Path) -> None:
    arrays = MAKERS[name](tmp_path)
    now = {"revision": revision(name), "sha256": digest(arrays)}

    if os.environ.get(RECORD):
        known = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
        GOLDEN.write_text(json.dumps({**known, name: now}, indent=2, sort_keys=True) + "\n")
    recorded = json.loads(GOLDEN.read_text())[name]
    if now["sha256"] != recorded["sha256"] and now["revision"] == recorded["revision"]:
        pytest.fail(
            f"what {name} makes is not what it made: raise its REVISION, so that results are made"
            f" anew, then record it with {RECORD}=1"
        )
    assert now == recorded, f"the revision of {name} was raised: record it with {RECORD}=1"
    assert all(len(np.unique(array)) > 1 for array in arrays)


def test_everything_that_declares_a_revision_has_golden_labels() -> None:
    root = Path(node.infer.__file__).parent
    declared = {
        ".".join(("node.infer", *path.relative_to(root).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for path in root.rglob("*.py")
        if re.search(r"^REVISION = ", path.read_text(), re.MULTILINE)
    }

    assert declared | KINDS.keys() == MAKERS.keys()
