"""``segnode models check``: labels whose codes nobody else knows are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Segnode

CT_TISSUE = Path(__file__).parents[2] / "models" / "ct_tissue"
AIRWAYS = "SCT:110726009:Trachea and bronchus"
OTHER = "SCT:85756007:Tissue,,,,#8C8C8C"


@pytest.fixture
def partly_private(tmp_path: Path) -> Path:
    """The folder of a model with two labels of its own."""
    folder = tmp_path / "ct_tissue"
    shutil.copytree(CT_TISSUE, folder)
    table = folder / "labels.csv"
    text = table.read_text().replace(AIRWAYS, "99SEGNODE:ct_tissue-3:Airways")
    table.write_text(text.replace(OTHER, "99SEGNODE:ct_tissue-8:Other body,,,,#8C8C8C"))
    return folder


def test_private_codes_are_counted_and_named(segnode: Segnode, partly_private: Path) -> None:
    answer = segnode("models", "check", partly_private)

    assert answer.code == 0
    assert "2 of 8 labels carry a private code (99SEGNODE): Airways, Other body" in answer.out


def test_private_codes_are_listed_for_programs(segnode: Segnode, partly_private: Path) -> None:
    answer = segnode("models", "check", partly_private, "--json")

    assert answer.json["private_codes"] == ["Airways", "Other body"]
    assert answer.json["is_good"]


def test_a_model_of_published_codes_is_said_nothing_of(segnode: Segnode) -> None:
    assert "private" not in segnode("models", "check", CT_TISSUE).out
    assert segnode("models", "check", CT_TISSUE, "--json").json["private_codes"] == []
