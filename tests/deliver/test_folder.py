"""Results into a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from node.deliver.folder import FolderDestination
from node.domain.delivery import DeliveryClass


def shelf(path: Path, **options: str) -> FolderDestination:
    return FolderDestination(name="shelf", path=path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "shelf"
    path.mkdir()
    return path


def test_the_layout_names_the_file(make_object, folder) -> None:
    deliverable = make_object()

    outcome = shelf(folder, layout="{SeriesInstanceUID}/{model}.{ext}").send(deliverable)

    target = folder / deliverable.series_instance_uid / "ct_tissue.dcm"
    assert outcome.kind is DeliveryClass.SENT
    assert target.read_bytes() == Path(deliverable.path).read_bytes()


def test_a_second_send_leaves_one_file_and_no_parts(make_object, folder) -> None:
    destination = shelf(folder, layout="{SOPInstanceUID}.{ext}")

    outcomes = [destination.send(make_object()) for _ in range(2)]

    assert [o.kind for o in outcomes] == [DeliveryClass.SENT] * 2
    assert len(list(folder.iterdir())) == 1


def test_other_content_under_the_name_is_never_replaced(make_object, folder) -> None:
    destination = shelf(folder, layout="{model}.{ext}")
    destination.send(make_object(1))
    before = (folder / "ct_tissue.dcm").read_bytes()

    outcome = destination.send(make_object(2))

    assert outcome.kind is DeliveryClass.BLOCKED
    assert (folder / "ct_tissue.dcm").read_bytes() == before
    assert len(list(folder.iterdir())) == 1


def test_a_folder_that_is_gone_is_waited_for_and_not_created(make_object, tmp_path) -> None:
    outcome = shelf(tmp_path / "mount").send(make_object())

    assert outcome.kind is DeliveryClass.RETRY
    assert outcome.destination_sick
    assert not (tmp_path / "mount").exists()


@pytest.mark.parametrize("model", ["../../etc/passwd", "..", "/abs", "a\0b", ""])
def test_no_name_climbs_out_of_the_folder(model, make_object, folder) -> None:
    deliverable = replace(make_object(), model=model)

    outcome = shelf(folder, layout="{model}/{SOPInstanceUID}.{ext}").send(deliverable)

    (written,) = (path for path in folder.rglob("*") if path.is_file())
    assert outcome.is_done
    assert written.resolve().parent.parent == folder.resolve()


@pytest.mark.parametrize(
    "layout",
    ["{PatientID}/{ext}", "{PatientName}", "/abs/{ext}", "../{ext}", "a//b", "", "{model", "{}"],
)
def test_a_layout_that_cannot_be_or_tells_patients_is_refused(layout, folder) -> None:
    with pytest.raises(ValueError, match="layout"):
        shelf(folder, layout=layout)


def test_a_result_whose_file_is_gone_blocks(make_object, folder) -> None:
    deliverable = make_object()
    Path(deliverable.path).unlink()

    assert shelf(folder).send(deliverable).kind is DeliveryClass.BLOCKED


def test_a_full_disk_is_waited_out(make_object, folder, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("node.deliver.folder.os.fsync", full)

    outcome = shelf(folder).send(make_object())

    assert outcome.kind is DeliveryClass.RETRY
    assert not [path for path in folder.rglob("*") if path.is_file()]
