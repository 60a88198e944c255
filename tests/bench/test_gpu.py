"""The measurement on a card, rehearsed without one: its jobs, its figures, its failures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from node.infer.runner import Runner
from tests.bench import gpu, gpu_inputs
from tests.bench.gpu_jobs import Bench, Job, NotMeasured, Sheet, differing
from tests.bench.report import Report
from tests.support.bundles import resampled, write_bundle_model

pytest.importorskip("monai")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("gpu")
    with Runner(device="cpu") as child:
        yield Bench(
            folder=folder, series=folder, device="cpu", is_quick=True, child=child, ends_at=inf
        )


@pytest.fixture(scope="module")
def job(bench: Bench) -> Job:
    made = write_bundle_model(bench.folder, "small", resampled())
    phantom = replace(gpu_inputs.SMALL, shape=(12, 24, 24))
    files = gpu_inputs.written(phantom, bench.series / "series")
    return Job(
        model=gpu_inputs.Model(spec=made.spec, weights_dir=made.weights_dir),
        inputs={"image": files},
    )


def test_a_job_goes_from_files_to_a_verified_seg(bench: Bench, job: Job) -> None:
    first, second = bench.run(job), bench.run(job)

    assert second.labels.shape == (12, 24, 24)
    assert {"headers", "read", "network", "encode", "verify"} <= second.stages.keys()
    assert 0 < sum(second.stages.values()) < second.seconds < first.seconds
    assert differing(first.labels, second.labels)["differing"] == 0


def test_jobs_run_at_once_in_children_of_their_own(bench: Bench, job: Job) -> None:
    with Runner(device="cpu") as second:
        one, other = bench.run_together([(job, bench.child), (job, second)])

    np.testing.assert_array_equal(one.labels, other.labels)


def test_a_job_that_fails_says_why(bench: Bench, job: Job) -> None:
    asked = replace(job, parameters={"precision": "fp7"})

    with pytest.raises(NotMeasured, match="no precision 'fp7'"):
        bench.run(asked)


def test_a_part_that_fails_leaves_what_it_had(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(_: Bench, sheet: Sheet) -> None:
        sheet.rows.append({"s": 1.0})
        raise NotMeasured("the card is gone")

    monkeypatch.setattr(gpu, "PARTS", {"one": (9.0, "one part", part)})

    report = gpu._measured("one", bench, inf)

    assert report.rows == [{"s": 1.0}]
    assert "the card is gone" in report.notes[0]


def test_labels_are_compared_by_voxel_and_by_structure() -> None:
    first = np.zeros((10, 100, 100), np.uint16)
    first[:5] = 300
    second = first.copy()
    second[5] = 300

    found = differing(first, second)

    assert found["differing"] == pytest.approx(0.1)
    assert found["least Dice"] == found["mean Dice"] == pytest.approx(10 / 11)


def test_the_torso_is_that_of_the_other_benchmarks() -> None:
    from tests.bench.bench_bundle import _torso

    phantom = gpu_inputs.torso((6, 40, 48))
    gpu_inputs._fill(phantom)

    np.testing.assert_array_equal(phantom.hu_volume, _torso((6, 40, 48)).hu_volume)


def test_a_report_is_a_markdown_table() -> None:
    report = Report(part="gpu", title="jobs", rows=[{"job": "warm", "s": 2.5}], notes=["no card"])

    assert gpu.markdown(report).split("\n") == [
        "",
        "### gpu: jobs",
        "",
        "| job | s |",
        "| --- | --- |",
        "| warm | 2.5 |",
        "",
        "- no card",
    ]
