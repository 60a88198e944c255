"""The REST API below /api/v1: what the node holds, and the few things an operator may do.

Lists answer ``{"items": [...], "limit": n, "next": cursor or null, "total": n, "total_is_exact": true}``,
newest first; the page that follows is asked for with ``after=<next>``. A list of more than ``COUNTED``
rows says so with ``total_is_exact``. Actions answer 204, 404 for what is not there, 409 with a sentence
where the state does not allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, JSONResponse
from pydantic_core import to_json

from node import words
from node.database.pages import Page, page_by_name
from node.domain.errors import NodeError, TryLater
from node.jobs.catalog import JobCatalog
from node.modelstore.catalog import ModelCatalog
from node.process.admin import Admin
from node.process.health import NodeHealth
from node.spool.catalog import SpoolCatalog

Limit: TypeAlias = Annotated[int, Query(ge=1, le=1000)]
After: TypeAlias = Annotated[
    str | None, Query(max_length=512, description="`next` of the page before; none: the first page")
]
Text: TypeAlias = Annotated[str | None, Query(max_length=128, pattern="^[ -~]*$")]
Number: TypeAlias = Annotated[int, PathParameter(ge=0, lt=2**63)]
Uid: TypeAlias = Annotated[str, PathParameter(pattern=r"^[0-9.]{1,64}$")]
Name: TypeAlias = Annotated[str, PathParameter(pattern=r"^[!-~]{1,128}$")]
Row: TypeAlias = Mapping[str, Any]
Key = TypeVar("Key")


class Json(JSONResponse):
    """What a catalog shows: plain already, so that the framework need not look at each value.

    A number of a header that is none is null.
    """

    def render(self, content: Any) -> bytes:
        try:
            return super().render(content)
        except ValueError:
            return to_json(content, inf_nan_mode="null")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebServices:
    """All that the web part is given: catalogs of what the node holds, and what acts or judges."""

    spool: SpoolCatalog
    jobs: JobCatalog
    models: ModelCatalog
    actions: Admin
    health: NodeHealth
    results_dir: Path
    counts_dir: Path


def make_router(services: WebServices) -> APIRouter:
    """All routes of the API."""
    router = APIRouter(prefix="/api/v1")
    _add_series(router, services)
    _add_jobs(router, services)
    _add_results(router, services)
    _add_deliveries(router, services)
    _add_quarantine(router, services)
    _add_models(router, services)
    return router


def _add_series(router: APIRouter, services: WebServices) -> None:
    spool, actions = services.spool, services.actions

    @router.get("/series", tags=["series"])
    def list_series(
        state: Text = None, study: Text = None, limit: Limit = 100, after: After = None
    ) -> Response:
        """Series, the last received first."""
        page = spool.list_series(state=state, study_instance_uid=study, limit=limit, after=after)
        return _listing(page, limit, words.show_series)

    @router.get("/series/{uid}", tags=["series"])
    def get_series(uid: Uid) -> Response:
        """One series with its header, geometry findings, instances and what rules made of it."""
        row = _found(spool.get_series(uid))
        found = services.jobs.matches_of_series(uid, row["study_instance_uid"])
        matches = [words.show_match(each) for each in found]
        return Json({**words.show_series(row), "matches": matches})

    @router.post("/series/{uid}/proceed", status_code=204, tags=["series"])
    def proceed(uid: Uid) -> Response:
        """Take a held series as complete."""
        return _act(spool.get_series, actions.proceed_series, uid)

    @router.post("/series/{uid}/rerun", status_code=204, tags=["series"])
    def rerun(uid: Uid) -> Response:
        """Apply the rules and run the models again."""
        return _act(spool.get_series, actions.rerun_series, uid)

    @router.post("/series/{uid}/discard", status_code=204, tags=["series"])
    def discard(uid: Uid) -> Response:
        """Give a series up."""
        return _act(spool.get_series, actions.discard_series, uid)


def _add_jobs(router: APIRouter, services: WebServices) -> None:
    jobs, actions = services.jobs, services.actions

    @router.get("/jobs", tags=["jobs"])
    def list_jobs(
        state: Text = None, study: Text = None, limit: Limit = 100, after: After = None
    ) -> Response:
        """Jobs, the newest first."""
        page = jobs.list_jobs(state=state, study_instance_uid=study, limit=limit, after=after)
        return _listing(page, limit, words.show_job)

    @router.get("/jobs/{job_id}", tags=["jobs"])
    def get_job(job_id: Number) -> Response:
        """One job with its inputs, matches, results and deliveries."""
        return Json(words.show_job(_found(jobs.get_job(job_id))))

    @router.post("/jobs/{job_id}/retry", status_code=204, tags=["jobs"])
    def retry_job(job_id: Number) -> Response:
        """Queue a failed, parked or cancelled job again."""
        return _act(jobs.get_job, actions.retry_job, job_id)

    @router.post("/jobs/{job_id}/accept", status_code=204, tags=["jobs"])
    def accept_job(job_id: Number) -> Response:
        """Take an implausible result all the same, so that it is delivered."""
        return _act(jobs.get_job, actions.accept_job, job_id)

    @router.post("/jobs/{job_id}/cancel", status_code=204, tags=["jobs"])
    def cancel_job(job_id: Number) -> Response:
        """Stop a job."""
        return _act(jobs.get_job, actions.cancel_job, job_id)


def _add_results(router: APIRouter, services: WebServices) -> None:
    jobs = services.jobs

    @router.get("/results", tags=["results"])
    def list_results(
        state: Text = None, study: Text = None, limit: Limit = 100, after: After = None
    ) -> Response:
        """Results, the newest first."""
        page = jobs.list_results(state=state, study_instance_uid=study, limit=limit, after=after)
        return _listing(page, limit)

    @router.get("/results/{result_id}", tags=["results"])
    def get_result(result_id: Number) -> Response:
        """One result: segments, volumes, identity."""
        return Json(_found(jobs.get_result(result_id)))

    @router.get("/results/{result_id}/file", tags=["results"], response_class=FileResponse)
    def get_result_file(result_id: Number) -> FileResponse:
        """The file of a result: a DICOM object, or the label volume it was made of."""
        row = _found(jobs.get_result(result_id))
        path = _result_path(services.results_dir, row)
        is_dicom = bool(row["sop_instance_uid"])
        return FileResponse(
            path,
            media_type="application/dicom" if is_dicom else "application/octet-stream",
            filename=f"{row['sop_instance_uid']}.dcm" if is_dicom else path.name,
        )


def _add_deliveries(router: APIRouter, services: WebServices) -> None:
    jobs, actions = services.jobs, services.actions

    @router.get("/deliveries", tags=["deliveries"])
    def list_deliveries(
        state: Text = None, destination: Text = None, limit: Limit = 100, after: After = None
    ) -> Response:
        """Deliveries with what they deliver, the newest first."""
        page = jobs.list_deliveries(state=state, destination=destination, limit=limit, after=after)
        return _listing(page, limit, words.show_delivery)

    @router.get("/deliveries/{delivery_id}", tags=["deliveries"])
    def get_delivery(delivery_id: Number) -> Response:
        """One delivery."""
        return Json(words.show_delivery(_found(jobs.get_delivery(delivery_id))))

    @router.post("/deliveries/{delivery_id}/retry", status_code=204, tags=["deliveries"])
    def retry_delivery(delivery_id: Number) -> Response:
        """Send again now, also what is blocked."""
        return _act(jobs.get_delivery, actions.retry_delivery, delivery_id)


def _add_quarantine(router: APIRouter, services: WebServices) -> None:
    spool, actions = services.spool, services.actions

    @router.get("/quarantine", tags=["quarantine"])
    def list_quarantine(state: Text = None, limit: Limit = 100, after: After = None) -> Response:
        """Refused instances that are kept aside, the newest first."""
        page = spool.list_quarantine(state=state, limit=limit, after=after)
        return _listing(page, limit)

    @router.get("/quarantine/{quarantine_id}", tags=["quarantine"])
    def get_quarantine(quarantine_id: Number) -> Response:
        """One refused instance and why."""
        return Json(_found(spool.get_quarantine(quarantine_id)))

    @router.post("/quarantine/{quarantine_id}/accept", status_code=204, tags=["quarantine"])
    def accept(quarantine_id: Number) -> Response:
        """Take the instance after all."""
        return _act(spool.get_quarantine, actions.accept_quarantine, quarantine_id)

    @router.post("/quarantine/{quarantine_id}/discard", status_code=204, tags=["quarantine"])
    def discard(quarantine_id: Number) -> Response:
        """Delete the kept bytes."""
        return _act(spool.get_quarantine, actions.discard_quarantine, quarantine_id)


def _add_models(router: APIRouter, services: WebServices) -> None:
    models = services.models

    @router.get("/models", tags=["models"])
    def list_models(limit: Limit = 100, after: After = None) -> Response:
        """The models of this node, by name."""
        return _listing(page_by_name(models.list_models(), limit, after), limit)

    @router.get("/models/{name}", tags=["models"])
    def get_model(name: Name) -> Response:
        """One model: inputs, outputs, card."""
        return Json(_found(models.get_model(name)))


def _listing(page: Page, limit: int, show: Callable[[Row], Row] = dict) -> Response:
    """One page of rows.

    Args:
        show: Puts a row into words, where it has reasons.
    """
    return Json(
        {
            "items": [show(row) for row in page.rows],
            "limit": limit,
            "next": page.next,
            "total": page.total,
            "total_is_exact": page.total_is_exact,
        }
    )


def _found(row: Row | None) -> Row:
    if row is None:
        raise HTTPException(404, "not found")
    return row


def _act(get: Callable[[Key], Row | None], act: Callable[[Key], None], key: Key) -> Response:
    """Do something to what exists, and say how it went."""
    _found(get(key))
    try:
        act(key)
    except TryLater as short:
        raise HTTPException(503, str(short), headers={"Retry-After": "10"}) from short
    except NodeError as refused:
        raise HTTPException(409, str(refused)) from refused
    return Response(status_code=204)


def _result_path(results_dir: Path, row: Row) -> Path:
    root = results_dir.resolve()
    path = (root / str(row["file_name"])).resolve()
    if row["state"] == "deleted" or not path.is_relative_to(root) or not path.is_file():
        raise HTTPException(410, "the file of this result is no longer kept")
    return path
