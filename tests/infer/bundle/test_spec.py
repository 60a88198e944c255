"""What a job wants of a bundle: the variant by the header or by name, and labels by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.domain.errors import ConfigInvalid, JobFailed
from node.infer.bundle.spec import (
    Bundle,
    asking_for,
    is_asked_by_class,
    labels_wanted,
    variant_of,
)
from node.infer.registry import ModelSpec, default_models_folder, load_model
from node.infer.run_context import with_parameters


@pytest.fixture(scope="module")
def ctmr() -> ModelSpec:
    return load_model(default_models_folder() / "ctmr")


def asked(spec: ModelSpec, **parameters: object) -> ModelSpec:
    return with_parameters(spec, parameters)


def test_a_variant_that_there_is_not_is_refused(ctmr: ModelSpec) -> None:
    with pytest.raises(JobFailed, match="there are: CT_BODY, MRI_BODY, MRI_BRAIN") as failure:
        variant_of(asked(ctmr, variant="PET"))

    assert failure.value.permanent


def test_where_the_header_was_to_choose_the_first_is_not_taken(ctmr: ModelSpec) -> None:
    with pytest.raises(JobFailed, match="ctmr names no variant; there are: CT_BODY") as failure:
        variant_of(asked(ctmr))

    assert failure.value.permanent


def test_a_bundle_that_does_not_ask_the_header_takes_its_first_variant() -> None:
    spleen = load_model(default_models_folder() / "spleen_ct")

    assert variant_of(asked(spleen)) == "default"


def test_every_variant_says_its_modality(ctmr: ModelSpec) -> None:
    variants = ctmr.runner.variants  # type: ignore[attr-defined]

    assert {name.removesuffix("_96"): name for name in variants}.keys() == {
        "CT_BODY",
        "MRI_BODY",
        "MRI_BRAIN",
    }
    for name, variant in variants.items():
        assert variant.overrides["modality"] == name.removesuffix("_96")


@pytest.mark.parametrize(
    ("model", "right", "wrong", "key"),
    [
        ("ctmr", "CT}, variant: CT_BODY", "CT}, variant: BODY", "variant_by.0.variant"),
        ("spleen_ct", "{variant: default}", "{variant: BODY}", "parameters.variant"),
    ],
)
def test_a_variant_that_is_chosen_beforehand_must_be_there(
    tmp_path: Path, model: str, right: str, wrong: str, key: str
) -> None:
    folder = tmp_path / "models" / model
    folder.mkdir(parents=True)
    for path in (default_models_folder() / model).iterdir():
        (folder / path.name).write_text(path.read_text().replace(right, wrong))

    with pytest.raises(ConfigInvalid) as refused:
        load_model(folder)

    assert list(refused.value.mistakes) == [
        (f"models/{model}/model.yaml: runner.{key}", "there is no variant 'BODY'")
    ]


@pytest.mark.parametrize("wanted", [["liver", "left_kidney"], "Liver, left kidney"])
def test_labels_are_wanted_by_name(ctmr: ModelSpec, wanted: object) -> None:
    assert labels_wanted(asked(ctmr, labels=wanted)) == [1, 14]


@pytest.mark.parametrize("wanted", [None, "", []])
def test_no_name_wants_everything(ctmr: ModelSpec, wanted: object) -> None:
    assert labels_wanted(asked(ctmr, labels=wanted)) == []


def test_an_unknown_name_is_told_with_the_nearest(ctmr: ModelSpec) -> None:
    with pytest.raises(JobFailed, match="no label is named 'livr'; the nearest are Liver") as told:
        labels_wanted(asked(ctmr, labels=["livr"]))

    assert told.value.permanent


def test_labels_that_are_no_names_are_refused(ctmr: ModelSpec) -> None:
    with pytest.raises(JobFailed, match="give a list of names"):
        labels_wanted(asked(ctmr, labels=7))


def test_a_bundle_is_asked_as_its_publisher_asks_it(tmp_path: Path) -> None:
    config = tmp_path / "inference.json"
    config.write_text('{"postprocessing": {"_target_": "VistaPostTransformd"}}')
    bundle = Bundle(
        root=tmp_path, config=config, overrides={"modality": "CT_BODY"}, weights=tmp_path / "w"
    )

    asking = asking_for(bundle, [1, 14])

    assert is_asked_by_class(bundle)
    assert asking.overrides == {
        "modality": "CT_BODY",
        "dataset#data": [{"label_prompt": [1, 14]}],
    }


def test_other_bundles_are_not_asked_by_class(tmp_path: Path) -> None:
    config = tmp_path / "inference.json"
    config.write_text('{"postprocessing": {"_target_": "AsDiscreted", "argmax": true}}')

    bundle = Bundle(root=tmp_path, config=config, overrides={}, weights=tmp_path / "w")

    assert not is_asked_by_class(bundle)
