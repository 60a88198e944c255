"""The structural walk accepts whole data sets and nothing else."""

from __future__ import annotations

from itertools import permutations
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from node.domain.errors import InstanceRejected
from node.receive.walk import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    MAX_DEPTH,
    PIXEL_DATA,
    Encoding,
    Structure,
    walk,
)
from tests.support.instances import ct_slice, data_set_bytes

ENCODINGS = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG)


def nested(depth: int) -> Dataset:
    root = Dataset()
    level = root
    for _ in range(depth):
        item = Dataset()
        level.ReferencedSeriesSequence = [item]
        level = item
    level.InstanceNumber = 1
    return root


def nested_bytes(depth: int) -> bytes:
    """Sequences of undefined length inside each other, built without recursion."""
    opening = pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF) + pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closing = pack("<HHI", 0xFFFE, 0xE00D, 0) + pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return opening * depth + closing * depth


def encoded(dataset: Dataset, encoding: Encoding) -> bytes:
    return data_set_bytes(
        dataset, is_implicit=encoding.is_implicit, is_little_endian=encoding.is_little_endian
    )


def outcome_of(data: bytes, encoding: Encoding) -> Any:
    """The structure, or the status of the refusal."""
    try:
        return walk(data, encoding)
    except InstanceRejected as rejection:
        return rejection.dimse_status


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_whole_data_set_is_walked_to_its_pixel_data(encoding: Encoding) -> None:
    image = ct_slice()
    image.ReferencedSeriesSequence = nested(3).ReferencedSeriesSequence

    structure = walk(encoded(image, encoding), encoding)

    assert structure.elements[PIXEL_DATA].length == len(image.PixelData)
    assert structure.elements.keys() == {int(tag) for tag in image.keys()}  # noqa: SIM118


@given(st.integers(0, 2000), st.sampled_from(ENCODINGS))
def test_a_cut_data_set_never_passes_with_its_pixel_data(cut: int, encoding: Encoding) -> None:
    whole = encoded(ct_slice(), encoding)
    kept = whole[: min(cut, len(whole) - 1)]

    outcome = outcome_of(kept, encoding)

    assert outcome == 0xC000 or PIXEL_DATA not in outcome.elements


@given(st.binary(max_size=4000), st.sampled_from(ENCODINGS))
def test_random_bytes_are_refused_or_walked_but_never_crash(
    data: bytes, encoding: Encoding
) -> None:
    outcome = outcome_of(data, encoding)

    assert outcome == 0xC000 or all(
        element.offset + element.length <= len(data) for element in outcome.elements.values()
    )


@given(st.integers(0, 1500), st.binary(min_size=1, max_size=4), st.sampled_from(ENCODINGS))
def test_overwritten_bytes_never_crash_the_walk(
    position: int, patch: bytes, encoding: Encoding
) -> None:
    image = ct_slice()
    image.ReferencedSeriesSequence = nested(2).ReferencedSeriesSequence
    data = bytearray(encoded(image, encoding))
    data[position : position + len(patch)] = patch

    outcome = outcome_of(bytes(data), encoding)

    assert outcome == 0xC000 or outcome.elements


def test_nesting_is_taken_to_the_limit_and_refused_beyond() -> None:
    assert walk(nested_bytes(100), EXPLICIT_LITTLE).elements
    assert walk(nested_bytes(MAX_DEPTH), EXPLICIT_LITTLE).elements
    for depth in (MAX_DEPTH + 1, 2_000, 100_000):
        with pytest.raises(InstanceRejected, match="nested deeper than 128"):
            walk(nested_bytes(depth), EXPLICIT_LITTLE)


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    return pack("<HH2sH", group, number, vr, len(value)) + value


UID = element(0x0008, 0x0018, b"UI", b"1.2\0")
OTHER_UID = element(0x0008, 0x0018, b"UI", b"1.3\0")
PIXELS = pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 2) + b"AB"
AFTER = element(0x0010, 0x0020, b"LO", b"P1")


def test_an_odd_length_is_tolerated() -> None:
    odd = element(0x0010, 0x0010, b"PN", b"ABC")

    assert walk(UID + odd + AFTER, EXPLICIT_LITTLE).elements[0x00100010].length == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 0xFFFFFFF0), "longer than what is left"),
        (UID + element(0x0010, 0x0010, b"??", b"AB"), "unknown value representation"),
        (UID + OTHER_UID, "an element comes twice with different values"),
        (AFTER + UID + OTHER_UID, "an element comes twice with different values"),
        (PIXELS + AFTER, "an attribute behind the pixel data"),
        (
            pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF)
            + pack("<HHI", 0xFFFE, 0xE000, len(UID))
            + UID,
            "sequence delimiter is missing",
        ),
        (
            pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF)
            + pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
            + UID,
            "item delimiter is missing",
        ),
        (UID + bytes(8) + AFTER, "zeros between elements"),
        (UID + AFTER[:5], "header is cut off"),
        (b"", "empty"),
    ],
)
def test_each_structural_fault_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(InstanceRejected, match=reason) as caught:
        walk(data, EXPLICIT_LITTLE)

    assert caught.value.dimse_status == 0xC000


def test_order_does_not_decide_what_is_found() -> None:
    elements = [UID, AFTER, element(0x0010, 0x0030, b"DA", b""), element(4, 0x1500, b"CS", b"A ")]

    for order in permutations(elements):
        assert walk(b"".join(order), EXPLICIT_LITTLE).elements.keys() == {
            0x00041500, 0x00080018, 0x00100020, 0x00100030
        }  # fmt: skip


def test_an_irregular_item_in_every_level_costs_no_more_than_the_limit_of_elements() -> None:
    level = AFTER + UID
    for _ in range(100):
        level = (
            pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, len(level) + 8)
            + pack("<HHI", 0xFFFE, 0xE000, len(level))
            + level
            + UID
        )

    with pytest.raises(InstanceRejected, match="too many elements"):
        walk(level, EXPLICIT_LITTLE, max_elements=100_000)


def test_too_many_elements_are_refused() -> None:
    data = b"".join(element(0x0009, number, b"LO", b"") for number in range(0x10, 0x50))

    with pytest.raises(InstanceRejected, match="too many elements"):
        walk(data, EXPLICIT_LITTLE, max_elements=50)


def test_too_many_elements_of_the_top_level_are_refused_and_no_more_of_them_is_kept() -> None:
    found: dict[int, Any] = {}
    data = b"".join(pack("<HHI", 0x0009, number, 0) for number in range(0x1000, 0x8000))

    with pytest.raises(InstanceRejected, match="too many elements"):
        walk(data, IMPLICIT_LITTLE, found=found)

    assert len(found) <= 10_000


LONG = 70_000


@pytest.mark.parametrize("vr", ["implicit", "UT", "UN"])
def test_a_value_longer_than_anybody_should_keep_is_refused_whatever_vr_it_claims(vr: str) -> None:
    text = b"x" * LONG
    if vr == "implicit":
        data, encoding = pack("<HHI", 0x0010, 0x0020, LONG) + text, IMPLICIT_LITTLE
    else:
        header = pack("<HH2sHI", 0x0010, 0x0020, vr.encode(), 0, LONG)
        data, encoding = header + text, EXPLICIT_LITTLE

    with pytest.raises(InstanceRejected) as rejected:
        walk(data, encoding)

    assert rejected.value.dimse_status == 0xC000
    assert rejected.value.offending_tags == (0x00100020,)


def test_a_cut_data_set_is_asked_for_its_uids_without_a_copy_of_what_is_long() -> None:
    found: dict[int, Any] = {}
    data = pack("<HHI", 0x0020, 0x000E, LONG) + b"1" * LONG + pack("<HHI", 0x0020, 0x0010, 9)
    with pytest.raises(InstanceRejected):
        walk(data, IMPLICIT_LITTLE, found=found)

    assert (
        len(Structure(data=data, encoding=IMPLICIT_LITTLE, elements=found).text(0x0020000E)) < LONG
    )


@pytest.mark.parametrize(
    ("tag", "vr"),
    [(0x00091010, b"OB"), (0x00091010, b"UN"), (0x0040A160, b"UT"), (0x00420011, b"OB")],
    ids=["private bytes", "private, unknown", "unlimited text", "an encapsulated document"],
)
def test_what_may_be_long_is_taken(tag: int, vr: bytes) -> None:
    data = pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, LONG) + bytes(LONG)

    assert walk(data, EXPLICIT_LITTLE).elements[tag].length == LONG
