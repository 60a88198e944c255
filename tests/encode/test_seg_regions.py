"""Regions that overlap: one BINARY segment each, read back whole, and a fault in one is refused."""

from __future__ import annotations

from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from node.domain.errors import ResultRefused
from node.domain.result import LabelVolume, label_values_of, voxels_by_label
from node.domain.segment import Segment
from tests.support.phantoms import Phantom
from tests.support.segmentations import SEGMENTS, Segmentation

PHANTOM = Phantom(plane="sagittal", shape=(12, 21, 19))
REGIONS = tuple(
    replace(segment, label_value=number) for number, segment in enumerate(SEGMENTS, 1)
)  # label value n is bit n-1


def nested() -> np.ndarray:
    """Whole, core in it, nothing of the third, and a fourth that cuts both."""
    bits = np.zeros(PHANTOM.grid.shape, np.uint8)
    bits[2:10, 3:17, 4:15] |= 1
    bits[4:8, 6:12, 6:12] |= 2
    bits[6:11, 9:19, 2:9] |= 8
    return bits


def segmentation(segments: tuple[Segment, ...] = REGIONS) -> Segmentation:
    volume = LabelVolume(labels=nested(), stack=PHANTOM.stack, overlapping=True)
    return Segmentation(volume=volume, source=PHANTOM.headers(), segments=segments)


def test_each_region_is_read_back_whole() -> None:
    given = segmentation()

    data = given.encoded()
    given.verify(data)
    seg = hd.seg.Segmentation.from_dataset(dcmread(DicomBytesIO(data)))
    volume = seg.get_volume()

    assert seg.SegmentsOverlap == "YES"
    found = [item.SegmentLabel for item in seg.SegmentSequence]
    assert found == [REGIONS[0].name, REGIONS[1].name, REGIONS[3].name]
    to_index = np.linalg.inv(PHANTOM.grid.affine_lps) @ volume.affine
    for channel, bit in enumerate((1, 2, 8)):
        index = np.argwhere(volume.array[..., channel] != 0)
        placed = np.rint(index @ to_index[:3, :3].T + to_index[:3, 3]).astype(int)
        truth = np.argwhere(nested() & bit)
        assert {tuple(row) for row in placed} == {tuple(row) for row in truth}


@pytest.mark.parametrize("bit", [1, 2, 8])
def test_a_voxel_that_one_region_lost_is_refused(bit: int) -> None:
    given = segmentation()
    data = given.encoded()
    spoiled = nested()
    spoiled[tuple(np.argwhere(spoiled & bit)[0])] ^= bit
    other = replace(given, volume=replace(given.volume, labels=spoiled))

    with pytest.raises(ResultRefused, match="1 voxels differ"):
        other.verify(data)


def test_regions_are_not_taken_for_exclusive_labels() -> None:
    given = segmentation()
    exclusive = replace(given, volume=replace(given.volume, overlapping=False))

    with pytest.raises(ResultRefused):
        exclusive.verify(given.encoded())


def test_voxels_are_counted_by_region() -> None:
    bits = nested()
    stored = {int(v): int(n) for v, n in zip(*np.unique(bits, return_counts=True), strict=True)}

    voxels = voxels_by_label(stored, overlapping=True)

    assert voxels == {n: int(np.count_nonzero(bits & (1 << (n - 1)))) for n in (1, 2, 4)}
    assert label_values_of(0, overlapping=True) == label_values_of(0, overlapping=False) == ()
