"""A model card becomes a model folder and a rule that the node itself finds in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from node.domain.errors import ConfigInvalid
from node.infer.assets import locked_licences
from node.infer.labels_table import read_labels_table
from node.infer.mhub.draft import Draft, draft_model
from node.infer.registry import ModelSpec, default_models_folder, load_model
from node.pipeline.build import Plan, plan
from tests.infer.mhub.cards import card, card_input

MR = {"modality": "MR", "bodypartexamined": "Prostate", "contrast": False}


@pytest.fixture(scope="module")
def known() -> list[Any]:
    table, mistakes = read_labels_table(default_models_folder() / "wholebody_ct/labels.csv", "")
    assert not mistakes
    return table


def written(draft: Draft, folder: Path) -> ModelSpec:
    target = folder / "models" / draft.name
    target.mkdir(parents=True)
    for name, text in draft.files.items():
        (target / name).write_text(text, encoding="utf-8")
    return load_model(target)


def planned(draft: Draft, folder: Path) -> Plan:
    config = {**yaml.safe_load(draft.rule), "models_dirs": [str(folder / "models")]}
    path = folder / "node.yaml"
    path.write_text(yaml.safe_dump({**config, "data_dir": str(folder / "data")}))
    return plan(path, environ={})


def test_a_card_becomes_a_model_and_a_rule_that_load(known: list[Any], tmp_path: Path) -> None:
    draft = draft_model(card(classes=("LEFT_KIDNEY", "SPLEEN", "VERTEBRAE_L5")), known)

    model = written(draft, tmp_path)
    (rule,) = planned(draft, tmp_path).rules

    assert (model.name, model.version, model.title) == ("organ_finder", "1.2.0", "Organ finder")
    assert model.runner.entry == "mhubai/organ_finder:latest"
    assert dict(model.inputs["ct"].accepts) == {"Modality": "CT"}
    assert rule.model.name == "organ_finder"


def test_codes_come_from_labels_of_the_same_name(known: list[Any], tmp_path: Path) -> None:
    model = written(draft_model(card(classes=("LEFT_KIDNEY", "RIGHT_HIP")), known), tmp_path)

    by_name = {segment.name: segment for segment in known}
    for segment in model.segments:
        assert segment.type == by_name[segment.name].type
        assert segment.modifier == by_name[segment.name].modifier
    assert [segment.label_value for segment in model.segments] == [1, 2]


def test_a_class_that_nobody_knows_gets_a_private_code_and_is_named(
    known: list[Any], tmp_path: Path
) -> None:
    draft = draft_model(card(classes=("BACKGROUND", "LIVER", "LIVER+CYST")), known)

    liver, cyst = written(draft, tmp_path).segments

    assert (liver.label_value, liver.type.scheme) == (1, "SCT")
    assert (cyst.label_value, cyst.name, cyst.type.scheme) == (2, "Cyst in liver", "99SEGNODE")
    assert any("1 of 2 labels have a private code" in point for point in draft.open_points)


def test_non_commercial_weights_stay_locked(tmp_path: Path) -> None:
    model = written(draft_model(card(), []), tmp_path)

    assert locked_licences(model, []) == ["CC BY-NC 4.0"]
    assert locked_licences(model, ["CC BY-NC 4.0"]) == []


@pytest.mark.parametrize(
    ("licence", "locked"),
    [("Apache 2.0", []), ("CC-BY-NC-SA-4.0", ["CC-BY-NC-SA-4.0"]), ("N/A", ["N/A"])],
)
def test_what_a_licence_allows_is_read_from_its_name(
    licence: str, locked: list[str], tmp_path: Path
) -> None:
    details = {**card()["details"], "license": {"code": "MIT", "weights": licence}}

    model = written(draft_model(card(details=details), []), tmp_path)

    assert locked_licences(model, []) == locked


def test_several_inputs_get_roles_folders_and_a_study_rule(tmp_path: Path) -> None:
    draft = draft_model(
        card(
            card_input(label="T2 input image", **MR),
            card_input(label="ADC Input Image", **MR),
            card_input("PT"),
        ),
        [],
    )

    model = written(draft, tmp_path)
    (rule,) = planned(draft, tmp_path).rules

    assert list(model.inputs) == ["t2", "adc", "pt"]
    assert model.runner.layout == {"t2": "case/t2", "adc": "case/adc", "pt": "case/pt"}
    assert yaml.safe_load(draft.rule)["rules"][0]["study"]["adc"] == {
        "Modality": "MR",
        "sequence": "ADC",
        "BodyPartExamined": "PROSTATE",
        "contrast": False,
    }
    assert rule.model.name == "organ_finder"


def test_inputs_of_one_modality_are_numbered() -> None:
    draft = draft_model(card(card_input(), card_input()), [])

    assert list(yaml.safe_load(draft.files["model.yaml"])["inputs"]) == ["ct", "ct_2"]


@pytest.mark.parametrize(
    ("given", "condition"),
    [
        (card_input("MRI|CT"), {"Modality": ["MR", "CT"]}),
        (card_input(bodypartexamined="Chest"), {"Modality": "CT", "BodyPartExamined": "CHEST"}),
        (card_input(contrast=False), {"Modality": "CT", "contrast": False}),
        (card_input(**{"non-contrast": False}), {"Modality": "CT", "contrast": True}),
        (card_input("PET", contrast=False), {"Modality": "PT"}),
    ],
)
def test_a_rule_speaks_of_headers_in_dicoms_words(
    given: dict[str, Any], condition: dict[str, Any]
) -> None:
    rule = yaml.safe_load(draft_model(card(given), []).rule)["rules"][0]

    assert rule["when"] == condition


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        ({}, "summary.inputs: names no input"),
        (card(name="Organ finder"), "'Organ finder' is no name of a model"),
        (card(card_input("SM")), "SM: segnode gives image series to models"),
        (card(card_input(""), classes=("LIVER",)), "no modality: segnode gives"),
        (card(classes=()), "names no classes of a segmentation"),
        (card(classes=("BACKGROUND",)), "names no classes of a segmentation"),
    ],
)
def test_what_is_no_card_of_such_a_model_is_refused(meta: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigInvalid) as refusal:
        draft_model(meta, [])

    assert sentence in str(refusal.value)


def test_names_of_any_length_and_letter_still_load(tmp_path: Path) -> None:
    long = card(classes=("LEFT_" + "VERY_" * 20 + "LONG", "LEFT_" + "VERY_" * 20 + "LONG_TOO"))
    odd = {**long, "title": "Höhlen: \"a\" 'b' # c", "name": "odd"}

    model = written(draft_model(odd, []), tmp_path)

    assert model.title == "Höhlen: \"a\" 'b' # c"
    assert len(model.segments) == 2
