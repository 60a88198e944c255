"""A rule operator is one file (``starts_with``) and one line in ``OPERATORS``."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from node.domain.header import Header
from node.route import conditions
from node.route.compiling import compile_rule
from node.route.conditions import Truth
from node.route.contradiction import contradiction
from node.route.rules import Rule, explain
from tests.cli.conftest import Segnode, segnode
from tests.promises.starts_with import StartsWith
from tests.support.phantoms import Phantom

__all__ = ["segnode"]

AXIAL = {"SeriesDescription": {"starts": "Axial"}}


@pytest.fixture(autouse=True)
def _the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "OPERATORS", {**conditions.OPERATORS, "starts": StartsWith})
    monkeypatch.setattr("node.route.compiling.OPERATORS", conditions.OPERATORS)


def write_config(folder: Path, rule: dict[str, object]) -> None:
    (folder / "node.yaml").write_text(yaml.safe_dump({"data_dir": "data", "rules": [rule]}))


def rule(**when: object) -> Rule:
    compiled = compile_rule(name="axial", when=when, study=None, path="rules.0")
    assert isinstance(compiled, Rule)
    return compiled


@pytest.mark.parametrize(
    ("description", "truth"),
    [("AXIAL T1", Truth.TRUE), ("T1 axial", Truth.FALSE), (None, Truth.UNKNOWN)],
)
def test_it_is_judged_in_three_values(description: str | None, truth: Truth) -> None:
    header = Header({} if description is None else {"SeriesDescription": (description,)})

    assert explain(rule(**AXIAL), header).truth is truth


def test_a_rule_that_it_makes_impossible_is_told_in_its_words() -> None:
    both = rule(**AXIAL, Modality="CT").condition
    accepted = rule(SeriesDescription="coronal").condition

    assert contradiction(both, accepted, model="m") == (
        "rule asks for SeriesDescription {starts: Axial}, model m accepts coronal"
    )


def test_the_configuration_takes_it_and_finds_its_mistakes(
    segnode: Segnode, tmp_path: Path
) -> None:
    good = {"name": "axial", "when": AXIAL, "run": "ct_tissue", "send": []}
    write_config(tmp_path, good)
    assert segnode("check-config", "node.yaml").code == 0

    write_config(tmp_path, {**good, "when": {"SeriesDescription": {"starts": 3}}})

    answer = segnode("check-config", "node.yaml")
    assert answer.code == 2
    assert "rules.0.when.SeriesDescription.starts" in answer.out + answer.err


def test_explain_shows_the_clause(segnode: Segnode, tmp_path: Path) -> None:
    write_config(tmp_path, {"name": "axial", "when": AXIAL, "run": "ct_tissue", "send": []})
    Phantom(attributes=(("SeriesDescription", "axial thin"),)).write(tmp_path / "ct")

    answer = segnode("explain", "ct", "--config", "node.yaml")

    assert answer.code == 0
    assert "SeriesDescription: {starts: Axial}" in answer.out
