"""The application: STOW-RS, the API, the probes, behind one access check."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse

from node import __version__
from node.config import AuthConfig
from node.domain.errors import CursorInvalid
from node.observe.counts import MEDIA_TYPE, counted_in, exposed, exposed_health
from node.receive.stow import StowService
from node.web.access import AccessControl
from node.web.api import WebServices, make_router
from node.web.guard import Guard
from node.words import show_degraded, show_finding

DEFAULT_STOW_PREFIX = "/dicom-web"


def create_app(
    services: WebServices,
    *,
    auth: AuthConfig,
    hosts: Collection[str] = (),
    stow: StowService | None = None,
) -> FastAPI:
    """The whole HTTP face of the node as one application.

    Args:
        auth: Who may come in.
        hosts: Names by which the node is asked for; see ``Guard``.
        stow: The STOW-RS service to mount, or None where this process takes no instances.
    """
    application = FastAPI(
        title="segnode",
        version=__version__,
        openapi_url="/api/openapi.json",
        # the documentation pages of the framework load scripts from other sites
        docs_url=None,
        redoc_url=None,
    )
    application.add_exception_handler(RequestValidationError, _bad_request)
    application.add_exception_handler(CursorInvalid, _bad_cursor)
    application.include_router(make_router(services))
    _add_probes(application, services)
    _add_metrics(application, services)
    if stow is not None:
        application.mount(DEFAULT_STOW_PREFIX, stow.application)
    application.add_middleware(AccessControl, auth=auth)
    application.add_middleware(Guard, hosts=hosts, is_open=auth.kind == "none")
    return application


def _add_probes(application: FastAPI, services: WebServices) -> None:
    @application.head("/healthz", include_in_schema=False)
    @application.get("/healthz", tags=["health"])
    def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "alive"}

    @application.head("/readyz", include_in_schema=False)
    @application.get("/readyz", tags=["health"])
    def readyz() -> JSONResponse:
        """Whether instances are taken now (503 if not), and what needs a person."""
        health = services.health.health()
        status = "degraded" if health.findings else "ready"
        body = {
            "status": status if health.is_ready else "unready",
            "degraded": show_degraded(health),
            "findings": [show_finding(finding) for finding in health.findings],
        }
        return JSONResponse(body, status_code=200 if health.is_ready else 503)


def _add_metrics(application: FastAPI, services: WebServices) -> None:
    @application.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        """What is the matter, bounds that were reached and what was refused, as Prometheus reads it."""
        health = services.health.health()
        found = [(finding.code.value, finding.subject) for finding in health.findings]
        text = exposed(counted_in(services.counts_dir)) + exposed_health(health.is_ready, found)
        return PlainTextResponse(text, media_type=MEDIA_TYPE)


def _bad_request(_request: Request, error: Exception) -> JSONResponse:
    """Say which parameter is wrong without repeating what was sent."""
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    sentences = [f"{fault['loc'][-1]}: {fault['msg']}" for fault in faults]
    return JSONResponse({"detail": "; ".join(sentences)}, status_code=400)


def _bad_cursor(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=400)
