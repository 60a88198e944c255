"""Every shipped model is given every real case and the phantoms: taken, parked, implausible or done.

Whether it takes a series is the node's own judgement over headers, so no weights are needed. What it
makes of what it takes is run where that can be done here: ct_tissue, and the two networks of heads
with real weights. ``pytest -s`` shows the table.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from node.domain.header import HeaderMerger
from node.domain.job import Priority
from node.domain.reasons import codes_of
from node.domain.result import LabelVolume
from node.dryrun.inspect_folder import SeriesFinding, inspect_folder
from node.infer.measure import measure_labels, why_implausible
from node.infer.registry import ModelSpec, default_models_folder, load_model
from node.infer.report import Stopwatch
from node.infer.run_context import SeriesInput, run_model
from node.pipeline.build import Plan, plan
from node.pipeline.judge import ActiveRule, accepted_inputs, refused_inputs
from node.route.compiling import compile_rule
from tests.support.cases import Cases
from tests.support.phantoms import Phantom, stack_of
from tests.support.rooms import room

# what a malformed value of a real case is worth is no matter here
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

MODELS = {
    path.parent.name: load_model(path.parent)
    for path in sorted(default_models_folder().glob("*/model.yaml"))
    if path.parent.name != "brats_mri_disjoint"  # takes what brats_mri does
}
STS = "derived_ct_sts_001"
LEG_MR = "study_ct_mr_pet_sts_001/mr_t1"
BRAINS = {
    "mr_brain_t1_sag_hfs",
    "mr_brain_t1_sag_hfdl",
    # these say BRAIN; that they show a phantom is for the networks to find
    "mr_enhanced_philips_phantom/classic",
    "mr_enhanced_philips_phantom/enhanced",
}
TAKEN = {
    "brain_t1_meshnet": BRAINS,
    "mindgrab": BRAINS,
    "brats_mri/t1": set[str](),
    "spleen_ct": {"ct_abdomen_crlm-ct-1004"},
    "wholebody_ct": {"ct_abdomen_crlm-ct-1004", "study_ct_mr_pet_sts_001/ct"},
    "ctmr": {"ct_abdomen_crlm-ct-1004", "study_ct_mr_pet_sts_001/ct", LEG_MR, *BRAINS},
}
QUICK = [
    *("ct_abdomen_crlm-ct-1004", f"{STS}/plain", f"{STS}/coronal_reslice"),
    f"{STS}/sagittal_reslice",
]
NETWORKS = {"brain_t1_meshnet": "model18cls", "mindgrab": "mindgrab"}


@dataclass(frozen=True)
class Water(Phantom):
    """A bottle of water in air, as CT or MR: nobody's anatomy."""

    @property
    def hu_volume(self) -> NDArray[np.int16]:  # type: ignore[override]
        index = np.stack(np.indices(self.grid.shape), axis=-1)
        centred = (index - (np.array(self.grid.shape) - 1) / 2) * self.grid.spacing_mm
        inside = np.hypot(centred[..., 1], centred[..., 2]) < 90
        return np.where(inside & (np.abs(centred[..., 0]) < 80), 0, -1000).astype(np.int16)


def phantoms() -> Mapping[str, Phantom]:
    small = {"shape": (24, 70, 84), "spacing_mm": (8.0, 3.4, 4.0)}
    unnamed = {"BodyPartExamined": None, "StudyDescription": None}
    t1 = {
        **{"Modality": "MR", "SOPClassUID": MRImageStorage, "ScanningSequence": "SE"},
        **{"RepetitionTime": 500, "EchoTime": 10},
    }

    def torso(name: str, **attributes: object) -> Phantom:
        return Phantom(**small, series=name, study=name, attributes=tuple(attributes.items()))

    def water(name: str, **attributes: object) -> Phantom:
        return Water(**small, series=name, study=name, attributes=tuple(attributes.items()))

    slab = Phantom(shape=(6, 70, 84), spacing_mm=(5.0, 3.4, 4.0), series="slab", study="slab")
    return {
        "torso": torso("torso"),
        "torso, thin slab": slab,
        "head by name": torso("head", BodyPartExamined="HEAD", SeriesDescription="Kopf nativ"),
        "knee, T1": torso("knee", **t1, BodyPartExamined="KNEE"),
        "head, T1": torso("t1", **t1, BodyPartExamined="BRAIN"),
        "water of QA": water("qa", **{**unnamed, "SeriesDescription": "QA"}),
        "water without a name": water("water", **{**unnamed, "SeriesDescription": "5 mm"}),
        "MIP": torso("mip", ImageType=["DERIVED", "PRIMARY", "MIP"]),
    }


# --- what is taken -------------------------------------------------------------------------------


def alone(name: str, model: ModelSpec) -> Iterator[ActiveRule]:
    """A rule for every role of a model that takes whatever there is, as if it had no other role."""
    for role, given in model.inputs.items():
        label = f"{name}/{role}" if len(model.inputs) > 1 else name
        yield ActiveRule(
            rule=compile_rule(
                name=label, when={"Modality": {"present": True}}, study=None, path=""
            ),
            model=replace(model, inputs={role: given}, grid_role=role),
            accepts=accepted_inputs(model),
            refuses=refused_inputs(model),
            send=(),
            priority=Priority.NORMAL,
            deadline_s=60.0,
        )


@cache
def the_plan() -> Plan:
    rules = tuple(rule for name, model in MODELS.items() for rule in alone(name, model))
    return replace(plan(None, environ={}), rules=rules)


@cache
def judged(folder: Path) -> tuple[SeriesFinding, ...]:
    return inspect_folder(the_plan(), folder).series


def verdicts(folder: Path) -> dict[str, str]:
    """Rule -> "taken", or the codes of its refusal; of several series the friendliest."""
    found: dict[str, str] = {}
    for series in judged(folder):
        for rule in series.rules:
            said = "taken" if rule.would_run else ", ".join(codes_of(rule.reasons))
            name = rule.explanation.rule
            found[name] = said if found.get(name, said) != "taken" else "taken"
    return found


def real_cases(shared_data: Cases) -> Mapping[str, Path]:
    """Every folder that holds files and no folders."""
    folders = [
        path
        for path in sorted(shared_data.all().rglob("*"))
        if path.is_dir()
        and any(child.suffix != ".md" for child in path.iterdir() if child.is_file())
    ]
    return {str(path.relative_to(shared_data.all())): path for path in folders}


def table(rows: Mapping[str, Mapping[str, str]]) -> str:
    short = {"taken": "taken", "": "-"}
    columns = sorted({name for row in rows.values() for name in row})
    width = max(len(name) for name in rows)
    lines = [" " * width + "  " + "  ".join(f"{name[:16]:16}" for name in columns)]
    for name, row in rows.items():
        cells = (short.get(row.get(column, ""), row.get(column, "")) for column in columns)
        lines.append(f"{name:{width}}  " + "  ".join(f"{cell[:16]:16}" for cell in cells))
    return "\n".join(lines)


def test_each_model_takes_the_real_cases_that_it_is_for_and_no_other(shared_data: Cases) -> None:
    rows = {name: verdicts(folder) for name, folder in real_cases(shared_data).items()}

    print(table(rows))
    assert len(rows) >= 54
    for model, cases in TAKEN.items():
        taken = {name for name, row in rows.items() if row.get(model) == "taken"}
        assert taken == cases, model
    tissue = {name for name, row in rows.items() if row.get("ct_tissue") == "taken"}
    assert {"ct_abdomen_crlm-ct-1004", "study_ct_mr_pet_sts_001/ct"} <= tissue
    assert {f"{STS}/plain", f"{STS}/coronal_reslice", f"{STS}/names_empty"} <= tissue
    assert f"{STS}/localizer_two_slices" not in tissue


def test_a_leg_goes_to_no_model_of_the_brain(shared_data: Cases) -> None:
    found = verdicts(shared_data / LEG_MR)

    assert found["brain_t1_meshnet"] == found["mindgrab"] == "model_refuses"
    assert all("model_refuses" in said for name, said in found.items() if name.startswith("brats"))


def test_each_model_takes_the_phantoms_that_could_be_its_patients(tmp_path: Path) -> None:
    rows = {}
    for number, (name, phantom) in enumerate(phantoms().items()):
        folder = tmp_path / str(number)
        phantom.write(folder)
        rows[name] = verdicts(folder)

    print(table(rows))
    taken = {
        model: {name for name, row in rows.items() if row[model] == "taken"}
        for model in rows["torso"]
    }
    cts = {"torso", "torso, thin slab", "head by name", "water of QA", "water without a name"}
    assert taken["ct_tissue"] == cts
    assert taken["spleen_ct"] == {"torso", "water without a name"}
    assert taken["wholebody_ct"] == {"torso", "head by name", "water without a name"}
    assert taken["brain_t1_meshnet"] == taken["mindgrab"] == {"head, T1"}
    assert taken["brats_mri/t1c"] == taken["brats_mri/flair"] == set()


# --- what is made of it --------------------------------------------------------------------------


def given_of(folder: Path, *, without: Sequence[str] = ()) -> SeriesInput:
    """The images of a folder with one series as a runner gets them, attributes left out."""
    headers: dict[Path, Dataset] = {}
    merger = HeaderMerger()
    for path in sorted(folder.iterdir()):
        header = dcmread(path, stop_before_pixels=True, force=True)
        if "Rows" not in header or "ImagePositionPatient" not in header:
            continue
        for keyword in without:
            header.pop(keyword, None)
        headers[path] = header
        merger.add(header)
    files = {str(header.SOPInstanceUID): path for path, header in headers.items()}
    return SeriesInput(stack=stack_of(list(headers.values())), files=files, header=merger.header())


def outcome(
    model: ModelSpec, given: SeriesInput, here: Path, weights_dir: Path | None = None
) -> str:
    """Done, nothing found, or the codes of what is implausible, as a job would end."""
    here.mkdir(exist_ok=True)
    inputs = {model.grid_role: given}
    labels = run_model(model, inputs, room(here, weights_dir=weights_dir), Stopwatch()).labels
    if not labels.any():
        return "nothing found"
    measured = measure_labels(LabelVolume(labels=labels, stack=given.stack))
    reasons = why_implausible(model.plausible, measured)
    return ", ".join(reason.code for reason in reasons) or "done"


@pytest.mark.parametrize("case", QUICK)
def test_what_ct_tissue_makes_of_real_cases_is_plausible(
    case: str, shared_data: Cases, tmp_path: Path
) -> None:
    assert outcome(MODELS["ct_tissue"], given_of(shared_data / case), tmp_path) == "done"


def test_ct_tissue_finds_no_lung_and_no_bone_in_a_bottle_of_water(tmp_path: Path) -> None:
    water = phantoms()["water without a name"]
    water.write(tmp_path / "in")
    given = given_of(tmp_path / "in")

    labels = run_model(MODELS["ct_tissue"], {"ct": given}, room(tmp_path), Stopwatch()).labels

    assert set(np.unique(labels)) == {0, 5}


@pytest.mark.long
def test_what_ct_tissue_makes_of_every_case_that_it_takes(
    shared_data: Cases, tmp_path: Path
) -> None:
    rows = {
        name: {"ct_tissue": outcome(MODELS["ct_tissue"], given_of(folder), tmp_path)}
        for name, folder in real_cases(shared_data).items()
        if verdicts(folder).get("ct_tissue") == "taken" and len(judged(folder)) == 1
    }

    print(table(rows))
    assert {row["ct_tissue"] for row in rows.values()} <= {"done", "nothing found"}


def weights_of(model: str, shared_models: Cases, folder: Path) -> Path:
    shutil.copytree(shared_models / "brainchop" / NETWORKS[model], folder / "weights" / model)
    return folder / "weights"


@pytest.mark.long
@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("mr_brain_t1_sag_hfs", {"done"}),
        (LEG_MR, {"implausible_volume", "implausible_border"}),
    ],
)
def test_what_networks_make_of_a_head_is_a_brain_and_of_a_leg_is_none(
    model: str,
    case: str,
    expected: set[str],
    shared_data: Cases,
    shared_models: Cases,
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch")
    given = given_of(shared_data / case, without=["BodyPartExamined"])

    found = outcome(
        MODELS[model], given, tmp_path / "run", weights_of(model, shared_models, tmp_path)
    )

    assert found in expected
