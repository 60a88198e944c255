"""Real files straight into the ingest: the answers of the case list."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from node.domain.errors import InstanceRejected
from node.receive.syntaxes import decodable_syntaxes
from tests.support.cases import Cases
from tests.support.instances import Node, opened_node

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

STRUCTURE, PIXELS = 0xC000, 0xC010

# one file per data folder
BROKEN = {
    "ExplVR_BigEndNoMeta.dcm": "stored",
    "ExplVR_LitEndNoMeta.dcm": "stored",
    "J2K_pixelrep_mismatch.dcm": "stored",
    "MR_truncated.dcm": STRUCTURE,
    "UN_sequence.dcm": STRUCTURE,
    "badVR.dcm": PIXELS,
    "bad_sequence.dcm": STRUCTURE,
    "empty_charset_LEI.dcm": STRUCTURE,
    "explicit_VR-UN.dcm": "stored",
    "meta_missing_tsyntax.dcm": STRUCTURE,
    "nested_priv_SQ.dcm": STRUCTURE,
    "no_meta.dcm": STRUCTURE,
    "no_meta_group_length.dcm": STRUCTURE,
    "priv_SQ.dcm": STRUCTURE,
    "rtplan_truncated.dcm": STRUCTURE,
}


def answer(node: Node, path: Path) -> str | int:
    try:
        return node.store_file(path.read_bytes()).state.value
    except InstanceRejected as rejection:
        return rejection.dimse_status


def answers(node: Node, folder: Path) -> dict[str, str | int]:
    return {path.name: answer(node, path) for path in sorted(folder.rglob("*.dcm"))}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_file_gets_its_answer_and_a_place(
    shared_data: Cases, tmp_path: Path, name: str
) -> None:
    with opened_node(tmp_path, transfer_syntaxes=decodable_syntaxes()) as node:
        got = answer(node, shared_data / f"broken_files/{name}")

        assert got == BROKEN[name]
        assert len(node.rows("quarantine")) == (0 if got == "stored" else 1)


def test_one_instance_in_eight_encodings_is_stored_once(shared_data: Cases, tmp_path: Path) -> None:
    with opened_node(tmp_path, transfer_syntaxes=decodable_syntaxes()) as node:
        got = answers(node, shared_data / "mr_small_transfer_syntaxes")

    assert Counter(got.values()) == {"stored": 1, "duplicate": 7}


def test_an_enhanced_instance_in_six_encodings_is_stored_once_and_the_short_one_refused(
    shared_data: Cases, tmp_path: Path
) -> None:
    with opened_node(tmp_path, transfer_syntaxes=decodable_syntaxes()) as node:
        got = answers(node, shared_data / "mr_enhanced_small_transfer_syntaxes")

    assert got.pop("emri_small_jpeg_2k_lossless_too_short.dcm") == STRUCTURE
    assert Counter(got.values()) == {"stored": 1, "duplicate": 4}


def test_corrupt_files_among_good_ones_are_refused_alone(
    shared_data: Cases, tmp_path: Path
) -> None:
    with opened_node(tmp_path) as node:
        got = answers(node, shared_data / "derived_ct_sts_001" / "corrupt")

        assert len(node.rows("quarantine")) == 6

    assert got == {
        **{f"good_{number}.dcm": "stored" for number in range(6)},
        "no_preamble.dcm": "duplicate",
        "absurd_rows.dcm": PIXELS,
        "short_pixels.dcm": PIXELS,
        "trunc60.dcm": STRUCTURE,
        "trunc_header.dcm": STRUCTURE,
        "text.dcm": STRUCTURE,
        "empty.dcm": STRUCTURE,
    }


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("derived_ct_sts_001/exact_duplicates", {"stored": 10, "duplicate": 2}),
        ("derived_ct_sts_001/same_uid_other_pixels", {"stored": 10, 0xC020: 1}),
        ("derived_ct_sts_001/ts_deflated", {"stored": 10}),
        ("derived_ct_sts_001/ts_big_endian", {"stored": 10}),
        ("derived_ct_sts_001/names_iso2022jp", {"stored": 4}),
        ("deflated", {"stored": 3, 0xC122: 1}),
        ("non_image_objects", {"stored": 10}),
        ("dicomdir_tiny_alpha", {"stored": 50}),
        ("mr_enhanced_philips_phantom", {"stored": 26}),
    ],
)
def test_each_case_gets_its_answers(
    shared_data: Cases, tmp_path: Path, case: str, expected: dict[str | int, int]
) -> None:
    folder = shared_data / case
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".md"]
    with opened_node(tmp_path, transfer_syntaxes=decodable_syntaxes()) as node:
        got = Counter(answer(node, path) for path in paths)

    assert got == expected


@pytest.mark.parametrize(
    "case",
    [
        "dicomdir_tiny_alpha",
        "non_image_objects/rtstruct.dcm",
        "deflated/liver_rle.dcm",
        "seg_liver_ct3slice",
    ],
)
def test_what_is_no_image_is_stored_and_no_input(
    shared_data: Cases, tmp_path: Path, case: str
) -> None:
    path = shared_data / case
    paths = [path] if path.is_file() else [p for p in path.glob("*") if p.suffix != ".md"]
    with opened_node(tmp_path, transfer_syntaxes=decodable_syntaxes()) as node:
        assert {answer(node, p) for p in paths if p.is_file()} == {"stored"}
        assert not any(row["is_input"] for row in node.rows("instance"))
