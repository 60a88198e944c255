"""Phantoms keep their own promises: a truth independent of sampling, and files that decode to it."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread

from tests.support.phantoms import (
    CENTRE_MM,
    ORDERS,
    PLANES,
    POSITIONS,
    TRANSFER_SYNTAXES,
    Phantom,
    Region,
    region_at,
)

SMALL = {"shape": (8, 40, 56), "spacing_mm": (24.0, 5.5, 6.0)}


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("position", POSITIONS)
def test_the_left_lung_is_left_and_smaller_in_every_plane_and_position(
    plane: str, position: str
) -> None:
    phantom = Phantom(plane=plane, position=position)
    affine = phantom.grid.affine_lps

    voxels = {
        region: np.argwhere(phantom.regions == region) @ affine[:3, :3].T + affine[:3, 3]
        for region in Region
    }

    assert all(len(points) > 30 for points in voxels.values())
    assert voxels[Region.LEFT_LUNG][:, 0].min() > voxels[Region.RIGHT_LUNG][:, 0].max()
    assert voxels[Region.MARKER][:, 0].min() > CENTRE_MM[0] + 80
    assert len(voxels[Region.LEFT_LUNG]) < 0.8 * len(voxels[Region.RIGHT_LUNG])


def test_no_mirror_maps_the_lungs_onto_themselves() -> None:
    phantom = Phantom()
    lung = phantom.regions == Region.LEFT_LUNG

    assert not any(np.array_equal(lung, np.flip(lung, axis)) for axis in range(3))


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda uid: uid.name)
def test_files_decode_to_the_volume(syntax: str, order: str, *, enhanced: bool) -> None:
    phantom = Phantom(order=order, enhanced=enhanced, transfer_syntax=syntax, **SMALL)

    instances = [dcmread(BytesIO(data)) for data in phantom.files()]

    planes = np.concatenate([i.pixel_array.reshape(-1, 40, 56) for i in instances])
    stored = planes.astype(int) - 1024
    assert {i.file_meta.TransferSyntaxUID for i in instances} == {syntax}
    assert np.array_equal(stored[np.argsort(phantom._stored_order())], phantom.hu_volume)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("enhanced", [False, True])
def test_frames_lie_where_the_formula_was_sampled(plane: str, *, enhanced: bool) -> None:
    phantom = Phantom(plane=plane, order="shuffled", enhanced=enhanced)
    affine = phantom.stack.grid.affine_lps

    index = np.stack(np.indices(phantom.stack.grid.shape), axis=-1)
    regions = region_at(index @ affine[:3, :3].T + affine[:3, 3])

    assert np.allclose(affine, phantom.grid.affine_lps, atol=1e-5)
    assert np.array_equal(regions, phantom.regions)


def test_the_same_phantom_has_the_same_bytes() -> None:
    assert Phantom(**SMALL).files() == Phantom(**SMALL).files()


def test_a_corrected_name_or_another_encoding_is_the_same_instance() -> None:
    plain = Phantom(**SMALL).headers()

    corrected = Phantom(attributes=(("PatientName", "A^B"),), **SMALL).headers()
    encoded = Phantom(transfer_syntax=TRANSFER_SYNTAXES[1], **SMALL).headers()

    assert [i.SOPInstanceUID for i in corrected] == [i.SOPInstanceUID for i in plain]
    assert [i.SOPInstanceUID for i in encoded] == [i.SOPInstanceUID for i in plain]


def test_another_series_shares_study_and_frame_of_reference_only() -> None:
    one, two = Phantom(**SMALL).headers()[0], Phantom(series="2", **SMALL).headers()[0]

    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert one.FrameOfReferenceUID == two.FrameOfReferenceUID
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID
