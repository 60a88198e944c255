"""Elements of a source are copied as explicit little-endian bytes, their values untouched."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from node.encode.elements import copied_element, element, item, sequence

PATIENT_COMMENTS = Tag("PatientComments")


def _read(data: bytes, *, implicit: bool = False, little: bool = True) -> Dataset:
    syntax = {(True, True): "1.2.840.10008.1.2", (False, True): "1.2.840.10008.1.2.1"}.get(
        (implicit, little), "1.2.840.10008.1.2.2"
    )
    meta = element(0x00020010, "UI", syntax.encode())
    length = element(0x00020000, "UL", struct.pack("<I", len(meta)))
    return dcmread(BytesIO(b"\0" * 128 + b"DICM" + length + meta + data))


@pytest.mark.parametrize("value", [b"", b"  spaces  ", b"\x1b$B;3ED\x1b(B", b"\xff\xfe\xfd\xfc"])
def test_text_is_copied_whatever_it_is(value: bytes) -> None:
    source = _read(element(PATIENT_COMMENTS, "LT", value))

    assert copied_element(source, "PatientComments") == element(PATIENT_COMMENTS, "LT", value)


def test_an_absent_element_is_none() -> None:
    assert copied_element(Dataset(), "PatientComments") is None


def test_implicit_vr_takes_the_vr_of_the_dictionary() -> None:
    source = _read(struct.pack("<HHI", 0x0010, 0x4000, 4) + b"text", implicit=True)

    assert copied_element(source, "PatientComments") == element(PATIENT_COMMENTS, "LT", b"text")


def test_text_of_unknown_vr_takes_the_vr_of_the_dictionary() -> None:
    source = _read(element(PATIENT_COMMENTS, "UN", b"text"))

    assert copied_element(source, "PatientComments") == element(PATIENT_COMMENTS, "LT", b"text")


def test_text_too_long_for_a_short_length_becomes_unknown() -> None:
    value = b"x" * 70_000
    source = _read(struct.pack("<HHI", 0x0010, 0x4000, len(value)) + value, implicit=True)

    assert copied_element(source, "PatientComments") == element(PATIENT_COMMENTS, "UN", value)


def test_odd_text_is_padded_as_its_vr_asks() -> None:
    assert element(PATIENT_COMMENTS, "LT", b"odd").endswith(b"odd ")
    assert element(Tag("StudyInstanceUID"), "UI", b"1.2").endswith(b"1.2\0")


def test_numbers_of_a_big_endian_source_are_turned() -> None:
    source = _read(struct.pack(">HH2sHH", 0x0010, 0x21C0, b"US", 2, 4), little=False)

    assert copied_element(source, "PregnancyStatus") == element(
        Tag("PregnancyStatus"), "US", b"\x04\x00"
    )


@pytest.mark.parametrize("undefined_length", [False, True])
def test_items_are_copied_without_private_elements(*, undefined_length: bool) -> None:
    name = element(Tag("PatientID"), "LO", b"\xc4\xe4")
    private = element(0x00110010, "LO", b"ACME") + element(0x00111001, "LO", b"secret")
    wanted = sequence("OtherPatientIDsSequence", name, b"")
    if undefined_length:
        content = item(name + private) + item(b"") + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        head = struct.pack("<HH2sHI", 0x0010, 0x1002, b"SQ", 0, 0xFFFFFFFF)
        source = _read(head + content)
    else:
        source = _read(sequence("OtherPatientIDsSequence", name + private, b""))

    assert copied_element(source, "OtherPatientIDsSequence") == wanted
