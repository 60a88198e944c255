"""Jobs as the work process has its warm child do them, and how far their labels agree."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from node.domain.result import LabelArray, Provenance
from node.infer.labels_file import read_labels
from node.infer.runner import Failed, Finished, Noted, Runner, StageFinished
from node.pipeline.execute_job import JobOrder
from tests.bench import gpu_inputs
from tests.bench.gpu_inputs import Files, Model
from tests.bench.report import Goal
from tests.support.phantoms import Phantom

CHILD = "tests.bench.gpu_child"
_LIBRARIES_GB = 2.0  # as the worker allows its child on a CPU
_FEW_VOXELS = 2000  # the Dice of fewer says little


class NotMeasured(Exception):
    """Why a figure is missing."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job of a model over series that are there."""

    model: Model
    inputs: Mapping[str, Files]
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came of a job."""

    seconds: float
    stages: Mapping[str, float]
    notes: Sequence[str]
    answer: Mapping[str, Any]
    labels: LabelArray
    card: Mapping[str, float]

    def row(self) -> dict[str, float | str]:
        """Its time, whole and by stage, and what it took of the card."""
        between = self.seconds - sum(self.stages.values())
        return {"total s": self.seconds, **self.stages, "between": between, **self.card}


@dataclass(kw_only=True)
class Sheet:
    """What a part writes down as it goes: it may end early."""

    rows: list[dict[str, float | str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)


@dataclass(kw_only=True)
class Bench:
    """What the parts share: one warm child of the device, series, labels of earlier jobs."""

    folder: Path
    series: Path
    device: str
    is_quick: bool
    child: Runner
    ends_at: float = 0.0
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def has_card(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def left_s(self) -> float:
        """Of this part."""
        return min(3600.0, max(1.0, self.ends_at - time.perf_counter()))

    # --- jobs ------------------------------------------------------------------------------------

    @property
    def phantom(self) -> Phantom:
        return gpu_inputs.torso(gpu_inputs.QUICK_TORSO if self.is_quick else gpu_inputs.TORSO)

    @cached_property
    def torso(self) -> Files:
        return gpu_inputs.written(self.phantom, self.series / "torso", nifti=self.nifti)

    @property
    def nifti(self) -> Path:
        return self.series / "cases" / "imagesTs" / "ct.nii.gz"

    def whole_body(self, variant: str, **parameters: str) -> Job:
        return Job(
            model=gpu_inputs.published("wholebody_ct", self.folder),
            inputs={"ct": self.torso},
            parameters={"variant": variant, **parameters},
        )

    def run(self, job: Job, child: Runner | None = None) -> Run:
        """Do a job to its end.

        Raises:
            NotMeasured: It failed, or passed the limit of its part.
        """
        (done,) = self.run_together([(job, child or self.child)])
        return done

    def run_together(self, pairs: Sequence[tuple[Job, Runner]]) -> list[Run]:
        """Jobs at once, each in its own child; the time of each is that until it ends."""
        with TemporaryDirectory(dir=self.folder) as name:
            folders = [Path(name) / str(number) for number in range(len(pairs))]
            asked = []
            for (job, child), folder in zip(pairs, folders, strict=True):
                memory_gb = job.model.spec.resources.memory_gb + _LIBRARIES_GB
                memory_bytes = None if self.has_card else int(memory_gb * 2**30)
                asked.append(
                    Asked(child, f"{CHILD}:run", _order(job, folder), self.left_s, memory_bytes)
                )
            while sum(each.look() for each in asked) < len(asked):  # no one waits for another
                pass
            return [each.as_run(folder) for each, folder in zip(asked, folders, strict=True)]

    def ask(self, target: str, **request: Any) -> Mapping[str, Any]:
        """Have the warm child do something besides jobs."""
        asked = Asked(self.child, f"{CHILD}:{target}", request, self.left_s)
        while not asked.look():
            pass
        return asked.result()


class Asked:
    """A request that a child works on."""

    def __init__(
        self,
        child: Runner,
        target: str,
        request: Mapping[str, Any],
        limit_s: float,
        memory_bytes: int | None = None,
    ) -> None:
        self._child = child
        self._began = time.perf_counter()
        self._stages: dict[str, float] = {}
        self._notes: list[str] = []
        self._ended: Finished | Failed | None = None
        self.seconds = 0.0
        child.start(target, request, deadline_s=limit_s, memory_bytes=memory_bytes)

    def look(self) -> bool:
        """Whether it has ended; waits a little for that."""
        if self._ended is None:
            for event in self._child.poll(0.01):
                match event:
                    case StageFinished(name=name, seconds=seconds):
                        self._stages[name] = self._stages.get(name, 0.0) + seconds
                    case Noted(sentence=sentence):
                        self._notes.append(sentence)
                    case Finished() | Failed():
                        self._ended = event
                        self.seconds = time.perf_counter() - self._began
        return self._ended is not None

    def result(self) -> Mapping[str, Any]:
        """
        Raises:
            NotMeasured: It failed.
        """
        if isinstance(self._ended, Finished):
            return self._ended.result
        assert self._ended is not None, "asked too early"
        at = self._ended.detail.strip().splitlines()[-2:]
        raise NotMeasured(" ".join([self._ended.sentence, *at]))

    def as_run(self, folder: Path) -> Run:
        """What came of it; the files of the job are read before they go."""
        answer = dict(self.result())
        labels, _ = read_labels(folder / answer["labels"]["file_name"])
        return Run(
            seconds=self.seconds,
            stages=self._stages,
            notes=self._notes,
            card=answer.pop("card"),
            answer=answer,
            labels=labels,
        )


def _order(job: Job, folder: Path) -> dict[str, Any]:
    """What the work process tells its child."""
    spec = job.model.spec
    return JobOrder(
        job_key="bench",
        model_folder=spec.folder,
        model_digest=spec.digest,
        parameters=job.parameters,
        inputs=job.inputs,
        folder=folder,
        weights_dir=job.model.weights_dir,
        forms=("seg",),
        provenance=Provenance(
            model_name=spec.name,
            model_version=spec.version,
            model_digest=spec.digest,
            weights_digest=spec.weights_digest,
            node_version="bench",
            config_digest="bench",
            series_number=1001,
            content_date="20260101",
            content_time="000000",
        ),
    ).to_json()


# --- agreement -----------------------------------------------------------------------------------


def differing(first: LabelArray, second: LabelArray) -> dict[str, float]:
    """Share of voxels that differ, and the Dice of each label that is no speck: mean and least."""
    size = int(max(first.max(), second.max())) + 1
    both, ones, others = (np.zeros(size, np.int64) for _ in range(3))
    equal = 0
    for one, other_one in zip(first, second, strict=True):
        same = one == other_one
        equal += int(np.count_nonzero(same))
        both += np.bincount(one[same], minlength=size)
        ones += np.bincount(one.ravel(), minlength=size)
        others += np.bincount(other_one.ravel(), minlength=size)
    found = {"differing": 1 - equal / first.size}
    large = np.flatnonzero(ones + others > 2 * _FEW_VOXELS)
    dice = [2 * both[n] / (ones[n] + others[n]) for n in large.tolist() if n]
    if dice:
        found |= {"mean Dice": float(np.mean(dice)), "least Dice": float(min(dice))}
    return found


def told(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in found.items())
