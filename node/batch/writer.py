"""From durable results to files in the output folder, in the forms that were asked for.

What lies there already is left as it is, so that filling the shelf again, after an interruption or
with another layout, writes only what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from node.batch.nifti import NIFTI_EXT, geometry_of, image_of, images_of, write_nifti
from node.batch.output_folder import OutputFolder, Product
from node.batch.request import Form
from node.domain.errors import JobFailed, SeriesUnusable
from node.infer.labels_file import read_labels
from node.infer.registry import ModelSpec
from node.jobs.catalog import JobCatalog
from node.jobs.values import LABELS
from node.pipeline.build import Plan
from node.pipeline.wiring import work_deps
from node.words import tell_all

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFiles:
    """The files of one job.

    Args:
        sentence: Why one that was asked for is not there; empty where all are.
    """

    seg: Path | None = None
    nifti: tuple[Path, ...] = ()
    sentence: str = ""


class ResultWriter:
    """The output folder of a run, filled job by job."""

    def __init__(
        self, current: Plan, engine: Engine, output: OutputFolder, forms: frozenset[Form]
    ) -> None:
        self._models = current.models
        self._results = current.results_folder
        self._files_of = work_deps(current, engine).files_of
        self._catalog = JobCatalog(engine)
        self._output = output
        self._forms = forms

    def fill(self, job_id: int) -> WrittenFiles:
        """Put the files of a done job where they belong; never raises for what a disk may do."""
        job = self._catalog.get_job(job_id)
        if job is None or job["model"] not in self._models:
            return WrittenFiles(sentence=f"job {job_id} is of a model that is not here")
        model = self._models[job["model"]]
        try:
            seg = self._seg(job, model) if Form.SEG in self._forms else None
            nifti = self._nifti(job, model) if Form.NIFTI in self._forms else ()
        except OSError as error:
            return WrittenFiles(
                sentence=f"cannot be written: {error.strerror or type(error).__name__}"
            )
        except SeriesUnusable as unusable:
            return WrittenFiles(sentence=tell_all(unusable.reasons))
        except (JobFailed, _NotPlaced) as error:
            return WrittenFiles(sentence=str(error))
        return WrittenFiles(seg=seg, nifti=tuple(nifti))

    def _seg(self, job: Row, model: ModelSpec) -> Path | None:
        made = object_of(job)
        if made is None:
            return None
        path = self._results / made["file_name"]
        uid = made["sop_instance_uid"]
        return self._placed(_product(job, model, path=path, identity=uid, output="seg", ext="dcm"))

    def _nifti(self, job: Row, model: ModelSpec) -> list[Path]:
        folder = self._results / str(job["id"])
        regions = images_of(model)
        products = [
            _product(
                job,
                model,
                path=folder / f"{number}.part.{NIFTI_EXT}",
                identity=f"segnode {job['job_key']}",
                output=LABELS,
                ext=ext,
            )
            for number, ext in enumerate(regions)
        ]
        found = [path for product in products if (path := self._output.find(product))]
        if len(found) == len(products):
            return found
        kept = next((one for one in job["results"] if one["form"] == LABELS), None)
        if kept is None:
            raise _NotPlaced("the label volume of the job is gone")
        labels, _ = read_labels(self._results / kept["file_name"])
        given = job["inputs"][model.grid_role]
        grid = geometry_of(self._files_of(given["series_instance_uid"], given["instances"]))
        placed = []
        for product in products:
            image = image_of(labels, regions[product.ext])
            write_nifti(product.path, image, grid, product.identity)
            placed.append(self._placed(product))
            product.path.unlink()
        return placed

    def _placed(self, product: Product) -> Path:
        found = self._output.find(product)
        if found is None:
            outcome = self._output.put(product)
            found = self._output.find(product)
            if found is None:
                raise _NotPlaced(outcome.sentence)
        return found


class _NotPlaced(Exception):
    """A file did not get to its place; the message says why."""


def object_of(job: Row) -> Row | None:
    """The DICOM object of a job, or None where nothing was found."""
    return next((one for one in job["results"] if one["sop_instance_uid"]), None)


def source_of(job: Row, model: ModelSpec) -> str:
    """Series Instance UID of the series whose grid the labels lie on."""
    return str(job["inputs"][model.grid_role]["series_instance_uid"])


def _product(
    job: Row, model: ModelSpec, *, path: Path, identity: str, output: str, ext: str
) -> Product:
    made = object_of(job)
    return Product(
        path=path,
        identity=identity,
        study_instance_uid=job["study_instance_uid"],
        series_instance_uid=source_of(job, model),
        sop_instance_uid=made["sop_instance_uid"] if made else job["job_key"][:32],
        model=model.name,
        output=output,
        ext=ext,
    )
