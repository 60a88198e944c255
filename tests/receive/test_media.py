"""Media types are read as RFC 9110 writes them."""

from __future__ import annotations

import pytest

from node.receive.media import (
    MAX_BOUNDARY,
    MediaTypeMalformed,
    best_of,
    boundary_of,
    parse_media_type,
)

OFFERED = ("application/dicom+json", "application/dicom+xml")


@pytest.mark.parametrize(
    "text",
    [
        'multipart/related; type="application/dicom"; boundary="a.B-1"',
        "multipart/related; type=application/dicom; boundary=a.B-1",
        "multipart/related;boundary=a.B-1;type=application/dicom",
        'Multipart/Related ; BOUNDARY="a.B-1" ; Type=application/dicom',
        'multipart/related; start="<x>"; type="application/dicom"; boundary=a.B-1; charset=utf-8',
        r'multipart/related; type="application\/dicom"; boundary="a.B-1"',
        "multipart/related; type=application/dicom; boundary=a.B-1;",
        'multipart/related; type="application/dicom"; transfer-syntax=*; boundary=a.B-1',
    ],
)
def test_parameters_are_read_quoted_or_not_in_any_order(text: str) -> None:
    media_type = parse_media_type(text)

    assert media_type.name == "multipart/related"
    assert media_type.parameters["type"] == "application/dicom"
    assert boundary_of(media_type) == b"a.B-1"


@pytest.mark.parametrize("text", ["", "dicom", "a/b; c", 'a/b; c="x', "a/b; c=1; C=2", "a/b c=1"])
def test_what_is_no_media_type_is_malformed(text: str) -> None:
    with pytest.raises(MediaTypeMalformed):
        parse_media_type(text)


@pytest.mark.parametrize("boundary", ["", "x" * (MAX_BOUNDARY + 1), "a{b", "ü", "a ", "a\\\\b"])
def test_an_illegal_boundary_is_malformed(boundary: str) -> None:
    media_type = parse_media_type(f'multipart/related; boundary="{boundary}"')

    with pytest.raises(MediaTypeMalformed):
        boundary_of(media_type)


def test_the_boundary_of_orthanc_is_longer_than_the_rfc_allows_and_is_taken() -> None:
    boundary = "2c215107-0302-4924-ba44-cf329abcb6f4-2c215107-0302-4924-ba44-cf329abcb6f4"
    media_type = parse_media_type(f"multipart/related; boundary={boundary}")

    assert len(boundary) > 70
    assert boundary_of(media_type) == boundary.encode()


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ([], "application/dicom+json"),
        (["*/*"], "application/dicom+json"),
        (["application/*"], "application/dicom+json"),
        (["application/dicom+xml"], "application/dicom+xml"),
        (['multipart/related; type="application/dicom+xml"'], "application/dicom+xml"),
        (["multipart/related; type=application/dicom+json"], "application/dicom+json"),
        (["image/png, application/dicom+xml;q=0.5"], "application/dicom+xml"),
        (["application/dicom+json;q=0.1", "application/dicom+xml"], "application/dicom+xml"),
        (["*/*, application/dicom+json;q=0"], "application/dicom+xml"),
        (["image/png"], None),
        (["application/dicom+json;q=0"], None),
        (["nonsense"], None),
    ],
)
def test_accept_chooses_among_what_is_offered(accept: list[str], expected: str | None) -> None:
    assert best_of(accept, OFFERED) == expected
