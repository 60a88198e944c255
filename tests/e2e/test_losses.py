"""Images that were refused: by any cause and road, a series is held, marked, or whole; never less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from node.domain.instance import SeriesState
from node.domain.reasons import codes_of
from node.process.admin import Admin
from node.spool.catalog import SpoolCatalog
from tests.support.http_server import MULTIPART, body_of
from tests.support.node_in_process import STOW_PATH, SharedWorker
from tests.support.raw_dimse import (
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    RawAssociation,
    store_command,
)
from tests.support.simulated_node import CT_RULE, SimulatedNode, ct, said, simulated_node
from tests.support.waiting import eventually
from tests.wrong_inputs import losses
from tests.wrong_inputs.losses import (
    BREAKINGS,
    Breaking,
    cut_in_header,
    empty,
    foreign_syntax,
    pixels_short,
)

SLICES = 8
CT = [(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,))]
PROCEED: dict[str, Any] = {"completion": {"on_refused": "proceed"}}


@pytest.fixture(scope="module")
def worker() -> Iterator[SharedWorker]:
    shared = SharedWorker()
    yield shared
    shared.close()


@pytest.fixture
def node(tmp_path: Path, worker: SharedWorker) -> Iterator[SimulatedNode]:
    with simulated_node(tmp_path, worker) as simulated:
        yield simulated


def broken(breaking: Breaking, *which: int) -> list[bytes]:
    return [breaking(file) if index in which else file for index, file in enumerate(ct().files())]


def notes(node: SimulatedNode) -> list[str]:
    """What each SEG says of the images that it was made of."""
    return [str(seg.ContentDescription) for seg in node.segmentations()]


def jobs(node: SimulatedNode) -> list[tuple[int, str]]:
    return [(row["revision"], row["state"]) for row in node.table("job")]


# --- held, and what frees it ---------------------------------------------------------------------


def test_a_series_of_which_images_were_refused_is_held_a_second_after_its_end(
    node: SimulatedNode,
) -> None:
    node.receive(broken(pixels_short, 6, 7))

    node.tick(0.2)
    before = node.series(ct()).state
    node.tick(1.0)

    row = node.series(ct())
    assert before is SeriesState.RECEIVING
    assert (row.state, codes_of(row.reasons)) == ("held", ["images_refused"])
    assert said(row).startswith("2 of 8 images were refused (2 x the pixel data are not ")
    assert jobs(node) == []


def test_images_that_come_after_all_let_it_go_on_by_itself(node: SimulatedNode) -> None:
    node.receive(broken(pixels_short, 0, 5))
    node.run()
    node.receive([ct().files()[0], ct().files()[5]])

    node.run()

    assert (node.series(ct()).state, len(node.series(ct()).snapshot)) == ("complete", SLICES)
    assert [seg.ContentDescription for seg in node.segmentations()] == [
        "For research use only, not for diagnostic use"
    ]


def test_a_result_made_by_proceeding_says_so_in_job_api_and_object(node: SimulatedNode) -> None:
    node.receive(broken(pixels_short, 6, 7))
    node.settle()
    node.decide(ct(), "proceed")

    node.run()

    (job,) = node.table("job")
    (seg,) = node.segmentations()
    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert job["sentence"].startswith("made of 6 of 8 images")
    assert job["reasons"] == node.table("match")[0]["reasons"] == ["images_missing"]
    assert node.node.api(f"/jobs/{job['id']}")["inputs"]["image"]["missing"] == 2
    assert node.node.api(f"/series/{ct().uid('series')}")["missing"] == 2
    assert seg.ContentDescription == "RESEARCH, INCOMPLETE INPUT: 6 of 8 images"
    assert "incomplete_input=6 of 8 images" in algorithm.AlgorithmParameters


def test_the_policy_may_go_on_and_the_result_is_marked(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with simulated_node(tmp_path, worker, **PROCEED) as node:
        node.receive(broken(pixels_short, 7))
        node.run()

        assert notes(node) == ["RESEARCH, INCOMPLETE INPUT: 7 of 8 images"]


def test_what_was_accepted_is_not_asked_for_again_and_stays_marked(node: SimulatedNode) -> None:
    node.receive(broken(pixels_short, 6, 7))
    node.settle()
    node.decide(ct(), "proceed")
    node.run()

    node.receive([ct().files()[6]])
    node.run()

    assert notes(node) == [f"RESEARCH, INCOMPLETE INPUT: {n} of 8 images" for n in (6, 7)]


def test_to_judge_again_does_not_free_it(node: SimulatedNode) -> None:
    node.receive(broken(pixels_short, 7))
    node.settle()
    node.decide(ct(), "rerun")

    node.run()

    assert (node.series(ct()).state, node.series(ct()).forced, jobs(node)) == ("held", None, [])


def test_to_accept_a_refused_image_lets_it_go_on_by_itself(node: SimulatedNode) -> None:
    """The series was first seen with another patient's image, which a person then accepts."""
    files = [*ct().files()[:7], *ct(PatientID="another").files()[7:]]
    node.receive(files)
    node.settle()
    assert node.series(ct()).state == "held"
    (kept,) = SpoolCatalog(node.node.engine).list_quarantine().rows

    Admin(node.node.plan, node.node.engine, node.node.door).accept_quarantine(kept["id"])
    node.run()

    assert len(node.series(ct()).snapshot) == SLICES
    assert len(node.segmentations()) == 1


def test_an_image_lost_after_the_series_was_settled_stops_what_has_not_left(
    node: SimulatedNode,
) -> None:
    """Eight of nine are a whole stack; the ninth is refused later, in an association of its own."""
    nine = ct(slices=9)
    node.receive(nine.files()[:8])
    node.settle()
    assert jobs(node) == [(1, "queued")]

    node.receive([pixels_short(nine.files()[8])])
    node.run()

    assert node.series(nine).state == "held"
    assert jobs(node) == [(1, "cancelled")]

    node.receive([nine.files()[8]])
    node.run()

    assert len(node.series(nine).snapshot) == 9
    assert notes(node) == ["For research use only, not for diagnostic use"]


def test_to_judge_a_settled_series_again_notices_what_was_lost_of_it(node: SimulatedNode) -> None:
    nine = ct(slices=9)
    node.receive(nine.files()[:8])
    node.run()
    node.receive([pixels_short(nine.files()[8])])
    node.decide(nine, "rerun")

    node.run()

    assert node.series(nine).state == "held"
    assert node.match_states() == [(1, "superseded")]


def test_a_refused_object_that_is_no_image_is_no_loss(node: SimulatedNode) -> None:
    report = dcmread(BytesIO(ct().files()[0]))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"

    node.receive([*ct().files(), losses.one_row_too_many(losses.file_of(report))])
    node.run()

    assert node.series(ct()).state == "complete"


def test_a_refused_copy_of_what_is_kept_is_no_loss(node: SimulatedNode) -> None:
    files = ct().files()
    node.receive([*files, pixels_short(files[3])])

    node.run()

    assert (node.series(ct()).state, len(node.segmentations())) == ("complete", 1)


# --- losses that name no series ------------------------------------------------------------------


def test_an_image_that_names_no_series_counts_against_those_beside_it(node: SimulatedNode) -> None:
    post(node, broken(empty, 7))
    post(node, ct("other", study="other").files())

    node.run()

    assert node.series(ct()).state == "held"
    assert node.series(ct("other", study="other")).state == "complete"


def test_it_counts_beside_images_that_were_there_before(node: SimulatedNode) -> None:
    """The sender was cut off after seven, and sends all again; the eighth arrives broken."""
    node.receive(ct().files()[:7], end="aborted")
    post(node, broken(cut_in_header, 7))

    node.run()

    assert node.series(ct()).state == "held"


def test_one_image_per_association_finds_its_series_by_its_sender(node: SimulatedNode) -> None:
    for index, file in enumerate(ct().files()):
        send(node, [cut_in_header(file) if index == 7 else file], [sop_instance_uids()[index]])

    node.run()

    assert node.series(ct()).state == "held"


def test_a_whole_series_sent_again_settles_an_image_without_a_name(node: SimulatedNode) -> None:
    post(node, broken(empty, 2, 7))
    node.settle()
    post(node, ct().files())

    node.run()

    assert (node.series(ct()).state, len(node.segmentations())) == ("complete", 1)


def test_the_rest_of_a_series_does_not_settle_an_image_without_a_name(
    node: SimulatedNode,
) -> None:
    """Seven, of which one has no name, in a first request; the last one in a second."""
    post(node, [*broken(empty, 3)[:7]])
    post(node, ct().files()[7:])

    node.run()

    assert node.series(ct()).state == "held"


def test_files_of_one_folder_do_not_count_against_series_of_another(
    node: SimulatedNode, tmp_path: Path
) -> None:
    good = ct("good", study="good")
    write(tmp_path / "in" / "a", broken(empty, 7))
    write(tmp_path / "in" / "b", good.files())
    (tmp_path / "in" / "b" / "README.txt").write_text("how this was made")

    node.node.scan(tmp_path / "in")
    node.run()

    assert (node.series(ct()).state, node.series(good).state) == ("held", "complete")


def test_a_file_put_right_settles_its_loss_and_quarantine_names_it(
    node: SimulatedNode, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    write(folder, broken(empty, 7))
    node.node.scan(folder)
    node.settle()
    (kept,) = SpoolCatalog(node.node.engine).list_quarantine().rows
    assert kept["source"] == str(folder / "7.dcm")

    (folder / "7.dcm").write_bytes(ct().files()[7])
    node.node.scan(folder)
    node.run()

    assert len(node.series(ct()).snapshot) == SLICES


# --- a sender that was cut off -------------------------------------------------------------------


def test_an_instance_cut_off_in_the_middle_is_missing_until_it_comes(node: SimulatedNode) -> None:
    files, uids = ct().files(), sop_instance_uids()
    with RawAssociation(node.node.dicom_port, timeout_s=30) as association:
        association.request(CT)
        for file, uid in zip(files[:7], uids, strict=False):
            association.store(data_set(file), uid)
        association.command(1, store_command(uids[7], message_id=99))
        association.data(1, data_set(files[7])[:500], is_whole=False)
        association.abort()
    wait_until_closed(node)

    node.run()

    row = node.series(ct())
    assert row.state == "held"
    assert said(row).startswith("1 of 8 images was refused (1 x its transfer was cut off)")


# --- any subset, any cause, any road -------------------------------------------------------------


@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    which=st.sets(st.integers(0, SLICES - 1), min_size=1, max_size=SLICES),
    breakings=st.lists(st.sampled_from(BREAKINGS), min_size=SLICES, max_size=SLICES),
    order=st.permutations(range(SLICES)),
    transport=st.sampled_from(["dimse", "stow", "folder"]),
)
def test_no_unmarked_result_ever_and_one_right_result_when_sent_again(
    which: set[int],
    breakings: Sequence[Breaking],
    order: Sequence[int],
    transport: str,
    worker: SharedWorker,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    files = ct().files()
    if (
        transport == "dimse"
    ):  # the context of a foreign syntax is refused: such an image is never sent
        breakings = [empty if one is foreign_syntax else one for one in breakings]
    sent = [breakings[i](files[i]) if i in which else files[i] for i in order]
    folder = tmp_path_factory.mktemp("any")
    with simulated_node(folder, worker, rules=[CT_RULE]) as node:
        go(node, transport, folder / "in", sent, order)
        node.run()
        assert node.segmentations() == []
        if len(which) < SLICES:
            assert node.series(ct()).state == "held"

        go(node, transport, folder / "in", [files[i] for i in order], order)
        node.run()

        (seg,) = node.segmentations()
        assert seg.ContentDescription == "For research use only, not for diagnostic use"
        (series,) = seg.ReferencedSeriesSequence
        assert len(series.ReferencedInstanceSequence) == SLICES


# --- roads ---------------------------------------------------------------------------------------


def go(
    node: SimulatedNode, transport: str, folder: Path, files: Sequence[bytes], order: Sequence[int]
) -> None:
    if transport == "folder":
        write(folder, files)
        node.node.scan(folder)
    elif transport == "stow":
        post(node, files)
    else:
        send(node, files, [sop_instance_uids()[index] for index in order])


def post(node: SimulatedNode, files: Sequence[bytes]) -> None:
    body = body_of(*files)
    node.node.site.request("POST", STOW_PATH, body, {"Content-Type": MULTIPART})
    wait_until_closed(node)


def sop_instance_uids() -> list[str]:
    return [str(dcmread(BytesIO(file)).SOPInstanceUID) for file in ct().files()]


def send(node: SimulatedNode, files: Sequence[bytes], uids: Sequence[str]) -> None:
    """By C-STORE, announced as what the files were before they were broken."""
    with RawAssociation(node.node.dicom_port, timeout_s=30) as association:
        association.request(CT)
        for file, uid in zip(files, uids, strict=True):
            association.store(data_set(file), uid)
        association.release()
    wait_until_closed(node)


def wait_until_closed(node: SimulatedNode) -> None:
    assert eventually(lambda: all(row["closed_at"] for row in node.node.rows("association")))


def data_set(file: bytes) -> bytes:
    if file[128:132] != b"DICM":
        return file
    return file[144 + int.from_bytes(file[140:144], "little") :]


def write(folder: Path, files: Sequence[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(file)
