"""``segnode demo``: real processes, real DICOM both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from node.demo.phantom import SLICES, write_phantom
from tests.cli.conftest import Segnode


def test_both_roads_end_with_a_seg_that_came_back_over_the_wire(
    segnode: Segnode, tmp_path: Path
) -> None:
    answer = segnode("demo", "--limit-s", "90", "--json")

    assert answer.code == 0, answer.err
    transports = {transport["transport"]: transport for transport in answer.json["transports"]}
    assert transports.keys() == {"dimse", "stow"}
    assert transports["dimse"]["series_instance_uid"] != transports["stow"]["series_instance_uid"]
    for transport in transports.values():
        received, shelf = (Path(path) for path in transport["files"])
        assert received.is_relative_to(tmp_path / "segnode-demo" / "received")
        assert shelf.is_relative_to(tmp_path / "segnode-demo" / "shelf")
        assert dcmread(received).PixelData == dcmread(shelf).PixelData
        referenced = dcmread(received).ReferencedSeriesSequence[0]
        assert referenced.SeriesInstanceUID == transport["series_instance_uid"]
        assert transport["instances"] == SLICES
        assert transport["volumes_ml"]["Right lung"] > transport["volumes_ml"]["Left lung"] > 500
        assert {
            "receive",
            "waiting for completion",
            "read",
            "infer",
            "encode",
            "verify",
        } <= transport["stages_s"].keys()
    assert transports["dimse"]["volumes_ml"] == transports["stow"]["volumes_ml"]


def test_a_folder_that_no_demo_made_is_left_alone(segnode: Segnode, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")

    answer = segnode("demo", "--keep", "mine")

    assert answer.code == 2
    assert "no demo made it" in answer.err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_an_input_that_is_no_folder_ends_with_2(segnode: Segnode, tmp_path: Path) -> None:
    answer = segnode("demo", "--input", "missing")

    assert answer.code == 2
    assert not (tmp_path / "segnode-demo").exists()


@pytest.mark.filterwarnings("error")
def test_the_phantom_is_the_same_every_time_and_has_air_fat_and_bone(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_phantom(tmp_path / "a")]
    second = [path.read_bytes() for path in write_phantom(tmp_path / "b")]

    middle = dcmread(tmp_path / "a" / "slice024.dcm")
    hu = middle.pixel_array.astype(int) + int(middle.RescaleIntercept)
    assert first == second
    assert len(first) == SLICES
    for low, high in ((-900, -800), (-150, -50), (0, 80), (400, 600)):
        assert np.mean((hu > low) & (hu < high)) > 0.005
