"""One series gives one result, by whatever road and in whatever encoding it came."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from tests.support.node_in_process import SharedWorker
from tests.support.simulated_node import ct, simulated_node

ENCODINGS = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGLSLossless,
)


@pytest.fixture(scope="module")
def worker() -> Iterator[SharedWorker]:
    shared = SharedWorker()
    yield shared
    shared.close()


def test_a_series_has_one_result_by_every_road_and_in_every_encoding(
    tmp_path: Path, worker: SharedWorker
) -> None:
    made = set()
    for number, encoding in enumerate(ENCODINGS):
        files = replace(ct(), transfer_syntax=encoding).files()
        folder = tmp_path / str(number)
        folder.mkdir()
        with simulated_node(folder, worker) as node:
            if number % 2:
                (folder / "in").mkdir()
                for name, file in enumerate(files):
                    (folder / "in" / f"{name}.dcm").write_bytes(file)
                node.node.scan(folder / "in")
            else:
                node.receive(files)
            node.run()
            (seg,) = node.segmentations()
            made.add((str(seg.SOPInstanceUID), str(seg.SeriesInstanceUID), seg.PixelData))

    assert len(made) == 1


def test_other_pixels_under_the_same_uids_have_another_result(
    tmp_path: Path, worker: SharedWorker
) -> None:
    made = set()
    for number, shift in enumerate((0, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        instances = ct().datasets()
        instances[3].RescaleIntercept += shift
        with simulated_node(folder, worker) as node:
            node.receive(instances)
            node.run()
            (seg,) = node.segmentations()
            made.add(str(seg.SOPInstanceUID))

    assert len(made) == 2
