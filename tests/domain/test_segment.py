"""Labels are found by their names, however these are written."""

from __future__ import annotations

from string import ascii_letters, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.domain.segment import PRIVATE_SCHEME, Code, Segment, segments_named

STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
NAMES = ("Spleen", "Left kidney", "Right kidney", "Left kidney cyst", "Vertebrae L5", "Skull")


def named(label_value: int, name: str) -> Segment:
    return Segment(
        label_value=label_value,
        name=name,
        category=STRUCTURE,
        type=Code(str(label_value), PRIVATE_SCHEME, name),
        rgb=(1, 2, 3),
    )


SEGMENTS = [named(value, name) for value, name in enumerate(NAMES, 1)]


@pytest.mark.parametrize(
    "name", ["kidney_left", "Left kidney", "LEFT-KIDNEY", "left  kidney", "kidney (left)"]
)
def test_case_order_and_punctuation_do_not_count(name: str) -> None:
    assert [segment.label_value for segment in segments_named(SEGMENTS, [name])] == [2]


def test_segments_come_in_the_order_wanted_and_once() -> None:
    found = segments_named(SEGMENTS, ["kidney_right", "spleen", "Right kidney", "vertebrae_L5"])

    assert [segment.name for segment in found] == ["Right kidney", "Spleen", "Vertebrae L5"]


def test_nothing_wanted_is_nothing_found() -> None:
    assert segments_named(SEGMENTS, []) == []


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("kidney", "the nearest are Left kidney, Right kidney, Left kidney cyst"),
        ("splen", "the nearest are Spleen"),
        ("vertebra_L5", "the nearest are Vertebrae L5"),
    ],
)
def test_an_unknown_name_says_what_is_near(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"^no label is named '{name}'; {nearest}"):
        segments_named(SEGMENTS, ["spleen", name])


def test_a_name_without_anything_near_is_refused_plainly() -> None:
    with pytest.raises(ValueError, match=r"^no label is named 'zzz'$"):
        segments_named(SEGMENTS, ["zzz"])


def test_a_name_of_two_labels_is_refused_with_both() -> None:
    segments = [named(1, "Left lung"), named(2, "lung_left")]

    with pytest.raises(ValueError, match=r"names 2 labels: 'Left lung' \(1\), 'lung_left' \(2\)"):
        segments_named(segments, ["left lung"])


@given(st.text(ascii_letters + digits + "_ -()", min_size=1))
def test_every_name_finds_itself_in_any_case(name: str) -> None:
    segment = named(1, name)

    assert segments_named([segment], [name.upper()]) == [segment]


@pytest.mark.parametrize("mark", ["+", "_", "("])
def test_names_of_marks_alone_stay_apart(mark: str) -> None:
    segments = [named(1, "+"), named(2, "_"), named(3, "(")]

    assert [segment.name for segment in segments_named(segments, [mark])] == [mark]
