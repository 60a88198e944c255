"""What the walk takes, pydicom reads as the same elements: nobody behind the door sees another image."""

from __future__ import annotations

import io
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from node.domain.errors import InstanceRejected
from node.receive.walk import PIXEL_DATA, Structure, walk
from tests.receive.test_walk import nested
from tests.support.instances import ct_slice
from tests.support.malformed import ENCODINGS, TAKEN, Malformed, file_meta


def _sources() -> list[tuple[UID, bytes]]:
    image = ct_slice(side=4)
    image.ReferencedSeriesSequence = nested(2).ReferencedSeriesSequence
    sound = [
        (syntax, Malformed(name="", change=bytes, syntax=syntax).data_set(image))
        for syntax in ENCODINGS
    ]
    return sound + [(kind.syntax, kind.data_set(ct_slice(side=4))) for kind in TAKEN]


SOURCES = _sources()

# an edit: where, how many bytes are cut, and what is put there; -1 copies a piece from elsewhere
EDIT = st.tuples(
    st.floats(0, 1),
    st.integers(0, 24),
    st.one_of(
        st.binary(max_size=4),
        st.just(bytes(8)),
        st.just(b"\xfe\xff\r\xe0" + bytes(4)),
        st.just(b"\xfe\xff\xdd\xe0" + bytes(4)),
        st.tuples(st.floats(0, 1), st.integers(1, 40)),
    ),
)


def edited(data: bytes, edits: list[tuple[float, int, bytes | tuple[float, int]]]) -> bytes:
    for where, cut, put in edits:
        at = int(where * len(data))
        if isinstance(put, tuple):
            start = int(put[0] * len(data))
            put = data[start : start + put[1]]
        data = data[:at] + put + data[at + cut :]
    return data


def by_pydicom(data: bytes, syntax: UID) -> Dataset:
    file = bytes(128) + b"DICM" + file_meta(ct_slice(), syntax) + data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(io.BytesIO(file), stop_before_pixels=True)


def patched(data: bytes, structure: Structure) -> bytes:
    whole = bytearray(data)
    for offset, written in structure.rewrites:
        whole[offset : offset + len(written)] = written
    return bytes(whole)


@settings(max_examples=300)
@given(st.integers(0, len(SOURCES) - 1), st.lists(EDIT, min_size=1, max_size=3))
def test_what_the_walk_takes_pydicom_reads_alike(
    source: int, edits: list[tuple[float, int, bytes | tuple[float, int]]]
) -> None:
    syntax, data = SOURCES[source]
    data = edited(data, edits)
    try:
        structure = walk(data, ENCODINGS[syntax])
    except InstanceRejected:
        return
    if PIXEL_DATA not in structure.elements:
        return  # no input of a model

    read = by_pydicom(patched(data, structure), syntax)

    pixels = structure.elements[PIXEL_DATA].offset
    expected = {
        tag: bytes(data[each.offset : each.offset + each.length])
        for tag, each in structure.elements.items()
        if each.offset < pixels and tag != PIXEL_DATA and tag >= 0x00080000
    }
    found = {int(tag) for tag in read.keys() if tag >= 0x00080000}  # noqa: SIM118
    assert found == set(expected)
    for tag, value in expected.items():
        element = read.get_item(tag)
        if isinstance(element, RawDataElement) and element.value is not None:
            assert element.value == value, hex(tag)


@pytest.mark.parametrize("kind", TAKEN, ids=lambda kind: kind.name)
def test_the_same_of_every_kind_that_is_taken(kind: Malformed) -> None:
    data = kind.data_set(ct_slice(side=4))
    structure = walk(data, ENCODINGS[kind.syntax])

    read = by_pydicom(patched(data, structure), kind.syntax)

    assert {int(tag) for tag in read.keys() if tag >= 0x00080000} == {  # noqa: SIM118
        tag for tag in structure.elements if 0x00080000 <= tag < 0x7FE00000
    }
