"""A derived attribute is one file (``series_description_length``) and one line in ``DERIVED``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from node.domain import derived
from node.route.attributes import find_attribute
from tests.cli.conftest import Segnode, segnode
from tests.promises.series_description_length import NAME_LENGTH
from tests.support.phantoms import Phantom

__all__ = ["segnode"]


@pytest.fixture(autouse=True)
def _the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(derived.DERIVED, "name_length", NAME_LENGTH)  # type: ignore[arg-type]
    find_attribute.cache_clear()


def config(folder: Path, **when: Any) -> str:
    rule = {"name": "short", "when": when, "run": "ct_tissue", "send": []}
    path = folder / "node.yaml"
    path.write_text(yaml.safe_dump({"data_dir": "data", "rules": [rule]}))
    return str(path)


def test_the_configuration_takes_it_and_finds_its_mistakes(
    segnode: Segnode, tmp_path: Path
) -> None:
    assert segnode("check-config", config(tmp_path, name_length={"max": 8})).code == 0

    answer = segnode("check-config", config(tmp_path, name_length="eight"))

    assert answer.code == 2
    assert "rules.0.when.name_length" in answer.out + answer.err


@pytest.mark.parametrize(("name", "fires"), [("lung", True), ("lung, contrast enhanced", False)])
def test_rules_judge_it_and_explain_shows_it(
    segnode: Segnode, tmp_path: Path, name: str, fires: bool
) -> None:
    path = config(tmp_path, name_length={"max": 8})
    Phantom(attributes=(("SeriesDescription", name),)).write(tmp_path / "ct")

    answer = segnode("explain", tmp_path / "ct", "--config", path, "--json")

    (series,) = answer.json["series"]
    assert series["derived"]["name_length"] == len(name)
    (rule,) = series["rules"]
    assert rule["truth"] == ("true" if fires else "false")


def test_a_series_without_it_is_unknown(segnode: Segnode, tmp_path: Path) -> None:
    path = config(tmp_path, name_length={"max": 8})
    Phantom(attributes=(("SeriesDescription", None),)).write(tmp_path / "ct")

    answer = segnode("explain", tmp_path / "ct", "--config", path)

    assert "the series has no name" in answer.out
