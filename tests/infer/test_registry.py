"""The model registry: good folders load, and every mistake is told with its path."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from node.domain.errors import ConfigInvalid
from node.domain.segment import Code
from node.infer import registry
from node.infer.kinds import KINDS
from node.infer.registry import default_models_folder, find_models, load_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the model ct_tissue that a test may spoil."""
    return Path(
        shutil.copytree(default_models_folder() / "ct_tissue", tmp_path / "models/ct_tissue")
    )


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def mistakes_of(call: Callable[[], object]) -> dict[str, str]:
    with pytest.raises(ConfigInvalid) as refusal:
        call()
    return dict(refusal.value.mistakes)


def test_the_models_that_come_with_segnode_load() -> None:
    models = find_models([default_models_folder()]).usable

    assert "ct_tissue" in models
    assert models["ct_tissue"].inputs["ct"].min_slices == 3
    assert models["ct_tissue"].segment_of[1].modifier == Code("7771000", "SCT", "Left")


def test_a_model_folder_may_be_named_itself(folder: Path) -> None:
    assert list(find_models([folder]).usable) == ["ct_tissue"]


@pytest.mark.parametrize(
    ("old", "new", "key", "sentence"),
    [
        ("min_slices", "mn_slices", "inputs.ct.mn_slices", "did you mean min_slices"),
        ("title:", "titles:", "titles", "did you mean title"),
        ("version: 1.0.0\n", "", "version", "is required"),
        ("min_rows: 20", "min_rows: many", "inputs.ct.min_rows", "valid integer"),
        ("min_rows: 20", "min_rows: 0", "inputs.ct.min_rows", "greater than or equal to 1"),
        ("kind: python", "kind: pythons", "runner.kind", "no runner 'pythons' in this version"),
        ("node.infer.ct_tissue:run", "os:system", "runner.entry", "is not node.infer"),
        ("node.infer.ct_tissue:run", "node.infer.nothing:run", "runner.entry", "no module"),
        ("[labels]", "[probabilities]", "outputs.0", "labels"),
        ("name: ct_tissue", "name: ct_tissues", "name", "the folder is not"),
        ("device: cpu", "device: gpu", "resources.device", "cuda"),
        ("deadline_s: 600", "deadline_s: -1", "resources.deadline_s", "greater than 0"),
        ("outputs:", "weights: [{url: x, sha256: abc}]\noutputs:", "weights.0.sha256", "match"),
    ],
)
def test_a_mistake_in_the_model_file_is_told_with_its_path(
    folder: Path, old: str, new: str, key: str, sentence: str
) -> None:
    spoil(folder / "model.yaml", old, new)

    mistakes = mistakes_of(lambda: load_model(folder))

    assert sentence in mistakes[f"models/ct_tissue/model.yaml: {key}"]


def test_a_key_that_stands_twice_is_refused(folder: Path) -> None:
    spoil(folder / "model.yaml", "outputs:", "version: 2.0.0\noutputs:")

    mistakes = mistakes_of(lambda: load_model(folder))

    assert "'version' stands twice" in mistakes["models/ct_tissue/model.yaml"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("2,Right lung", "1,Right lung", "label_value 1 stands twice"),
        ("2,Right lung", "0,Right lung", "not a number from 1"),
        ("2,Right lung", "65536,Right lung", "not a number from 1"),
        ("Right lung", "left lung", "the name 'left lung' stands twice"),
        ("SCT:24028007:Right", "SCT:7771000:Left", "same codes as label 1"),
        ("Right lung", "The other lung", "the name says no side, the codes say right"),
        ("SCT:24028007:Right", "", "the name says right, the codes say no side"),
        ("#2E7FA8", "#2E7FA", "is not #RRGGBB"),
        ("SCT:24028007:Right", "24028007", "is not scheme:value:meaning"),
        ("SCT:24028007:Right", f"SCT:24028007:Right {'x' * 64}", "exceeds 16/16/64"),
        ("Right lung", "Right lung " + "x" * 64, "exceeds 64 characters"),
        ("SCT:24028007:Right,,", "SCT:24028007:Right,,,", "more cells"),
    ],
)
def test_a_mistake_in_the_label_table_is_told_with_its_line(
    folder: Path, old: str, new: str, sentence: str
) -> None:
    spoil(folder / "labels.csv", old, new)

    mistakes = mistakes_of(lambda: load_model(folder))

    assert sentence in mistakes["models/ct_tissue/labels.csv: line 3"]


def test_all_mistakes_of_all_files_are_told_at_once(folder: Path) -> None:
    spoil(folder / "model.yaml", "min_slices", "mn_slices")
    spoil(folder / "model.yaml", "device: cpu", "device: gpu")
    spoil(folder / "labels.csv", "#2E7FA8", "red")
    spoil(folder / "README.md", "## Where it fails", "## Where it shines")

    (bad,) = find_models([folder]).unusable.values()

    mistakes = dict(bad.mistakes)

    assert set(mistakes) == {
        "models/ct_tissue/model.yaml: inputs.ct.mn_slices",
        "models/ct_tissue/model.yaml: resources.device",
        "models/ct_tissue/labels.csv: line 3",
        "models/ct_tissue/README.md",
    }


def test_a_folder_without_models_is_a_mistake_of_whoever_names_it(tmp_path: Path) -> None:
    mistakes = mistakes_of(lambda: find_models([tmp_path]))

    assert mistakes == {str(tmp_path): "is neither a model folder nor does it hold one"}


@pytest.mark.parametrize("name", ["model.yaml", "labels.csv", "README.md"])
def test_a_missing_file_is_told(folder: Path, name: str) -> None:
    (folder / name).unlink()

    mistakes = mistakes_of(lambda: load_model(folder))

    assert "is missing" in mistakes[f"models/ct_tissue/{name}"]


def test_of_two_models_with_one_name_neither_can_be_used(folder: Path) -> None:
    found = find_models([default_models_folder(), folder])

    assert "ct_tissue" not in found.usable
    assert "models/ct_tissue: is also the name of" in str(found.unusable["ct_tissue"])


def test_the_digest_changes_with_what_decides_the_result(folder: Path) -> None:
    before = load_model(folder)
    spoil(folder / "labels.csv", "#2E7FA8", "#2E7FA9")
    recoloured = load_model(folder)
    spoil(folder / "model.yaml", "version: 1.0.0", "version: 1.0.1")
    renumbered = load_model(folder)
    spoil(folder / "README.md", "## Licence", "## Licence\n\nMore words.\n")
    reworded = load_model(folder)

    assert len({before.digest, recoloured.digest, renumbered.digest}) == 3
    assert reworded.digest == renumbered.digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this package's infer, which a test may change; digests follow its sources."""
    copied = Path(shutil.copytree(Path(registry.__file__).parent, tmp_path / "infer"))

    def find_spec(module: str) -> ModuleSpec:
        place = copied.joinpath(*module.split(".")[2:])
        source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        return ModuleSpec(module, None, origin=str(source))

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    return copied


REVISED = [
    ("ct_tissue", "ct_tissue/__init__.py"),
    ("ct_tissue", "volume.py"),
    ("mindgrab", "brain/brainchop.py"),
    ("brats_mri", "brain/brats.py"),
    ("ctmr", "brain/template.py"),
    ("wholebody_ct", "volume.py"),
]


@pytest.mark.parametrize(("name", "source"), REVISED)
def test_a_raised_revision_changes_the_digest(package: Path, name: str, source: str) -> None:
    before = load_model(default_models_folder() / name).digest

    spoil(package / source, "REVISION = ", "REVISION = 9")

    assert load_model(default_models_folder() / name).digest != before


@pytest.mark.parametrize(("name", "source"), REVISED)
def test_a_changed_comment_changes_no_digest(package: Path, name: str, source: str) -> None:
    before = load_model(default_models_folder() / name).digest

    spoil(package / source, "REVISION = ", "# said better\nREVISION = ")

    assert load_model(default_models_folder() / name).digest == before


def test_the_revision_of_a_kind_changes_the_digest_of_its_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("ct_tissue", "spleen_ct")
    before = [load_model(default_models_folder() / name).digest for name in names]

    monkeypatch.setattr(KINDS["monai_bundle"], "REVISION", 99)

    after = [load_model(default_models_folder() / name).digest for name in names]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]


def test_code_without_a_revision_is_no_entry(folder: Path) -> None:
    spoil(folder / "model.yaml", "node.infer.ct_tissue:run", "node.infer.report:run")

    mistakes = mistakes_of(lambda: load_model(folder))

    assert mistakes == {
        "models/ct_tissue/model.yaml: runner.entry": "node.infer.report declares no REVISION"
    }
