"""A form that a second run asks for: encoded from the kept labels, whatever kills it on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import CHEST, Segnode
from tests.cli.conftest import segnode as segnode  # a fixture

REPOSITORY = Path(__file__).parents[2]


def test_a_later_form_is_encoded_without_the_model(segnode: Segnode, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")
    seg = segnode("run", "in", "out", "--json")

    both = segnode("run", "in", "out", "--form", "seg", "--form", "nifti", "--json")

    (before,), (after,) = seg.json["outcomes"], both.json["outcomes"]
    assert ": read labels " in both.err
    assert ": encode nifti " in both.err
    assert ": infer " not in both.err
    assert ": encode 0" not in both.err
    assert (after["file"], after["volumes_ml"]) == (before["file"], before["volumes_ml"])
    assert [Path(path).name for path in after["nifti"]] == ["ct_tissue.labels.nii.gz"]


@pytest.mark.parametrize(
    "point", ["job leased", "result written", "between encode and outbox", "mid-delivery"]
)
def test_a_kill_costs_no_second_run_of_the_model(
    point: str, segnode: Segnode, tmp_path: Path
) -> None:
    CHEST.write(tmp_path / "in")
    segnode("run", "in", "out")
    killed = subprocess.run(
        [sys.executable, "-P", "-m", "node", "run", "in", "out", "--form", "nifti"],
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "SEGNODE_CRASH_AT": point,
            "SEGNODE_CRASH_MARK": str(tmp_path / "crashed"),
        },
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=120,
    )

    answer = segnode("run", "in", "out", "--form", "nifti", "--json")

    (one,) = answer.json["outcomes"]
    assert (tmp_path / "crashed").exists()
    assert answer.code == 0, answer.err
    assert ": infer " not in killed.stderr + answer.err
    assert [Path(path).name for path in one["nifti"]] == ["ct_tissue.labels.nii.gz"]
    assert {path.name for path in (tmp_path / "out" / CHEST.uid("series")).iterdir()} == {
        "ct_tissue.seg.dcm",
        "ct_tissue.labels.nii.gz",
    }


def test_a_form_that_nobody_knows_is_one_sentence(segnode: Segnode, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()

    answer = segnode("run", "in", "out", "--form", "rtstruct")

    assert answer.code == 2
    assert "there is no form 'rtstruct'; there are: seg, nifti" in answer.err
