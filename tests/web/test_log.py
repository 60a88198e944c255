"""Logs name no patient: query strings stay out of them."""

from __future__ import annotations

import logging

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.support.http_server import serving


def answer(_request: object) -> PlainTextResponse:
    return PlainTextResponse("ok")


def test_the_access_log_has_the_path_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uvicorn.access")

    with serving(Starlette(routes=[Route("/api", answer)])) as site:
        site.request("GET", "/api?PatientName=M%C3%BCller")

    assert '"GET /api HTTP/1.1" 200' in caplog.text
    assert "ller" not in caplog.text


def test_a_very_long_path_is_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uvicorn.access")

    with serving(Starlette(routes=[])) as site:
        site.request("GET", "/" + "x" * 5000)

    assert "x" * 100 in caplog.text
    assert "x" * 300 not in caplog.text
