"""Media types are read as RFC 9110 writes them, multipart bodies the same however they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.receive.mime import (
    MAX_BOUNDARY,
    MAX_PART_HEADER_BYTES,
    MAX_PREAMBLE_BYTES,
    MediaTypeMalformed,
    MultipartMalformed,
    MultipartReader,
    PartEnded,
    PartStarted,
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


BOUNDARY = b"b0und.ary"


def read(
    body: bytes, *, cuts: tuple[int, ...] = (), boundary: bytes = BOUNDARY
) -> list[tuple[dict[str, str], bytes]]:
    """The whole parts of a body that arrives cut at these places."""
    reader = MultipartReader(boundary)
    parts: list[tuple[dict[str, str], bytes]] = []
    headers: dict[str, str] = {}
    content = b""
    for start, end in pairwise((0, *sorted(cuts), len(body))):
        for event in reader.feed(body[start:end]):
            if isinstance(event, PartStarted):
                headers, content = dict(event.headers), b""
            elif isinstance(event, PartEnded):
                parts.append((headers, content))
            else:
                content += event
    reader.finish()
    return parts


def write(contents: list[bytes], boundary: bytes = BOUNDARY) -> bytes:
    head = b"\r\n--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + content for content in contents) + b"\r\n--" + boundary + b"--\r\n"


# bytes that look like delimiters are the interesting content
TRICKY = st.lists(
    st.sampled_from([b"\r", b"\n", b"-", b"--", BOUNDARY[:4], BOUNDARY + b"x", b"\r\n--", b"D"])
).map(b"".join)


@given(
    contents=st.lists(TRICKY.filter(lambda c: b"\r\n--" + BOUNDARY not in b"\r\n" + c), min_size=1),
    cuts=st.lists(st.integers(0, 200)),
)
def test_parts_do_not_depend_on_how_the_body_is_cut(contents: list[bytes], cuts: list[int]) -> None:
    body = write(contents)

    parts = read(body, cuts=tuple(min(cut, len(body)) for cut in cuts))

    assert [content for _, content in parts] == contents


def test_every_single_byte_piece_gives_the_same_parts() -> None:
    body = write([b"\r\n--b0und.arx" * 5, b"", b"\r\n\r\n"])

    parts = read(body, cuts=tuple(range(len(body))))

    assert [content for _, content in parts] == [b"\r\n--b0und.arx" * 5, b"", b"\r\n\r\n"]


def test_a_boundary_that_goes_on_inside_pixel_data_is_content() -> None:
    content = b"\0\1\r\n--" + BOUNDARY + b"7\r\n\2\r\n--" + BOUNDARY + b"-x"

    assert [found for _, found in read(write([content]))] == [content]


def test_header_names_are_lower_case_and_values_trimmed() -> None:
    body = b"--b\r\nCONTENT-Type:  application/dicom \r\nX: 1\r\n\r\nD\r\n--b--"

    assert read(body, boundary=b"b") == [({"content-type": "application/dicom", "x": "1"}, b"D")]


def test_a_part_may_have_no_headers_and_no_content() -> None:
    body = b"--b\r\n\r\nD\r\n--b\r\nX: 1\r\n\r\n--b--"

    assert read(body, boundary=b"b") == [({}, b"D"), ({"x": "1"}, b"")]


def test_preamble_padding_and_epilogue_are_ignored() -> None:
    body = b"hello\r\nworld\r\n--b \t\r\n\r\nD\r\n--b--  \r\nbye\r\n--b\r\n\r\nE\r\n--b--"

    assert read(body, boundary=b"b") == [({}, b"D")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"no delimiter at all",
        b"--b\nContent-Type: application/dicom\n\nD\n--b--\n",
        b"--other\r\n\r\nD\r\n--other--",
    ],
    ids=["empty", "line break", "text", "LF only", "wrong boundary"],
)
def test_a_body_without_the_announced_boundary_is_malformed(body: bytes) -> None:
    with pytest.raises(MultipartMalformed, match="no part"):
        read(body, boundary=b"b")


@pytest.mark.parametrize(
    "body",
    [
        b"--b\r\n\r\nD",
        b"--b\r\n\r\nD\r\n--b",
        b"--b\r\n\r\nD\r\n--b-",
        b"--b\r\nX: 1",
        b"--b\r\n\r\nD\r\n--b\r\n\r\n",
    ],
    ids=["in content", "in delimiter", "in closing dashes", "in headers", "in second part"],
)
def test_a_body_without_closing_delimiter_is_truncated(body: bytes) -> None:
    with pytest.raises(MultipartMalformed, match="closing delimiter"):
        read(body, boundary=b"b")


@pytest.mark.parametrize(
    "headers",
    [
        b"X: " + b"y" * MAX_PART_HEADER_BYTES,
        b"no colon",
        b"X: 1\nY: 2",
        b"X: 1\r\nX: 2",
        b"X : 1",
    ],
    ids=["too long", "no colon", "LF inside", "twice", "blank before colon"],
)
def test_unreadable_part_headers_are_malformed(headers: bytes) -> None:
    with pytest.raises(MultipartMalformed, match="header of a part"):
        read(b"--b\r\n" + headers + b"\r\n\r\nD\r\n--b--", boundary=b"b")


def test_headers_that_never_end_are_refused_before_they_fill_memory() -> None:
    reader = MultipartReader(b"b")
    list(reader.feed(b"--b\r\n" + b"y" * (MAX_PART_HEADER_BYTES - 2)))

    with pytest.raises(MultipartMalformed, match="header of a part"):
        list(reader.feed(b"y"))


def test_a_preamble_is_bounded() -> None:
    reader = MultipartReader(b"b")
    list(reader.feed(b"y" * (MAX_PREAMBLE_BYTES - 2)))

    with pytest.raises(MultipartMalformed, match="no part"):
        list(reader.feed(b"y"))


def test_content_is_handed_on_as_it_comes() -> None:
    reader = MultipartReader(b"b")
    list(reader.feed(b"--b\r\n\r\n"))

    events = list(reader.feed(b"x" * 1_000_000))

    assert sum(len(event) for event in events if isinstance(event, memoryview)) == 1_000_000
