"""An optimized network is used only after its labels were the original's, and only for what it was.

There is no TensorRT here: MONAI's TorchScript export stands in for its TensorRT export, which has the
same command line and gives the same kind of file. What differs is who writes the kernels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monai")
pytest.importorskip("ignite")
pytest.importorskip("fire")

import torch
from monai.bundle import ckpt_export

from node.domain.errors import JobFailed
from node.domain.result import LabelArray
from node.infer.assets import sha256_of
from node.infer.bundle.optimize import (
    TensorRT,
    compare_labels,
    export_arguments,
    exporter_of,
    optimize,
)
from node.infer.bundle.spec import LOCK, Optimized, bundle_of, read_lock
from node.infer.registry import ModelSpec
from node.infer.report import Stopwatch
from node.infer.run_context import ModelOutput, SeriesInput, run_model
from tests.support.bundles import MADE_BUNDLES, BundleModel, write_bundle_model
from tests.support.phantoms import Phantom
from tests.support.rooms import given_files, room

pytestmark = pytest.mark.filterwarnings("ignore:::monai", "ignore:::torch")

VARIANT = "6mm"
PHANTOM = Phantom(shape=(16, 40, 42), spacing_mm=(10.0, 7.0, 7.0))


@dataclass(frozen=True, kw_only=True)
class TorchScript:
    """MONAI's ``ckpt_export``."""

    more: Mapping[str, object] = field(default_factory=dict)
    engine: str = "torchscript"

    def require(self, device: str) -> None:
        assert device == "cpu"

    def arguments(self, device: str) -> Mapping[str, object]:
        return {"use_trace": True, "input_shape": [1, 1, 32, 32, 32], **self.more}

    def export(self, arguments: Path, root: Path, log: Path) -> int:
        try:
            ckpt_export(args_file=str(arguments))
        except (KeyError, RuntimeError) as error:
            log.write_text(repr(error))
            return 1
        return 0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A bundle, a series, and a place to run one with the other."""

    made: BundleModel
    spec: ModelSpec
    inputs: Mapping[str, SeriesInput]
    folder: Path

    @property
    def network(self) -> Path:
        return self.made.root / "optimized" / f"{VARIANT}.ts"

    def optimize(self, exporter: TorchScript | None = None) -> Optimized:
        place = room(self.folder, weights_dir=self.made.weights_dir)
        for old in place.scratch.iterdir():
            old.rename(self.folder / f"old {len(list(self.folder.iterdir()))}")
        return optimize(
            self.spec, VARIANT, self.inputs, place, Stopwatch(), exporter or TorchScript()
        )

    def run(self, **parameters: object) -> tuple[ModelOutput, list[str]]:
        place, report = room(self.folder, weights_dir=self.made.weights_dir), Stopwatch()
        wanted = {"variant": VARIANT, **parameters}
        return run_model(self.spec, self.inputs, place, report, wanted), report.notes


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = write_bundle_model(tmp_path, "resampled", MADE_BUNDLES["resampled"]())
    (tmp_path / "series").mkdir()
    inputs = {"image": given_files(PHANTOM, tmp_path / "series")}
    return Bench(made=made, spec=made.spec, inputs=inputs, folder=tmp_path)


def test_what_agrees_is_recorded_and_used_and_gives_the_same_labels(bench: Bench) -> None:
    before, _ = bench.run()

    made = bench.optimize()

    after, notes = bench.run()
    assert made.accepted
    assert made.compared["lowest_dice"] > 0.999
    assert made.compared["labels"] >= 3
    assert set(made.compared["network_s"]) == {"original", "optimized"}
    assert made.made_with == {"device": "cpu", "torch": torch.__version__}
    assert notes == []
    assert after.ran["engine"] == "torchscript"
    assert "engine" not in before.ran
    assert np.mean(before.labels == after.labels) > 0.999


def test_a_job_may_do_without_it(bench: Bench) -> None:
    bench.optimize()

    for wish in ("off", False):
        assert "engine" not in bench.run(optimized=wish)[0].ran
    with pytest.raises(JobFailed, match="use auto or off"):
        bench.run(optimized="on")


def test_other_labels_are_refused_and_the_original_stays(bench: Bench) -> None:
    other = torch.load(bench.made.root / "models/model_low.pt", weights_only=True)
    noise = torch.Generator().manual_seed(5)
    shaken = {k: v + 0.2 * torch.randn(v.shape, generator=noise) for k, v in other.items()}
    torch.save(shaken, bench.folder / "shaken.pt")
    exporter = TorchScript(more={"ckpt_file": str(bench.folder / "shaken.pt")})

    with pytest.raises(JobFailed, match=r"Dice 0\.\d+ for Structure \d, at least 0.99") as refusal:
        bench.optimize(exporter)

    assert refusal.value.permanent
    assert not bench.network.exists()
    assert read_lock(bench.made.root) == {}
    assert "engine" not in bench.run()[0].ran


def test_an_export_that_fails_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(JobFailed, match=r"export of resampled failed \(exit code 1\)"):
        bench.optimize(TorchScript(more={"net_id": "no_such_part"}))

    assert read_lock(bench.made.root) == {}


def test_a_sample_without_structures_proves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = np.zeros((4, 4, 4), np.uint8)
    monkeypatch.setattr(
        "node.infer.bundle.optimize.run_model",
        lambda spec, inputs, place, report, parameters: ModelOutput(
            labels=empty,
            ran={"variant": VARIANT}
            | ({"engine": "x"} if parameters["optimized"] == "candidate" else {}),
        ),
    )

    with pytest.raises(JobFailed, match="neither network finds anything"):
        bench.optimize()


def test_a_network_that_was_not_compared_is_not_used(bench: Bench) -> None:
    made = bench.optimize()
    lock = bench.made.root / LOCK
    body = json.loads(lock.read_text())
    body[VARIANT]["accepted"] = False
    lock.write_text(json.dumps(body))

    produced, notes = bench.run()

    assert made.accepted
    assert "engine" not in produced.ran
    assert notes == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"made_with": {"device": "NVIDIA A100", "torch": torch.__version__}},
            "with device NVIDIA",
        ),
        ({"made_with": {"device": "cpu", "torch": "1.0"}}, "with torch 1.0, here is"),
        ({"model_digest": "0"}, "the model, or segnode, changed"),
        ({"weights_sha256": "0"}, "made of other weights"),
        ({"sha256": "0"}, "missing or changed"),
        ({"file": "optimized/none.ts"}, "missing or changed"),
    ],
    ids=["device", "torch", "model", "weights", "content", "file"],
)
def test_whatever_changed_since_puts_the_original_in_its_place(
    bench: Bench, change: dict[str, object], sentence: str
) -> None:
    weights = bundle_of(bench.spec, VARIANT, bench.made.weights_dir).weights
    bench.network.parent.mkdir()
    bench.network.write_bytes(b"a network")
    entry = {
        "file": f"optimized/{bench.network.name}",
        "sha256": sha256_of(bench.network),
        "weights_sha256": sha256_of(weights),
        "model_digest": bench.spec.digest,
        "engine": "torchscript",
        "made_with": {"device": "cpu", "torch": torch.__version__},
        "accepted": True,
        "compared": {},
    }
    (bench.made.root / LOCK).write_text(json.dumps({VARIANT: entry | change}))

    produced, notes = bench.run()

    assert "engine" not in produced.ran
    assert len(notes) == 1
    assert sentence in notes[0]
    assert "segnode models optimize resampled" in notes[0]


def test_tensorrt_says_all_that_is_missing() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")

    with pytest.raises(JobFailed, match="no CUDA GPU can be used"):
        TensorRT(precision="fp16", options={}).require("cuda")


def test_the_export_is_told_what_the_publisher_says(bench: Bench) -> None:
    options = {"use_onnx": True, "dynamic_batchsize": [1, 4, 8]}
    bundle = bundle_of(bench.spec, VARIANT, bench.made.weights_dir)

    told = export_arguments(
        bundle, Path("made.ts"), TensorRT(precision="fp16", options=options), "cuda:1"
    )

    assert told["highres"] is False  # the variant's own override
    assert str(told["ckpt_file"]).endswith("models/model_low.pt")
    assert (told["net_id"], told["filepath"]) == ("network_def", "made.ts")
    assert (told["precision"], told["device"]) == ("fp16", 1)
    assert told["dynamic_batchsize"] == [1, 4, 8]


def test_monais_own_trt_export_takes_what_it_is_told_as_far_as_a_gpu_is_needed(
    bench: Bench,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    bundle = bundle_of(bench.spec, VARIANT, bench.made.weights_dir)
    exporter = TensorRT(precision="fp16", options={"input_shape": [1, 1, 32, 32, 32]})
    path, log = bench.folder / "arguments.json", bench.folder / "log"
    path.write_text(json.dumps(export_arguments(bundle, bench.folder / "x.ts", exporter, "cuda")))

    code = exporter.export(path, bench.made.root, log)

    assert code != 0
    assert "Cannot find any GPU devices" in log.read_text()


def test_a_model_that_names_no_export_is_not_exported(bench: Bench) -> None:
    with pytest.raises(JobFailed, match=r"has no runner\.trt_export"):
        exporter_of(bench.spec, "fp16")


def labels(*values: int) -> LabelArray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_dice_is_of_each_label_that_either_holds() -> None:
    agreement = compare_labels(labels(0, 1, 1, 1, 2), labels(1, 1, 1, 0, 3), overlapping=False)

    assert agreement.dice == {1: pytest.approx(2 / 3), 2: 0.0, 3: 0.0}
    assert agreement.lowest[1] == 0.0
    assert agreement.equal == pytest.approx(2 / 5)


def test_dice_of_regions_is_of_their_bits() -> None:
    agreement = compare_labels(labels(0b11, 0b01, 0b00), labels(0b01, 0b01, 0b10), overlapping=True)

    assert agreement.dice == {1: 1.0, 2: 0.0}


def test_two_empty_arrays_have_no_label_to_compare() -> None:
    assert compare_labels(labels(0, 0), labels(0, 0), overlapping=False).dice == {}
