"""Every real case over every road: answers, states, sentences, results (table in ``real_cases``).

Each row runs in a fresh data folder, with the parts of the node composed in one process and inference
in a real child; the last test takes the road through ``segnode serve``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from node.domain.instance import Forced
from node.spool.arrivals import Arrivals
from tests.e2e import real_cases
from tests.e2e.real_cases import CASES, DONE, MEMBERS, PARKED, STS, Case, Series
from tests.e2e.real_roads import ROADS
from tests.support.cases import Cases, manifest
from tests.support.node_in_process import (
    MODELS_PROBE,
    NodeInProcess,
    SharedWorker,
    node_in_process,
)
from tests.support.peers import DCMSEND, Node, need
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.peers,
    # headers of real cases are read as they are
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]

# answers that nothing is kept of: the data set was never taken, or never belonged to a command
NOT_KEPT = ("context refused", "0122")
# a Study ID beyond 16 characters; a Specific Character Set without a value
COPIED_FAULTS = {
    "StudyID": re.compile(
        r"Error - </StudyID\(0020,0010\)\[1\]> - Value invalid for this VR \[SH\] = "
        r"<IBSI_1_STS_001_\w+> - Length invalid for this VR = <\d\d> - expected <= 16"
    ),
    "SpecificCharacterSet": re.compile(
        r"Error - </SpecificCharacterSet\(0008,0005\)> - Empty attribute \(no value\) "
        r"for Type 1C Conditional - Module=<SOPCommon>"
    ),
}
# PS3.3 C.7.1.1, C.7.2.1: what a result has in common with its source, byte for byte
COMMON = (
    "SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "StudyDescription",
)  # fmt: skip


@pytest.fixture(scope="session")
def worker() -> Iterator[SharedWorker]:
    """One warm child for all rows."""
    shared = SharedWorker()
    yield shared
    shared.close()


@pytest.fixture
def node(tmp_path: Path, worker: SharedWorker) -> Iterator[NodeInProcess]:
    with node_in_process(tmp_path, _config(tmp_path), worker) as opened:
        yield opened


def _config(folder: Path) -> dict[str, Any]:
    shelf = folder / "shelf"
    shelf.mkdir()
    return {
        "models_dirs": [str(MODELS_PROBE)],
        "destinations": {"shelf": {"kind": "folder", "path": str(shelf)}},
        "rules": real_cases.RULES,
    }


# --- the table ----------------------------------------------------------------------------------


def test_every_case_that_there_is_has_a_row() -> None:
    listed = [file.path.split("/") for file in manifest() if file.path.startswith("data/")]
    there = {"/".join(parts[1:3]) if parts[1] == STS else parts[1] for parts in listed}

    for transport in ROADS:
        assert {case.folder for case, of_road in real_cases.rows() if of_road == transport} == there


@pytest.mark.parametrize(
    ("case", "transport"), real_cases.rows(), ids=[f"{c}-{r}" for c, r in real_cases.rows()]
)
def test_a_case_ends_as_its_row_says(
    node: NodeInProcess, shared_data: Cases, tmp_path: Path, case: Case, transport: str
) -> None:
    _send(node, case, transport, shared_data, tmp_path)

    node.settle()
    if case.held:
        _go_on(node, case.held)
    node.work()

    _check_series(node, case)
    done = [one for one in case.series if one.state == DONE]
    _check_jobs(node, done)
    for seg in node.segmentations():
        faults = _validator_errors(seg)
        assert len(faults) == bool(case.copied_fault)
        assert all(COPIED_FAULTS[case.copied_fault].fullmatch(fault) for fault in faults)
    _check_nothing_runs_again(node)


@pytest.mark.parametrize("transport", ROADS)
@pytest.mark.parametrize("folder", MEMBERS)
def test_encodings_of_one_instance_are_stored_with_equal_pixels(
    shared_data: Cases, tmp_path: Path, worker: SharedWorker, folder: str, transport: str
) -> None:
    pixels: dict[str, list[np.ndarray]] = {}
    for number, case in enumerate(MEMBERS[folder]):
        own = tmp_path / str(number)
        own.mkdir()
        with node_in_process(own, _config(own), worker) as node:
            _send(node, case, transport, shared_data, own)
            node.settle()
            _check_series(node, case)
            pixels[case.member] = _stored_pixels(node)

    first, *others = pixels.values()
    for other in others:
        assert len(first) == len(other)
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def _send(
    node: NodeInProcess, case: Case, transport: str, shared_data: Cases, tmp_path: Path
) -> None:
    files = case.files(shared_data)
    answers = ROADS[transport](node, files, tmp_path)

    expected = {name: case.answer(name, transport) for name in files}
    assert answers == expected
    failed = [answer for answer in expected.values() if answer not in ("0000", *NOT_KEPT)]
    assert len(node.rows("instance")) == case.stored
    assert sorted(f"{row['dimse_status']:04X}" for row in node.rows("quarantine")) == sorted(
        answer[:4] for answer in failed
    )


def _check_series(node: NodeInProcess, case: Case) -> None:
    """Each expected series has one that fits, and none is left."""
    left = {row["series_instance_uid"]: row for row in node.rows("series")}
    for expected in case.series:
        for _ in range(expected.times):
            fitting = [uid for uid, row in left.items() if _fits(node, row, expected)]
            assert fitting, (expected, [_told(node, row) for row in left.values()])
            del left[fitting[0]]
    assert not left


def _go_on(node: NodeInProcess, why: str) -> None:
    """Every series is held, for this reason and without a job, until a person lets it go on."""
    assert node.jobs == []
    held = [row for row in node.rows("series") if row["frames"]]
    assert held
    for row in held:
        assert (row["state"], row["reasons"]) == ("held", ["images_refused"])
        assert why in row["sentence"]
        Arrivals(node.engine).force(row["series_instance_uid"], Forced.PROCEED)
    node.settle()


def _fits(node: NodeInProcess, row: dict[str, Any], expected: Series) -> bool:
    (match,) = node.matches(row["series_instance_uid"])
    notes = (row["gate"] or {}).get("notes", [])
    is_fitting = (row["modality"], row["instances"]) == (expected.modality, expected.instances)
    return (
        is_fitting
        and row["state"] == "complete"
        and match["state"] == expected.state
        and len(row["snapshot"] or ()) == _images(expected)
        and [note.split(":")[0] for note in notes] == list(expected.notes)
        and _says(match["sentence"], row["series_instance_uid"], expected)
    )


def _images(expected: Series) -> int:
    if expected.state == real_cases.NOT_AN_INPUT:
        return 0
    return expected.instances if expected.images is None else expected.images


def _says(sentence: str, series_instance_uid: str, expected: Series) -> bool:
    if expected.state != PARKED:
        return all(words in sentence for words in expected.says)
    # a parked series names every finding and the command that frees it
    findings = sentence.removesuffix(
        f": judge again with: segnode series rerun {series_instance_uid}"
    ).split("; ")
    return (
        findings[-1] != sentence
        and len(findings) == len(expected.says)
        and all(f.startswith(s) for f, s in zip(findings, expected.says, strict=True))
    )


def _told(node: NodeInProcess, row: dict[str, Any]) -> tuple[Any, ...]:
    matches = node.matches(row["series_instance_uid"])
    return row["modality"], row["instances"], [(m["state"], m["sentence"]) for m in matches]


def _check_jobs(node: NodeInProcess, done: Sequence[Series]) -> None:
    """One job, one attempt, one SEG, one delivery for each series that is inferred."""
    jobs = node.jobs
    assert [(job["state"], job["attempts"]) for job in jobs] == [("done", 1)] * len(done)
    given = [one["instances"] for job in jobs for one in job["inputs"].values()]
    assert Counter(map(len, given)) == Counter(map(_images, done))
    assert [len(job["deliveries"]) for job in jobs] == [1] * len(done)
    segmentations = node.segmentations()
    assert len(segmentations) == len(done)
    referenced = Counter(len(_referenced(dcmread(path))) for path in segmentations)
    assert referenced == Counter(map(_images, done))


def _referenced(seg: Dataset) -> set[str]:
    """PS3.3 C.12.4: the source instances that a result names."""
    (series,) = seg.ReferencedSeriesSequence
    return {str(item.ReferencedSOPInstanceUID) for item in series.ReferencedInstanceSequence}


def _check_nothing_runs_again(node: NodeInProcess) -> None:
    before = [(job["id"], job["attempts"]) for job in node.jobs]

    node.settle(after_s=600)
    node.restart_settling()
    node.settle(after_s=700)
    node.work()

    assert [(job["id"], job["attempts"]) for job in node.jobs] == before


def _validator_errors(path: Path) -> list[str]:
    done = subprocess.run(
        [need("/usr/bin/dciodvfy"), "-new", path], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert "Segmentation" in lines  # it knew what it looked at
    return [line for line in lines if line.startswith(("Error", "Abort"))]


def _stored_pixels(node: NodeInProcess) -> list[np.ndarray]:
    folder = node.data_dir / "spool" / "instances"
    rows = sorted(node.rows("instance"), key=lambda row: row["sop_instance_uid"])
    return [dcmread(folder / row["file_name"]).pixel_array for row in rows]


# --- once, whatever comes again -------------------------------------------------------------------


def test_a_series_that_comes_by_every_road_is_inferred_once(
    node: NodeInProcess, shared_data: Cases, tmp_path: Path
) -> None:
    case = _case("plain")
    for transport in ROADS:
        _send(node, case, transport, shared_data, tmp_path)
        node.settle()
        node.work()

    _check_jobs(node, case.series)


def test_a_conflict_is_flagged(node: NodeInProcess, shared_data: Cases, tmp_path: Path) -> None:
    _send(node, _case("same_uid_other_pixels"), "folder", shared_data, tmp_path)

    (event,) = node.rows("event")
    assert event["kind"] == "conflict"
    assert node.api("/quarantine")["total"] == 1


def test_raw_data_of_a_series_is_no_input_beside_its_images(
    node: NodeInProcess, shared_data: Cases, tmp_path: Path
) -> None:
    case = next(c for c in CASES if c.folder == "mr_enhanced_philips_phantom")
    _send(node, case, "dimse", shared_data, tmp_path)

    by_series: dict[str, Counter[bool]] = {}
    for row in node.rows("instance"):
        by_series.setdefault(row["series_instance_uid"], Counter())[bool(row["is_input"])] += 1
    assert sorted(map(sorted, (c.items() for c in by_series.values()))) == [
        [(False, 1), (True, 1)],
        [(True, 24)],
    ]


def _case(name: str) -> Case:
    return next(case for case in CASES if case.folder == f"{STS}/{name}")


# PS3.5 Annexes H to K, as the files say them
NAMES = {
    "chrArab.dcm": "قباني^لنزار",
    "chrFren.dcm": "Buc^Jérôme",
    "chrGerm.dcm": "Äneas^Rüdiger",
    "chrGreek.dcm": "Διονυσιος",
    "chrH31.dcm": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "chrH32.dcm": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    "chrHbrw.dcm": "שרון^דבורה",
    "chrI2.dcm": "Hong^Gildong=洪^吉洞=홍^길동",
    "chrJapMulti.dcm": "やまだ^たろう",
    "chrKoreanMulti.dcm": "김희중",
    # its file mixes Latin letters in
    "chrRuss.dcm": "Люкceмбypг",  # noqa: RUF001
    "chrX1.dcm": "Wang^XiaoDong=王^小東",
    "chrX2.dcm": "Wang^XiaoDong=王^小东",
}


def test_names_in_every_character_set_are_right_in_index_and_api(
    node: NodeInProcess, shared_data: Cases, tmp_path: Path
) -> None:
    folder = shared_data / "charsets"
    (tmp_path / "inbox").mkdir()
    for name in NAMES:
        shutil.copy(folder / name, tmp_path / "inbox" / name)
    node.scan(tmp_path / "inbox")
    node.settle()

    for name, patient_name in NAMES.items():
        uid = str(dcmread(folder / name).SeriesInstanceUID)
        assert node.api(f"/series/{uid}")["patient_name"] == patient_name
    assert {row["patient_name"] for row in node.rows("series")} == set(NAMES.values())


# --- what parks for one reason: copies with a Frame of Reference ----------------------------------------


@pytest.mark.parametrize(
    "case",
    [c for c in real_cases.WHOLE if real_cases.NO_FRAME_OF_REFERENCE in c.series[0].says],
    ids=str,
)
def test_a_copy_with_a_frame_of_reference_parks_for_its_own_finding_alone(
    node: NodeInProcess, shared_data: Cases, tmp_path: Path, case: Case
) -> None:
    (expected,) = case.series
    inbox = tmp_path / "copies"
    for name, path in case.files(shared_data).items():
        instance = dcmread(path)
        instance.FrameOfReferenceUID = "1.2.3.4"
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        instance.save_as(inbox / name)

    node.scan(inbox)
    node.settle()

    (row,) = node.rows("series")
    (match,) = node.matches(row["series_instance_uid"])
    own = expected.says[1:]
    if own:
        assert match["state"] == PARKED
        assert match["sentence"].startswith(own[0])
        assert "; " not in match["sentence"]
    else:
        assert match["state"] == "queued"


# --- what is in the SEG ---------------------------------------------------------------------------

SegOf = Callable[..., Path]


@pytest.fixture(scope="module")
def seg_of(
    shared_data: Cases, tmp_path_factory: pytest.TempPathFactory, worker: SharedWorker
) -> SegOf:
    """(folder of a case) -> the SEG of its only inferred series, by folder; kept for the module."""

    @cache
    def made(folder: str) -> Path:
        own = tmp_path_factory.mktemp("seg")
        config = _config(own) | {"completion": {"on_refused": "proceed"}}
        with node_in_process(own, config, worker) as node:
            node.scan(shared_data / folder)
            node.settle()
            node.work()
            (path,) = node.segmentations()
        return path

    return made


DERIVED_DONE = [c.folder for c in real_cases.DERIVED if c.series[0].state == DONE]


@pytest.mark.parametrize("folder", DERIVED_DONE)
def test_patient_and_study_attributes_are_byte_for_byte_those_of_the_source(
    shared_data: Cases, seg_of: SegOf, folder: str
) -> None:
    sources = [p for p in sorted((shared_data / folder).glob("*.dcm")) if "README" not in p.name]
    good = next(p for p in sources if p.name.startswith(("000", "good_0")))

    assert _raw(seg_of(folder)) == _raw(good)


def _raw(path: Path) -> dict[str, bytes | str]:
    """Values as they stand in the file, without padding."""
    dataset = dcmread(path, stop_before_pixels=True)
    found = {}
    for keyword in COMMON:
        if keyword in dataset:
            element = dataset.get_item(keyword)
            # Specific Character Set is decoded as soon as a file is read
            value = element.value if isinstance(element, RawDataElement) else str(element.value)
            found[keyword] = value.rstrip(b" \0") if isinstance(value, bytes) else value or b""
    return found


@pytest.mark.parametrize("name", ["private_tags", "plain"])
def test_no_private_attribute_comes_into_the_seg(seg_of: SegOf, name: str) -> None:
    groups = {element.tag.group for element in dcmread(seg_of(f"{STS}/{name}")).iterall()}

    assert not {group for group in groups if group % 2}


@pytest.mark.parametrize(
    "name",
    [c.folder.removeprefix(f"{STS}/") for c in real_cases.DERIVED if "/ts_" in c.folder]
    + ["shuffled_no_instance_order", "no_body_part_no_description", "exact_duplicates"],
)
def test_an_encoding_gives_the_label_volume_of_the_plain_one(seg_of: SegOf, name: str) -> None:
    plain, other = (_labels(seg_of(f"{STS}/{case}")) for case in ("plain", name))

    assert np.allclose(plain.affine, other.affine)
    assert plain.array.any()
    assert np.array_equal(plain.array, other.array)


def test_classic_and_converted_images_give_equal_voxels(
    shared_data: Cases, worker: SharedWorker, tmp_path: Path
) -> None:
    """By a model that takes any quantity: that of these images is unspecified."""
    case = next(c for c in CASES if c.folder == "ct_legacy_converted_enhanced")
    config = _config(tmp_path)
    config["rules"] = [{"name": "ct", "when": {"Modality": "CT"}, "run": "probe"}]
    with node_in_process(tmp_path, config, worker) as node:
        _send(node, case, "stow", shared_data, tmp_path)
        node.settle()
        node.work()

        one, other = (_labels(path) for path in node.segmentations())

    assert np.allclose(one.affine, other.affine)
    assert one.array.any()
    assert np.array_equal(one.array, other.array)


def _labels(path: Path) -> hd.Volume:
    """The SEG as highdicom reads it: segment numbers on a grid in patient space."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hd.seg.segread(path).get_volume(combine_segments=True, rtol=0.05)


def _names(path: Path) -> dict[int, str]:
    return {
        int(segment.SegmentNumber): str(segment.SegmentLabel)
        for segment in dcmread(path, stop_before_pixels=True).SegmentSequence
    }


@pytest.mark.parametrize(
    ("reference", "other", "mirror", "agreement"),
    [
        # equal pixels under a row direction of -X: the patient mirrored at x = 0
        (f"{STS}/plain", f"{STS}/flipped_x_ffp", (-1, 1, 1), 0.99),
        # other slices of the same patient, cut from the whole CT
        ("study_ct_mr_pet_sts_001/ct", f"{STS}/coronal_reslice", (1, 1, 1), 0.8),
        ("study_ct_mr_pet_sts_001/ct", f"{STS}/sagittal_reslice", (1, 1, 1), 0.8),
    ],
)
def test_another_lattice_gives_the_same_labels_in_patient_space(
    seg_of: SegOf, reference: str, other: str, mirror: tuple[int, int, int], agreement: float
) -> None:
    paths = seg_of(reference), seg_of(other)
    at, labels = _labels(paths[0]), _labels(paths[1])
    names = _names(paths[0]), _names(paths[1])

    index = np.argwhere(labels.array)
    points = (index @ labels.affine[:3, :3].T + labels.affine[:3, 3]) * mirror
    back = np.linalg.inv(at.affine)
    places = np.rint(points @ back[:3, :3].T + back[:3, 3]).astype(int)
    inside = np.all((places >= 0) & (places < at.array.shape), axis=1)
    expected = [names[0].get(int(n), "") for n in at.array[tuple(places[inside].T)]]
    found = [names[1][int(n)] for n in labels.array[tuple(index[inside].T)]]

    assert len(found) > 1000
    assert np.mean(np.array(expected) == np.array(found)) > agreement


# --- through the real processes -------------------------------------------------------------------


def test_segnode_serve_takes_a_real_study_a_real_ct_and_a_name_once(
    shared_data: Cases, tmp_path: Path
) -> None:
    config = _config(tmp_path)
    config["completion"] = {"quiet_s": 1, "quiet_max_s": 2}
    cases = [
        case
        for case in CASES
        if not case.member
        and case.folder
        in (
            "study_ct_mr_pet_sts_001",
            "ct_abdomen_crlm-ct-1004",
            "mr_enhanced_hyperfine",
            f"{STS}/names_iso2022jp",
        )
    ]
    expected = Counter(one.state for case in cases for one in case.series for _ in range(one.times))
    with Node(tmp_path / "node", config=config) as node:
        for _ in range(2):
            for case in cases:
                sent = subprocess.run(
                    [
                        need(DCMSEND), "--decompress-never", "--no-halt",
                        "-aec", "SEGNODE", "127.0.0.1", str(node.dicom_port),
                        *case.files(shared_data).values(),
                    ],
                    capture_output=True,
                    check=False,
                    timeout=120,
                )  # fmt: skip
                assert sent.returncode == 0, sent.stderr

            def states() -> Counter[str]:
                series = node.api("/series")["items"]
                return Counter(
                    match["state"]
                    for row in series
                    for match in node.api(f"/series/{row['series_instance_uid']}")["matches"]
                )

            wait_for("all series", lambda: states() == expected)
        jobs = node.api("/jobs")["items"]
        wait_for(
            "all deliveries",
            lambda: len(list((tmp_path / "shelf").rglob("*.dcm"))) == expected[DONE],
        )

    assert [(job["state"], job["attempts"]) for job in jobs] == [("done", 1)] * expected[DONE]
