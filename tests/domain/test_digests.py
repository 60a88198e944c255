"""Equal instances have equal digests, whoever looked at their values before."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
)

from node.domain.digests import content_digest, pixel_and_geometry_digest
from tests.support.phantoms import Phantom, encoded_as

INSTANCE = Phantom(shape=(1, 16, 12)).datasets()[0]
EXPLICIT = Phantom(shape=(1, 16, 12)).files()[0]


@pytest.mark.parametrize(
    "keyword", ["PixelRepresentation", "Rows", "ImageType", "PixelSpacing", "SOPInstanceUID"]
)
def test_a_value_that_was_decoded_counts_as_its_bytes(keyword: str) -> None:
    fresh, read = dcmread(BytesIO(EXPLICIT)), dcmread(BytesIO(EXPLICIT))
    assert read[keyword].value is not None

    assert content_digest(read) == content_digest(fresh)


def test_implicit_and_explicit_bytes_are_one_instance() -> None:
    implicit = dcmread(BytesIO(encoded_as(INSTANCE, ImplicitVRLittleEndian)))

    assert content_digest(implicit) == content_digest(dcmread(BytesIO(EXPLICIT)))


# --- pixels and what they mean -----------------------------------------------------------------


def changed(**attributes: object) -> str:
    instance = dcmread(BytesIO(EXPLICIT))
    for keyword, value in attributes.items():
        if value is None:
            delattr(instance, keyword)
        else:
            setattr(instance, keyword, value)
    return pixel_and_geometry_digest(instance)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, ExplicitVRLittleEndian]
)
def test_another_encoding_has_the_same_pixels(syntax: str) -> None:
    encoded = dcmread(BytesIO(encoded_as(INSTANCE, syntax)))
    content_digest(encoded)

    assert pixel_and_geometry_digest(encoded) == changed()


def test_what_decides_no_number_makes_no_other_pixels() -> None:
    assert changed(PatientName="Other", SeriesDescription="x", WindowCenter=1) == changed()
    assert changed(RescaleType=None) == changed()  # HU is what a CT without it is in


@pytest.mark.parametrize(
    "attributes",
    [
        {"RescaleSlope": 2},
        {"RescaleIntercept": None},
        {"RescaleIntercept": ""},
        {"RescaleType": "MGML"},
        {"RescaleType": "US"},
        {"BitsStored": 12},
        {"HighBit": 11},
        {"SOPClassUID": MRImageStorage},
        {"MultienergyCTAcquisition": "YES", "RescaleType": None},
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"]},
    ],
    ids=str,
)
def test_every_attribute_that_decides_a_number_makes_other_pixels(
    attributes: dict[str, object],
) -> None:
    assert changed(**attributes) != changed()


def test_padding_and_a_table_make_other_pixels() -> None:
    padded, limited, table = (dcmread(BytesIO(EXPLICIT)) for _ in range(3))
    for instance in (padded, limited):
        instance.add_new(0x00280120, "US", 0)
    limited.add_new(0x00280121, "US", 5)
    item = Dataset()
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [2, 0, 16], [0, 1], "HU"
    table.ModalityLUTSequence = [item]

    digests = {pixel_and_geometry_digest(each) for each in (padded, limited, table)}

    assert len({*digests, changed()}) == 4
