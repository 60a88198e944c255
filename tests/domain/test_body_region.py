"""The regions that headers tell of, and that nothing else is said."""

from __future__ import annotations

import pytest

from node.domain.derived.body_region import _TERMS, REGIONS, UNTOLD, body_region_of
from node.domain.header import Header

TOLD = [
    # defined terms of PS3.16 Annex L, with and without what people put between their words
    ({"BodyPartExamined": "EXTREMITY"}, "ARM LEG"),
    ({"BodyPartExamined": "BRAIN"}, "HEAD"),
    ({"BodyPartExamined": "CHEST_ABDOMEN"}, "CHEST ABDOMEN"),
    ({"BodyPartExamined": "ABDOMENPELVIS"}, "ABDOMEN PELVIS"),
    ({"BodyPartExamined": "L-SPINE"}, "SPINE"),
    ({"BodyPartExamined": "CSPINE"}, "NECK SPINE"),
    ({"BodyPartExamined": "HIP"}, "PELVIS LEG"),
    ({"BodyPartExamined": "WHOLEBODY"}, "HEAD NECK CHEST BREAST ABDOMEN PELVIS ARM LEG"),
    # words in place of a term
    ({"BodyPartExamined": "Kopf"}, "HEAD"),
    ({"BodyPartExamined": "LEFT THIGH"}, "LEG"),
    # names of series and protocol, in four languages
    ({"SeriesDescription": "t1_mprage_sag"}, "HEAD"),
    ({"SeriesDescription": "Schädel nativ"}, "HEAD"),
    ({"SeriesDescription": "AX T1 Tête"}, "HEAD"),
    ({"ProtocolName": "rodilla derecha"}, "LEG"),
    ({"ProtocolName": "Sprunggelenk links"}, "LEG"),
    ({"ProtocolName": "OBERBAUCH"}, "ABDOMEN"),
    ({"SeriesDescription": "Fuß sag"}, "LEG"),
    ({"SeriesDescription": "CT CH/AB/PEL", "ProtocolName": "CT CAP"}, "CHEST ABDOMEN PELVIS"),
    ({"SeriesDescription": "Lower extremity runoff"}, "LEG"),
    ({"SeriesDescription": "upper limb"}, "ARM"),
    ({"SeriesDescription": "water phantom 3"}, "PHANTOM"),
    # words that name something else
    ({"SeriesDescription": "femoral head t1"}, "LEG"),
    ({"SeriesDescription": "foot, head coil"}, "LEG"),
    ({"SeriesDescription": "abdomen arms up"}, "ABDOMEN"),
    ({"SeriesDescription": "head of the pancreas"}, "ABDOMEN"),
    # what the series is called counts over a Body Part Examined that shares nothing with it
    ({"BodyPartExamined": "HEAD", "SeriesDescription": "sag knee"}, "LEG"),
    ({"BodyPartExamined": "CHEST", "SeriesDescription": "Abdomen 5.0"}, "ABDOMEN"),
    ({"BodyPartExamined": "CHEST", "SeriesDescription": "Thorax Abdomen"}, "CHEST ABDOMEN"),
    ({"BodyPartExamined": "WHOLEBODY", "SeriesDescription": "Knie"}, "LEG"),
    # the study tells only where nothing nearer does
    ({"StudyDescription": "MRI BRAIN"}, "HEAD"),
    ({"BodyPartExamined": "LIVER", "StudyDescription": "CT HEAD"}, "ABDOMEN"),
    ({"SeriesDescription": "knee", "StudyDescription": "MRI BRAIN"}, "LEG"),
]
UNTELLING = [
    {},
    {"BodyPartExamined": ""},
    {"BodyPartExamined": "OTHER"},
    {"SeriesDescription": "Arm A follow-up"},
    {"SeriesDescription": "feet first, body coil"},
    {"SeriesDescription": "legacy handling of surfaces"},
    {"StudyDescription": "Rorden^Rorden_Prisma"},
]


@pytest.mark.parametrize(("attributes", "regions"), TOLD, ids=str)
def test_regions_are_those_that_headers_name(attributes: dict[str, str], regions: str) -> None:
    header = Header({keyword: (value,) for keyword, value in attributes.items()})

    assert body_region_of(header) == tuple(regions.split())


@pytest.mark.parametrize("attributes", UNTELLING, ids=str)
def test_what_no_header_names_is_unknown(attributes: dict[str, str]) -> None:
    header = Header({keyword: (value,) for keyword, value in attributes.items()})

    assert body_region_of(header) == UNTOLD


def test_every_term_is_spelt_in_the_letters_that_are_compared() -> None:
    terms = " ".join(_TERMS.values()).replace(" ", "")

    assert terms.isalnum()
    assert terms.isupper()


def test_every_region_has_its_terms() -> None:
    assert set(_TERMS) == set(REGIONS)
