"""What lies in the output folder of what was asked for, and what is still to be put there.

Results travel there as they do to any destination. What lies there already is left as it is, so that
the same run again, after an interruption or with another layout or form, writes only what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from node.batch.output_folder import OUTPUT, OutputFolder
from node.infer.registry import ModelSpec
from node.jobs.outbox import Outbox
from node.jobs.results import ResultStore
from node.jobs.store import JobStore
from node.jobs.values import StoredResult
from node.pipeline.build import Plan
from node.pipeline.deliver import deliverable_of
from node.pipeline.forms.form import forms_taken

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFiles:
    """The files of one job that lie in the output folder.

    Args:
        files: Form and path of each.
        sentence: Why one that was asked for is not there; empty where all are.
    """

    files: tuple[tuple[str, Path], ...] = ()
    sentence: str = ""


class ResultWriter:
    """The output folder of a run, and the results that belong into it."""

    def __init__(self, current: Plan, engine: Engine, output: OutputFolder) -> None:
        self._models = current.models
        self._folder = current.results_folder
        self._results = ResultStore(engine)
        self._jobs = JobStore(engine)
        self._taken = forms_taken({OUTPUT: output})
        self._outbox = Outbox(engine, current.config.digest, taken=self._taken)
        self._output = output

    def ask(self, job: Row) -> None:
        """Have those files of a done job delivered that do not lie in the folder."""
        if job["model"] not in self._models:
            return
        self._jobs.give(job["id"], [OUTPUT], self._taken)
        for made in self._wanted(job["id"]):
            if self._find(job, made) is None:
                self._outbox.send(made.id, OUTPUT)

    def written(self, job: Row) -> WrittenFiles:
        files, sentences = [], []
        told = {one["result_id"]: one["sentence"] for one in job["deliveries"]}
        for made in self._wanted(job["id"]):
            path = self._find(job, made)
            if path is None:
                sentences.append(told.get(made.id) or "the file is gone from the output folder")
            else:
                files.append((made.file.form, path))
        return WrittenFiles(files=tuple(files), sentence="; ".join(dict.fromkeys(sentences)))

    def _wanted(self, job_id: int) -> list[StoredResult]:
        """Files of a job in the forms that this run asks for."""
        return [
            made
            for made in self._results.files_of(job_id)
            if made.file.form in self._taken.of(OUTPUT)
        ]

    def _find(self, job: Row, made: StoredResult) -> Path | None:
        source = source_of(job, self._models[job["model"]])
        return self._output.find(
            deliverable_of(made.file, job["model"], self._folder, source=source)
        )


def source_of(job: Row, model: ModelSpec) -> str:
    """Series Instance UID of the series whose grid the labels lie on."""
    return str(job["inputs"][model.grid_role]["series_instance_uid"])
