"""The variant of a bundle by what the header of its series says, in the rule language."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from node.domain.errors import ConfigInvalid, JobFailed
from node.domain.header import Header, Missing, Value
from node.infer.registry import ModelSpec, default_models_folder, load_model
from node.pipeline.build import plan
from node.pipeline.judge import variant_by_header


@pytest.fixture(scope="module")
def ctmr() -> ModelSpec:
    return load_model(default_models_folder() / "ctmr")


def header(derived: dict[str, Value] | None = None, **values: str) -> Header:
    return Header({name: (value,) for name, value in values.items()}, derived or {})


T1: dict[str, Value] = {"sequence": ("T1",)}


@pytest.mark.parametrize(
    ("values", "variant"),
    [
        ({"Modality": "CT"}, "CT_BODY"),
        ({"Modality": "CT", "BodyPartExamined": "HEAD"}, "CT_BODY"),
        ({"Modality": "MR", "BodyPartExamined": "ABDOMEN"}, "MRI_BODY"),
        ({"Modality": "MR", "BodyPartExamined": "ADRENAL"}, "MRI_BODY"),
        ({"Modality": "MR", "BodyPartExamined": "HEADNECK"}, "MRI_BODY"),
        ({"Modality": "MR", "StudyDescription": "MRT Becken nativ"}, "MRI_BODY"),
        ({"Modality": "MR", "SeriesDescription": "t1_vibe_liver_dixon"}, "MRI_BODY"),
        ({"Modality": "MR", "BodyPartExamined": "BRAIN"}, "MRI_BRAIN"),
        ({"Modality": "MR", "BodyPartExamined": "Head"}, "MRI_BRAIN"),
        ({"Modality": "MR", "StudyDescription": "MR HEAD W/O CONTRAST"}, "MRI_BRAIN"),
        ({"Modality": "MR", "SeriesDescription": "t1_mprage_sag_p2_iso"}, "MRI_BRAIN"),
        ({"Modality": "MR", "ProtocolName": "MRT Schädel"}, "MRI_BRAIN"),
    ],
)
def test_the_header_chooses_the_variant(
    ctmr: ModelSpec, values: dict[str, str], variant: str
) -> None:
    assert variant_by_header(ctmr, {}, header(T1, **values)) == {"variant": variant}


@pytest.mark.parametrize(
    ("values", "derived", "sentence"),
    [
        ({}, T1, "the header chooses none"),
        ({"Modality": "PT"}, T1, "the header chooses none"),
        ({"Modality": "MR"}, T1, "does not tell whether this MR series shows the brain"),
        (
            {"Modality": "MR", "StudyDescription": "MR Head and Neck"},
            T1,
            "names the brain and the body",
        ),
        ({"Modality": "MR", "SeriesDescription": "t2_tse_tra"}, {}, "does not tell whether"),
        (
            {"Modality": "MR", "BodyPartExamined": "BRAIN"},
            {"sequence": ("T2",)},
            "brain is not known to be T1",
        ),
        (
            {"Modality": "MR", "BodyPartExamined": "BRAIN"},
            {"sequence": Missing("names several sequences")},
            "brain is not known to be T1",
        ),
    ],
)
def test_what_the_header_does_not_tell_is_left_to_a_person(
    ctmr: ModelSpec, values: dict[str, str], derived: dict[str, Value], sentence: str
) -> None:
    with pytest.raises(JobFailed, match=sentence) as failure:
        variant_by_header(ctmr, {}, header(derived, **values))

    assert failure.value.permanent
    assert "MRI_BRAIN" in str(failure.value)


def test_the_job_has_the_last_word(ctmr: ModelSpec) -> None:
    brain = header(T1, Modality="MR", BodyPartExamined="BRAIN")

    assert variant_by_header(ctmr, {"variant": "MRI_BODY"}, brain) == {}


def test_a_model_without_choices_is_left_to_its_first_variant() -> None:
    spleen = load_model(default_models_folder() / "spleen_ct")

    assert variant_by_header(spleen, {}, header()) == {}


def test_a_condition_that_no_rule_knows_stops_the_rule(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "ctmr2"
    shutil.copytree(default_models_folder() / "ctmr", folder)
    path = folder / "model.yaml"
    text = path.read_text().replace("name: ctmr\n", "name: ctmr2\n")
    path.write_text(text.replace("when: {Modality: CT}", "when: {Modalty: CT}"))
    rule = {"name": "it", "when": {"Modality": "CT"}, "run": "ctmr2", "send": []}
    config = tmp_path / "node.yaml"
    config.write_text(json.dumps({"models_dirs": ["models"], "rules": [rule]}))

    with pytest.raises(ConfigInvalid) as refused:
        plan(config, {})

    assert [where for where, _ in refused.value.mistakes] == [
        "models/ctmr2/model.yaml: runner.variant_by.0.when.Modalty"
    ]
