"""``segnode explain``: per rule and clause true, false or unknown, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from tests.cli.conftest import CHEST, Segnode
from tests.support.cases import Cases
from tests.support.malformed import TAKEN, nested_file
from tests.support.phantoms import Phantom

STUDY = """
peers: {PACS: {ae_title: MAINPACS, host: 127.0.0.1, port: 104}}
rules:
  - name: thin
    when: {Modality: CT, SliceThickness: {max: 5}, ContrastBolusAgent: IODINE}
    run: ct_tissue
  - name: thick
    when: {Modality: CT, calling_ae_title: MAINPACS}
    run: ct_tissue
    send: [sender]
"""


def test_an_absent_attribute_is_unknown_and_not_false(segnode: Segnode, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")
    (tmp_path / "node.yaml").write_text(STUDY)

    answer = segnode("explain", "in", "--config", "node.yaml")

    lines = [line.split() for line in answer.out.splitlines()]
    truths = {
        line[1]: line[0] for line in lines if line and line[0] in ("true", "false", "unknown")
    }
    assert truths["Modality:"] == "true"
    assert truths["SliceThickness:"] == "false"
    assert truths["ContrastBolusAgent:"] == "unknown"


def test_the_peer_that_would_send_decides_rule_and_destination(
    segnode: Segnode, tmp_path: Path
) -> None:
    CHEST.write(tmp_path / "in")
    (tmp_path / "node.yaml").write_text(STUDY)

    found = segnode("explain", "in", "--config", "node.yaml", "--json").json
    sent = segnode("explain", "in", "--config", "node.yaml", "--from", "PACS", "--json").json

    assert not found["series"][0]["rules"][1]["would_run"]
    assert sent["series"][0]["rules"][1]["would_run"]
    assert sent["series"][0]["rules"][1]["destinations"] == ["peer:PACS"]


def test_one_file_is_a_series_of_one(segnode: Segnode, tmp_path: Path) -> None:
    path = CHEST.write(tmp_path / "in")[0]

    series = segnode("explain", path, "--json").json["series"][0]

    assert series["inputs"] == 1
    assert series["rules"][0]["truth"] == "true"
    assert not series["rules"][0]["would_run"]
    assert series["rules"][0]["refusals"]


def test_what_is_no_dicom_is_named_and_does_not_hide_the_rest(
    segnode: Segnode, tmp_path: Path
) -> None:
    CHEST.write(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("nothing here")
    (tmp_path / "in" / "empty.dcm").touch()

    body = segnode("explain", "in", "--json").json

    assert {Path(path).name for path in body["not_read"]} == {"notes.txt", "empty.dcm"}
    assert len(body["series"]) == 1


def test_a_path_that_is_not_there_ends_with_1(segnode: Segnode) -> None:
    answer = segnode("explain", "missing")

    assert answer.code == 1
    assert "missing is neither a file nor a folder" in answer.err


@pytest.mark.parametrize(
    ("case", "word"),
    [
        ("ct_gantry_tilt", "shear"),
        ("ct_missing_slice", "gap"),
        ("ct_tiny_series", "16 x 16"),
        ("mr_hitachi_implicit", "no Frame of Reference"),
        ("mr_single_slice_series", "one slice"),
    ],
)
def test_real_series_that_are_no_volume_are_told_why(
    segnode: Segnode, shared_data: Cases, tmp_path: Path, case: str, word: str
) -> None:
    (tmp_path / "any.yaml").write_text(
        "rules: [{name: any, when: {Modality: CT}, run: ct_tissue, send: []}]"
    )

    body = segnode("explain", shared_data / case, "--config", "any.yaml", "--json").json

    findings = " ".join(
        [
            *(finding for series in body["series"] for finding in series["gate"]["findings"]),
            *(
                why
                for series in body["series"]
                for rule in series["rules"]
                for why in rule["refusals"]
            ),
        ]
    )
    assert word in findings
    assert not any(rule["would_run"] for series in body["series"] for rule in series["rules"])


def test_every_broken_file_is_answered_for(segnode: Segnode, shared_data: Cases) -> None:
    files = [path for path in (shared_data / "broken_files").rglob("*") if path.is_file()]

    body = segnode("explain", shared_data / "broken_files", "--json").json

    counted = sum(series["inputs"] + series["others"] for series in body["series"])
    assert counted + len(body["not_read"]) == len(files)


def test_order_of_files_does_not_matter(segnode: Segnode, tmp_path: Path) -> None:
    Phantom(shape=(6, 24, 24)).write(tmp_path / "a")
    Phantom(shape=(6, 24, 24), order="shuffled").write(tmp_path / "b")

    first, second = (
        segnode("explain", folder, "--json").json["series"][0] for folder in ("a", "b")
    )

    assert first["derived"] == second["derived"]
    assert first["gate"] == second["gate"]


SET = """
rules:
  - name: pair
    study: {ct: {Modality: CT, slices: {min: 5}}}
    run: ct_tissue
    send: []
"""


def test_a_study_rule_tells_which_series_fills_which_role(segnode: Segnode, tmp_path: Path) -> None:
    long, short = Phantom(shape=(8, 24, 24)), Phantom(shape=(6, 24, 24), series="short")
    long.write(tmp_path / "in" / "a")
    short.write(tmp_path / "in" / "b")
    (tmp_path / "node.yaml").write_text(SET)

    body = segnode("explain", "in", "--config", "node.yaml", "--json").json
    text = segnode("explain", "in", "--config", "node.yaml").out

    assert [each["roles"] for each in body["studies"]] == [{"ct": long.uid("series")}]
    assert body["studies"][0]["would_run"]
    assert f"role ct: {long.uid('series')}" in text


def test_a_study_rule_that_cannot_choose_says_so(segnode: Segnode, tmp_path: Path) -> None:
    Phantom(shape=(8, 24, 24)).write(tmp_path / "in" / "a")
    Phantom(shape=(8, 24, 24), series="other").write(tmp_path / "in" / "b")
    (tmp_path / "node.yaml").write_text(SET)

    (study,) = segnode("explain", "in", "--config", "node.yaml", "--json").json["studies"]

    assert not study["would_run"]
    assert "two series fit role ct" in study["sentence"]


@pytest.mark.parametrize("fault", ["rows", "cut", "head only"])
def test_what_the_ingest_refuses_is_never_said_to_run(
    segnode: Segnode, tmp_path: Path, fault: str
) -> None:
    paths = CHEST.write(tmp_path / "in")
    for path in paths[::3]:
        instance = dcmread(path)
        instance.Rows += 1
        if fault == "rows":
            instance.save_as(path)
        else:
            path.write_bytes(path.read_bytes()[: 4000 if fault == "cut" else 400])

    series = segnode("explain", "in", "--json").json["series"][0]
    text = segnode("explain", "in").out

    refused = len(paths[::3])
    assert series["held"]["reasons"] == ["images_refused"]
    assert f"{refused} of {len(paths)} images were refused" in series["held"]["sentence"]
    assert series["rules"][0]["truth"] == "true"
    assert not series["rules"][0]["would_run"]
    assert "=> held" in text
    assert "=> runs" not in text


@pytest.mark.parametrize("name", ["group 0004", "UN of undefined length in big endian"])
def test_what_the_ingest_tolerates_is_said_to_run(
    segnode: Segnode, tmp_path: Path, name: str
) -> None:
    kind = next(kind for kind in TAKEN if kind.name == name)
    for number, image in enumerate(CHEST.datasets()):
        path = tmp_path / "in" / f"{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(kind.file(image))

    body = segnode("explain", "in", "--json").json

    assert body["series"][0]["rules"][0]["would_run"]
    assert body["not_read"] == {}


def test_nesting_without_end_is_named_and_ends_nothing(segnode: Segnode, tmp_path: Path) -> None:
    CHEST.write(tmp_path / "in")
    (tmp_path / "in" / "deep.dcm").write_bytes(nested_file(CHEST.datasets()[0], 10_000))

    body = segnode("explain", "in", "--json").json

    ((path, reason),) = body["not_read"].items()
    assert Path(path).name == "deep.dcm"
    assert "nested deeper than 128" in reason
    assert len(body["series"]) == 1
