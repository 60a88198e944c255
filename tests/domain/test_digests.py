"""Equal instances have equal digests, whoever looked at their values before."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from node.domain.digests import content_digest
from tests.phantoms import Phantom, encoded_as

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
