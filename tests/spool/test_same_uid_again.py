"""The same SOP Instance UID again: duplicate, amended, conflict; and whose series it is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState
from node.spool.arrivals import Arrivals
from tests.support.instances import (
    SERIES_UID,
    Node,
    ct_slice,
    data_set_bytes,
    opened_node,
    part10_bytes,
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with opened_node(tmp_path) as opened:
        yield opened


def other_pixels() -> Dataset:
    image = ct_slice()
    image.PixelData = bytes(len(image.PixelData))
    return image


def amended() -> Dataset:
    image = ct_slice()
    image.PatientName = "Phantom^Corrected"
    return image


def test_the_same_bytes_are_a_duplicate_stored_once(node: Node) -> None:
    node.store(ct_slice())

    assert node.store(ct_slice()).state is InstanceState.DUPLICATE
    assert len(node.rows("instance")) == len(node.files()) == 1


def test_the_same_content_in_another_encoding_is_a_duplicate(node: Node) -> None:
    node.store(ct_slice())

    for is_implicit, is_little in ((True, True), (False, False)):
        data = data_set_bytes(ct_slice(), is_implicit=is_implicit, is_little_endian=is_little)
        assert node.store_file(data).state is InstanceState.DUPLICATE
    assert len(node.files()) == 1


def test_a_corrected_name_is_kept_as_a_version_with_the_same_pixel_identity(node: Node) -> None:
    node.store(ct_slice())

    assert node.store(amended()).state is InstanceState.AMENDED

    first, second = node.rows("instance")
    assert (first["version"], second["version"]) == (1, 2)
    assert str(second["file_name"]).endswith(".2.dcm")
    assert second["pixel_identity"] == first["pixel_identity"] == first["received_sha256"]
    assert [row["kind"] for row in node.rows("event")] == ["amended"]
    ((_, newest),) = Arrivals(node.engine).arrivals_of(SERIES_UID)
    assert newest.version == 2


def test_the_first_copy_again_after_an_amended_one_is_a_duplicate(node: Node) -> None:
    node.store(ct_slice())
    node.store(amended())

    assert node.store(ct_slice()).state is InstanceState.DUPLICATE
    assert node.store(amended()).state is InstanceState.DUPLICATE
    assert len(node.rows("instance")) == 2


@pytest.mark.parametrize("what", ["pixels", "position"])
def test_other_pixels_or_geometry_are_a_conflict_and_the_first_is_kept(
    node: Node, what: str
) -> None:
    newcomer = other_pixels() if what == "pixels" else ct_slice()
    newcomer.ImagePositionPatient = [0.0, 0.0, 1.0 if what == "pixels" else 9.0]
    node.store(ct_slice())

    with pytest.raises(InstanceRejected) as caught:
        node.store(newcomer)

    assert caught.value.dimse_status == 0xC020
    assert [row["kind"] for row in node.rows("event")] == ["conflict"]
    assert len(node.rows("instance")) == len(node.rows("quarantine")) == 1


def test_another_patient_in_a_series_is_quarantined_without_naming_anyone(node: Node) -> None:
    stranger = ct_slice(2)
    stranger.PatientID = "P2"
    node.store(ct_slice(1))

    with pytest.raises(InstanceRejected) as caught:
        node.store(stranger)

    (event,) = node.rows("event")
    assert caught.value.dimse_status == 0xC021
    assert event["kind"] == "patient_mix_up"
    assert "P2" not in str(event) + str(caught.value)
    assert len(node.rows("quarantine")) == 1


def test_another_study_in_a_series_is_quarantined(node: Node) -> None:
    stranger = ct_slice(2)
    stranger.StudyInstanceUID = "1.2.3"
    node.store(ct_slice(1))

    with pytest.raises(InstanceRejected) as caught:
        node.store(stranger)

    assert caught.value.dimse_status == 0xC021


def test_two_processes_that_get_one_instance_store_it_once(tmp_path: Path) -> None:
    slices = [ct_slice(number) for number in range(1, 21)]
    with opened_node(tmp_path) as one, opened_node(tmp_path) as other:
        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(node.store, image) for image in slices for node in (one, other)]
            states = [job.result().state for job in jobs]
        other.index.flush()

        assert states.count(InstanceState.STORED) == states.count(InstanceState.DUPLICATE) == 20
        assert len(one.rows("instance")) == len(one.files()) == 20


def test_two_processes_agree_on_whose_series_it_is(tmp_path: Path) -> None:
    mine, theirs = ct_slice(1), ct_slice(2)
    theirs.PatientID = "P2"
    with opened_node(tmp_path) as one, opened_node(tmp_path) as other:
        one.store(mine)

        with pytest.raises(InstanceRejected) as caught:
            other.store(theirs)

    assert caught.value.dimse_status == 0xC021


def test_a_copy_that_no_codec_can_read_is_a_conflict(node: Node) -> None:
    node.store(ct_slice())
    broken = ct_slice()
    del broken.PixelData
    fragment = b"\xfe\xff\x00\xe0\x04\0\0\0\xff\xd8\xff\xd9"
    pixels = b"\xfe\xff\x00\xe0\0\0\0\0" + fragment + b"\xfe\xff\xdd\xe0\0\0\0\0"
    head = part10_bytes(broken, "1.2.840.10008.1.2.4.70")

    with pytest.raises(InstanceRejected) as caught:
        node.store_file(head + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + pixels)

    assert caught.value.dimse_status == 0xC020
