"""Which label a segment is: by codes first, by name where codes do not tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.domain.errors import JobFailed
from node.domain.segment import Code, Segment
from node.infer.container.matching import match_segments, name_key
from tests.infer.container.made import description
from tests.support.segmentations import ANATOMICAL_STRUCTURE, LEFT, RIGHT, SEGMENTS

HIP = Code("29836001", "SCT", "Hip")
HIPS = tuple(
    Segment(
        label_value=value,
        name=name,
        category=ANATOMICAL_STRUCTURE,
        type=HIP,
        modifier=side,
        rgb=(1, 2, 3),
    )
    for value, name, side in ((11, "Left hip", LEFT), (12, "Right hip", RIGHT))
)


def renamed(segment: Segment, name: str) -> Segment:
    return replace(segment, name=name)


def test_codes_decide_whatever_the_name() -> None:
    items = [description(n, renamed(s, f"thing {n}")) for n, s in enumerate(SEGMENTS, 1)]

    assert match_segments(items, SEGMENTS) == {1: 7, 2: 2, 3: 3, 4: 4}


def test_names_decide_where_the_codes_are_nobodys() -> None:
    unsided = [
        replace(hip, modifier=None, name=name)
        for hip, name in zip(HIPS, ("HIP_LEFT", "hip right"), strict=True)
    ]
    items = [description(n, segment) for n, segment in enumerate(unsided, 1)]

    assert match_segments(items, HIPS) == {1: 11, 2: 12}


def test_a_name_decides_between_labels_of_one_code() -> None:
    both = (HIPS[0], replace(HIPS[0], label_value=13, name="Left hip, implant"))
    items = [description(1, both[1]), description(2, both[0])]

    assert match_segments(items, both) == {1: 13, 2: 11}


def test_a_region_decides_between_labels_of_one_code() -> None:
    tumour = Code("108369006", "SCT", "Neoplasm")
    liver, lung = Code("10200004", "SCT", "Liver"), Code("39607008", "SCT", "Lung")
    labels = tuple(
        replace(HIPS[0], label_value=n, name=f"tumour {n}", type=tumour, modifier=None, region=r)
        for n, r in ((1, liver), (2, lung))
    )

    assert match_segments([description(1, renamed(labels[1], "neoplasm"))], labels) == {1: 2}


def test_old_codes_of_snomed_are_the_new_ones() -> None:
    item = description(1, renamed(SEGMENTS[0], "x"))
    kind = item.SegmentedPropertyTypeCodeSequence[0]
    kind.CodeValue, kind.CodingSchemeDesignator = "T-28000", "SRT"

    assert match_segments([item], SEGMENTS) == {1: 7}


def test_instances_of_one_structure_become_one_label() -> None:
    items = [description(n, SEGMENTS[0]) for n in (1, 2, 3)]

    assert match_segments(items, SEGMENTS) == {1: 7, 2: 7, 3: 7}


def test_unknown_segments_are_refused_by_name() -> None:
    unknown = [replace(HIPS[0], name=f"part {n}", type=Code(f"{n}", "99X", "x")) for n in range(8)]
    items = [description(n, segment) for n, segment in enumerate(unknown, 1)]

    with pytest.raises(JobFailed) as failure:
        match_segments(items, SEGMENTS)

    assert failure.value.permanent
    assert "'part 0' is unknown" in failure.value.reason
    assert "and 3 more" in failure.value.reason


def test_what_may_be_several_labels_is_refused() -> None:
    both = (HIPS[0], replace(HIPS[0], label_value=13, name="Left hip, implant"))

    with pytest.raises(JobFailed, match="'pelvis' may be several labels"):
        match_segments([description(1, renamed(HIPS[0], "pelvis"))], both)


def test_spellings_of_a_name_are_one_name() -> None:
    assert len({name_key(n) for n in ("Left rib 1", "LEFT_RIB_1", "rib_left_1", "rib1 left")}) == 1
    assert name_key("Left rib 1") != name_key("Left rib 11")
