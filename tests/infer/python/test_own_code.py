"""Code of a model's own folder: only the declared bytes run, and only where they may."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from node.domain.errors import ConfigInvalid, JobFailed
from node.infer.python.runner import entry_of
from node.infer.registry import ModelSpec, load_model
from tests.support.phantoms import Phantom
from tests.support.rooms import labels_of

PROBE = Path(__file__).parents[2] / "support" / "models_probe" / "probe"
CONSTANT = """
import numpy as np

def run(spec, volumes, context, report):
    return np.full(volumes[spec.grid_role].array.shape, 1, np.uint8)
"""


def write_model(folder: Path, *, entry: str = "run.py:run", **files: str) -> Path:
    """The folder of a model with these modules, each with its hash."""
    shutil.copytree(PROBE, folder, dirs_exist_ok=True)
    content: dict[str, Any] = yaml.safe_load((PROBE / "model.yaml").read_text())
    code = []
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.write_text(text)
        code.append({"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    content["runner"] = {"kind": "python", "entry": entry, "code": code}
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "probe"


def own(folder: Path, **files: str) -> ModelSpec:
    return load_model(write_model(folder, **files))


def test_a_function_beside_the_model_file_labels_a_phantom(folder: Path) -> None:
    labels = labels_of(own(folder, run=CONSTANT), Phantom(shape=(3, 20, 20)))

    assert (labels == 1).all()


def test_files_of_the_folder_import_each_other(folder: Path) -> None:
    caller = "from . import shapes\n\ndef run(*given):\n    return shapes.ANSWER\n"

    entry = entry_of(own(folder, run=caller, shapes="ANSWER = 42\n"))

    assert entry(None, {}, None, None) == 42  # type: ignore[arg-type]


def test_a_file_that_is_not_listed_cannot_be_imported(folder: Path) -> None:
    model = own(folder, run="from . import other\n\ndef run(*given): ...\n")
    (folder / "other.py").write_text("")

    with pytest.raises(JobFailed, match=r"run\.py cannot be imported: ImportError") as failure:
        entry_of(model)

    assert failure.value.permanent


def test_a_changed_file_sets_the_model_aside_and_is_told_with_its_hash(folder: Path) -> None:
    write_model(folder, run=CONSTANT)
    (folder / "run.py").write_text("print('harm')\n")
    found = hashlib.sha256(b"print('harm')\n").hexdigest()

    with pytest.raises(ConfigInvalid, match=f"py has the sha256 {found}") as refused:
        load_model(folder)

    assert [key for key, _ in refused.value.mistakes] == [
        "models/probe/model.yaml: runner.code.0.sha256"
    ]


def test_a_file_that_changed_after_the_start_is_refused_before_it_runs(folder: Path) -> None:
    model = own(folder, run=CONSTANT)
    (folder / "run.py").write_text(f"open({str(folder / 'harm')!r}, 'w')\n")

    with pytest.raises(JobFailed, match="is not the file with the sha256") as failure:
        entry_of(model)

    assert failure.value.permanent
    assert not (folder / "harm").exists()


def test_looking_at_a_model_does_not_run_its_code(folder: Path) -> None:
    own(folder, run=f"open({str(folder / 'harm')!r}, 'w')\n")

    assert not (folder / "harm").exists()


@pytest.mark.parametrize(
    ("entry", "key", "sentence"),
    [
        ("run.py:run", "entry", "run.py is not among runner.code"),
        ("../run.py:run", "entry", "is not node.infer.<module>:<function> or FILE.py:<function>"),
        ("run.py", "entry", "is not node.infer.<module>:<function> or FILE.py:<function>"),
    ],
)
def test_an_entry_that_is_not_listed_is_refused(
    folder: Path, entry: str, key: str, sentence: str
) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        load_model(write_model(folder, entry=entry, other=CONSTANT))

    assert sentence in dict(refused.value.mistakes)[f"models/probe/model.yaml: runner.{key}"]


def test_a_listed_file_that_is_not_there_is_told(folder: Path) -> None:
    write_model(folder, run=CONSTANT)
    (folder / "run.py").unlink()

    with pytest.raises(ConfigInvalid, match=r"run\.py is not in the model's folder"):
        load_model(folder)


def test_a_function_that_is_not_there_fails_for_good(folder: Path) -> None:
    with pytest.raises(JobFailed, match=r"run\.py has no function run") as failure:
        entry_of(own(folder, run="def walk(): ...\n"))

    assert failure.value.permanent


def test_changed_code_is_another_digest(folder: Path) -> None:
    first = own(folder, run=CONSTANT)
    second = own(folder, run=CONSTANT.replace("1,", "0,"))

    assert first.digest != second.digest


def test_no_compiled_file_is_left_behind(folder: Path) -> None:
    entry_of(own(folder, run=CONSTANT))

    assert not list(folder.rglob("*.pyc"))
