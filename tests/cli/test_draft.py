"""``segnode models draft``: from MHub's card to a folder that ``models check`` finds good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Segnode
from tests.infer.mhub.cards import card


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    path = tmp_path / "meta.json"
    path.write_text(json.dumps(card(classes=("LEFT_KIDNEY", "KIDNEY+CYST"))))
    return path


def test_the_draft_is_a_model_and_what_is_open_is_said(segnode: Segnode, meta: Path) -> None:
    made = segnode("models", "draft", str(meta), "mine")

    assert made.code == 0
    assert made.out.startswith("# ct: the card names slices of 1.5 mm")
    assert "run: organ_finder" in made.out
    assert "1 of 2 labels have a private code" in made.err
    assert "good: organ_finder 1.2.0" in segnode("models", "check", "mine/organ_finder").out


def test_json_tells_the_same(segnode: Segnode, meta: Path) -> None:
    made = segnode("models", "draft", str(meta), "mine", "--json").json

    assert (made["model"], made["segments"]) == ("organ_finder", 2)
    assert made["rule"].startswith("# ct")
    assert len(made["open_points"]) == 3


def test_a_draft_replaces_nothing(segnode: Segnode, meta: Path) -> None:
    segnode("models", "draft", str(meta), "mine")
    text = Path("mine/organ_finder/model.yaml")
    text.write_text("mine")

    again = segnode("models", "draft", str(meta), "mine")

    assert again.code == 2
    assert "is there already: a draft replaces nothing" in again.err
    assert text.read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "is not JSON"), ("[]", "is no model card"), ("{}", "names no input")],
)
def test_what_is_no_card_is_wrong_use(segnode: Segnode, content: str, sentence: str) -> None:
    Path("meta.json").write_text(content)

    answer = segnode("models", "draft", "meta.json", "mine")

    assert answer.code == 2
    assert sentence in answer.err
    assert not Path("mine").exists()
