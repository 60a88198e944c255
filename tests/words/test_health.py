"""Every code of health has words, what to do, and a line of docs/health.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from node.domain.health import Finding, Health, HealthCode
from node.words import show_degraded, show_finding, tell_finding

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "health.md").read_text("utf-8")
FACTS = {
    "told": "said",
    "how": "SIGKILL",
    "times": 2,
    "loop": "settle",
    "seconds": 9,
    "count": 10_000,
    "used_gb": 4.5,
    "most_gb": 5.0,
    "minutes": 70,
    "failures": 3,
    "ahead_s": -3600,
    "name": "CN=node",
    "ends": "2027-01-01",
    "days": 3,
}


@pytest.mark.parametrize("code", HealthCode)
def test_every_code_says_what_is_the_matter_and_what_to_do(code: HealthCode) -> None:
    shown = show_finding(Finding(code, "subject", FACTS))

    assert shown["sentence"]
    assert shown["do"]
    assert "{" not in shown["sentence"] + shown["do"]


def test_the_page_has_every_code_and_no_other() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(HealthCode)


def test_a_certificate_that_ended_is_told_as_that() -> None:
    finding = Finding(HealthCode.CERTIFICATE, "web.tls", {**FACTS, "days": -1})

    assert "ended on 2027-01-01" in tell_finding(finding)


def test_findings_of_one_code_are_told_one_after_the_other() -> None:
    sick = [Finding(HealthCode.DESTINATION_SICK, name, {"failures": 1}) for name in ("a", "b")]

    (told,) = show_degraded(Health(tuple(sick))).values()

    assert told.index("destination a") < told.index("destination b")


def test_one_receiving_process_of_several_is_enough() -> None:
    away = [Finding(HealthCode.ROLE_GONE, f"receive {n}", FACTS) for n in (1, 2)]
    crew = ("receive 1", "receive 2")

    assert Health(tuple(away[:1]), crew).is_ready
    assert not Health(tuple(away), crew).is_ready
