"""The input folder of a container: laid out from roles, readable by any user, without a name in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from node.domain.errors import JobFailed
from node.domain.header import Header
from node.infer.container.runner import lay_out
from node.infer.container.spec import layout_mistakes
from node.infer.run_context import SeriesInput
from tests.support.phantoms import Phantom
from tests.support.rooms import given_files, nothing_known

CT = Phantom(shape=(3, 20, 22))
PT = Phantom(shape=(4, 20, 22), series="pt")


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, SeriesInput]:
    return {
        "ct": given_files(CT, tmp_path / "Doe^John" / "ct"),
        "pt": given_files(PT, tmp_path / "Doe^John" / "pt"),
    }


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_one_input_lies_flat_under_names_that_say_nothing(
    inputs: dict[str, SeriesInput], tmp_path: Path
) -> None:
    lay_out({"ct": inputs["ct"]}, {}, tmp_path / "in")

    assert tree(tmp_path / "in") == {"000001.dcm", "000002.dcm", "000003.dcm"}
    uids = {str(dcmread(path).SOPInstanceUID) for path in (tmp_path / "in").iterdir()}
    assert uids == set(inputs["ct"].files)


def test_several_inputs_lie_in_folders_of_their_roles(
    inputs: dict[str, SeriesInput], tmp_path: Path
) -> None:
    lay_out(inputs, {}, tmp_path / "in")

    assert {name.partition("/")[0] for name in tree(tmp_path / "in")} == {"ct", "pt"}


def test_templates_place_roles_by_uid_and_word(
    inputs: dict[str, SeriesInput], tmp_path: Path
) -> None:
    layout = {"ct": "case/{StudyInstanceUID}/CT", "pt": "{SeriesInstanceUID}/{role}"}

    lay_out(inputs, layout, tmp_path / "in")

    folders = {str(Path(name).parent) for name in tree(tmp_path / "in")}
    assert folders == {f"case/{CT.uid('study')}/CT", f"{PT.uid('series')}/pt"}


def test_files_that_all_may_read_are_linked_and_others_copied(
    inputs: dict[str, SeriesInput], tmp_path: Path
) -> None:
    paths = list(inputs["ct"].files.values())
    paths[0].chmod(0o600)
    paths[1].chmod(0o644)

    lay_out({"ct": inputs["ct"]}, {}, tmp_path / "in")

    copied, linked = tmp_path / "in/000001.dcm", tmp_path / "in/000002.dcm"
    assert linked.samefile(paths[1])
    assert copied.stat().st_mode & 0o777 == 0o444
    assert copied.read_bytes() == paths[0].read_bytes()
    assert paths[0].stat().st_mode & 0o777 == 0o600


def test_a_series_that_does_not_say_which_it_is_makes_no_folder(tmp_path: Path) -> None:
    nameless = nothing_known(CT.stack)
    odd = SeriesInput(
        stack=CT.stack,
        files={},
        header=Header({"StudyInstanceUID": ("../../etc",), "SeriesInstanceUID": ("1.2",)}),
    )

    for name, given in (("a", nameless), ("b", odd)):
        with pytest.raises(JobFailed, match="input ct has no StudyInstanceUID"):
            lay_out({"ct": given}, {}, tmp_path / name)


def test_a_file_that_is_gone_is_named(inputs: dict[str, SeriesInput], tmp_path: Path) -> None:
    uid, path = next(iter(inputs["ct"].files.items()))
    path.unlink()

    with pytest.raises(JobFailed, match=f"the file of instance {uid} is gone"):
        lay_out({"ct": inputs["ct"]}, {}, tmp_path / "in")


@pytest.mark.parametrize(
    ("layout", "role", "sentence"),
    [
        ({"mr": "x"}, "mr", "is no input of this model"),
        ({"ct": "{PatientID}/ct"}, "ct", "{PatientID} is not one of {StudyInstanceUID}"),
        ({"ct": "{role.upper}"}, "ct", "{role.upper} is not one of"),
        ({"ct": "{role"}, "ct", "has a brace without its partner"),
        ({"ct": "../x"}, "ct", "leaves the input folder"),
        ({"ct": "/x"}, "ct", "leaves the input folder"),
        ({"ct": "x", "pt": "x"}, "pt", "shares its folder with ct"),
    ],
)
def test_a_template_that_cannot_be_is_told_when_the_model_is_loaded(
    layout: dict[str, str], role: str, sentence: str
) -> None:
    mistakes = dict(layout_mistakes(layout, ["ct", "pt"]))

    assert sentence in mistakes[role]


def test_templates_of_published_layouts_are_good() -> None:
    layout = {"ct": "case/{StudyInstanceUID}/ct", "pt": "{SeriesInstanceUID}"}

    assert layout_mistakes(layout, ["ct", "pt"]) == []
