"""Every ``labels.csv``: its labels are those of the model, its codes mean what the names say.

What a code means is asked of others than the tables: pydicom's dictionary of PS3.16, the published
table of TotalSegmentator, and for codes that neither holds the list at the end of this file.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from pydicom.sr.codedict import codes

from node.domain.segment import PRIVATE_SCHEME, Code, Segment, name_words, segments_named
from node.infer.labels_table import read_labels_table
from node.infer.registry import default_models_folder
from tests.support.cases import Cases

PROBES = Path(__file__).resolve().parent.parent / "support" / "models_probe"
TABLES = sorted(
    path for root in (default_models_folder(), PROBES) for path in root.glob("*/labels.csv")
)
LEFT, RIGHT = "7771000", "24028007"
SIDES = {"left", "right"}
MORPHOLOGY = "49755003"

Triple = tuple[str, str]


@cache
def segments_of(model: str) -> tuple[Segment, ...]:
    segments, mistakes = read_labels_table(default_models_folder() / model / "labels.csv", model)
    assert not mistakes
    return tuple(segments)


@pytest.fixture(params=TABLES, ids=[path.parent.name for path in TABLES])
def table(request: pytest.FixtureRequest) -> tuple[Segment, ...]:
    segments, mistakes = read_labels_table(request.param, request.param.parent.name)
    assert not mistakes
    return tuple(segments)


@cache
def dictionary() -> Mapping[Triple, set[str]]:
    """Codes of PS3.16 as pydicom lists them -> what they are called."""
    names: dict[Triple, set[str]] = defaultdict(set)
    for scheme in ("SCT", "DCM", "NCIt", "NEU"):
        found = getattr(codes, scheme)
        for keyword in found.dir():
            code = getattr(found, keyword)
            names[scheme, code.value].add(code.meaning)
            names[scheme, code.value].add(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", keyword))
    return names


def published_rows(shared_labels: Cases) -> list[dict[str, str]]:
    with (shared_labels / "snomed_totalsegmentator.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def published_code(row: Mapping[str, str], part: str) -> Triple | None:
    value = row[f"{part}.CodeValue"]
    return (row[f"{part}.CodingSchemeDesignator"], value) if value else None


def of(code: Code | None) -> Triple | None:
    return (code.scheme, code.value) if code else None


def source_names(shared_labels: Cases, shared_models: Cases, model: str) -> dict[int, str]:
    """Label value -> the name that the model's own files give it."""
    if model == "ctmr":
        labels = json.loads((shared_labels / "ctmr.json").read_text())["labels"]
        return {fact["index"]: name for name, fact in labels.items()}
    if model == "brain_t1_meshnet":
        path = shared_models / "brainchop/model18cls/colormap.json"
        return dict(enumerate(json.loads(path.read_text())["labels"][1:], 1))
    names = json.loads((shared_labels / "wholebody_ct.json").read_text())
    return {int(value): name for value, name in names.items() if value != "0"}


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("wholebody_ct", range(1, 105)),
        ("ctmr", range(1, 346)),
        ("spleen_ct", [1]),
        ("mindgrab", [1]),
        ("brain_t1_meshnet", range(1, 18)),
        ("brats_mri", [1, 2, 3]),
        ("brats_mri_disjoint", [1, 2, 4]),
    ],
)
def test_every_label_of_the_model_is_described(model: str, values: range | list[int]) -> None:
    assert [segment.label_value for segment in segments_of(model)] == list(values)


@pytest.mark.parametrize("model", ["wholebody_ct", "ctmr", "brain_t1_meshnet"])
def test_every_label_is_found_by_the_name_that_the_model_gives_it(
    model: str, shared_labels: Cases, shared_models: Cases
) -> None:
    names = source_names(shared_labels, shared_models, model)

    found = segments_named(segments_of(model), list(names.values()))

    assert [segment.label_value for segment in found] == list(names)
    assert len(found) == len(segments_of(model))


def test_no_two_labels_of_a_model_have_one_colour(table: tuple[Segment, ...]) -> None:
    assert len({segment.rgb for segment in table}) == len(table)


def test_names_begin_with_a_capital_and_hold_no_underscore(table: tuple[Segment, ...]) -> None:
    for segment in table:
        assert segment.name[0].isupper() or segment.name[0].isdigit(), segment.name
        assert "_" not in segment.name


def test_categories_are_those_of_the_context_group(table: tuple[Segment, ...]) -> None:
    known = {getattr(codes.cid7150, name).value for name in codes.cid7150.dir()}

    assert {segment.category.value for segment in table} <= known


def test_what_is_ill_is_no_anatomical_structure(table: tuple[Segment, ...]) -> None:
    ill = re.compile(r"tumor|cyst\b|lesion|mass|cancer|hyperintensity|edema")

    for segment in table:
        said = bool(ill.search(segment.name.casefold()))
        assert said == (segment.category.value == MORPHOLOGY), segment.name


@pytest.mark.parametrize("model", ["wholebody_ct", "ctmr"])
def test_sides_come_in_pairs_that_differ_in_nothing_else(model: str) -> None:
    segments = {name_words(segment.name): segment for segment in segments_of(model)}
    alone = set()
    for words, segment in segments.items():
        if not SIDES & set(words):
            continue
        swap = {"left": "right", "right": "left"}
        other = segments.get(tuple(sorted(swap.get(word, word) for word in words)))
        if other is None:
            alone.add(segment.name)
            continue
        assert _swapped(segment) == _codes_by_side(other), segment.name

    assert (
        alone
        == {
            "wholebody_ct": {"Right lung middle lobe"},
            "ctmr": {
                "Right lung middle lobe",
                "Left atrial appendage",
                "Left ventricle myocardium",
            },
        }[model]
    )


def _codes_by_side(segment: Segment) -> list[Triple | None]:
    return [of(code) for code in segment.codes]


def _swapped(segment: Segment) -> list[Triple | None]:
    """The codes that the same structure of the other side must have."""
    chambers = {"82471001": "73829009", "87878005": "53085002"}  # atria, ventricles
    swap = {LEFT: RIGHT, RIGHT: LEFT, **chambers, **{b: a for a, b in chambers.items()}}
    return [
        (code.scheme, swap.get(code.value, code.value)) if code else None for code in segment.codes
    ]


# Of these TotalSegmentator gives the code of the RIGHT subclavian artery (29700009) to both sides.
OTHERWISE = {"subclavian_artery_left", "subclavian_artery_right"}


@pytest.mark.parametrize(("model", "least"), [("wholebody_ct", 104), ("ctmr", 116)])
def test_codes_agree_with_the_table_of_totalsegmentator(
    model: str, least: int, shared_labels: Cases
) -> None:
    segments = {name_words(segment.name): segment for segment in segments_of(model)}
    compared = 0
    for row in published_rows(shared_labels):
        segment = segments.get(name_words(row["Structure"]))
        if segment is None or row["Structure"] in OTHERWISE:
            continue
        compared += 1
        assert of(segment.type) == published_code(row, "SegmentedPropertyTypeCodeSequence")
        assert of(segment.modifier) == published_code(
            row, "SegmentedPropertyTypeModifierCodeSequence"
        )
        assert of(segment.region) == published_code(row, "AnatomicRegionSequence")
        assert of(segment.region_modifier) == published_code(row, "AnatomicRegionModifierSequence")

    assert compared >= least


def test_every_code_is_known_to_others(table: tuple[Segment, ...], shared_labels: Cases) -> None:
    published = {
        published_code(row, part.removesuffix(".CodeValue"))
        for row in published_rows(shared_labels)
        for part in row
        if part.endswith(".CodeValue")
    }
    known = {*dictionary(), *published, *LOOKED_UP}

    unknown = {
        code
        for segment in table
        for code in segment.codes
        if code and code.scheme != PRIVATE_SCHEME and of(code) not in known
    }

    assert not unknown


def test_meanings_are_those_of_the_codes(table: tuple[Segment, ...]) -> None:
    for code in {code for segment in table for code in segment.codes if code}:
        key = (code.scheme, code.value)
        called = dictionary().get(key, set()) | ({LOOKED_UP[key]} if key in LOOKED_UP else set())
        ours = set(name_words(code.meaning))
        same = [
            name
            for name in called
            if ours <= set(name_words(name)) and not (set(name_words(name)) - ours) & SIDES
        ]
        assert same or not called, f"{code} is called {sorted(called)}"


def test_one_code_has_one_meaning_in_all_tables() -> None:
    meanings: dict[Triple, set[str]] = defaultdict(set)
    for path in TABLES:
        for segment in read_labels_table(path, path.parent.name)[0]:
            for code in segment.codes:
                if code:
                    meanings[code.scheme, code.value].add(code.meaning)

    assert not {key: said for key, said in meanings.items() if len(said) > 1}


def test_identifiers_of_snomed_ct_have_their_check_digit(table: tuple[Segment, ...]) -> None:
    for code in {code for segment in table for code in segment.codes if code}:
        if code.scheme == "SCT":
            assert _verhoeff_holds(code.value), code
            assert code.value[-3:-1] == "00", f"{code} is no identifier of a concept"


def test_the_check_of_identifiers_sees_a_wrong_digit_and_a_swap() -> None:
    assert _verhoeff_holds("39607008")  # lung
    assert not _verhoeff_holds("39607009")
    assert not _verhoeff_holds("39670008")


def _verhoeff_holds(digits: str) -> bool:
    """Whether the last digit is right: arithmetic of the dihedral group of order 10."""

    def product(a: int, b: int) -> int:
        if a < 5:
            return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
        return 5 + (a - b) % 5 if b < 5 else (a - b) % 5

    permutation = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
    check = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place):
            value = permutation[value]
        check = product(check, value)
    return check == 0


@pytest.mark.parametrize("model", sorted(path.parent.name for path in TABLES))
def test_private_codes_are_few_and_numbered_by_their_label(model: str) -> None:
    root = default_models_folder() if model != "probe" and model != "pair" else PROBES
    segments = read_labels_table(root / model / "labels.csv", model)[0]
    private = [segment for segment in segments if segment.is_private]
    by_value = {segment.label_value: segment for segment in segments}

    for segment in private:
        prefix, _, number = segment.type.value.rpartition("-")
        assert prefix == model
        assert by_value[int(number)].type == segment.type  # the first of a pair gives the number
    assert len(private) == {"ctmr": 28}.get(model, 0)
    assert not any(
        code.scheme.startswith("99") and code.scheme != PRIVATE_SCHEME
        for segment in segments
        for code in segment.codes
        if code
    )


def test_brain_lesions_are_coded_as_the_context_group_has_it() -> None:
    group = codes.cid7169

    by_value = {segment.label_value: segment for segment in segments_of("brats_mri_disjoint")}

    assert of(by_value[1].type) == ("NCIt", group.NonEnhancingLesion.value)
    assert of(by_value[2].type) == ("SCT", group.Edema.value)
    assert of(by_value[4].type) == ("NCIt", group.EnhancingLesion.value)


@pytest.mark.parametrize(
    ("model", "name", "value", "modifier"),
    [
        ("wholebody_ct", "spleen", "78961009", None),
        ("wholebody_ct", "kidney_left", "64033007", LEFT),
        ("wholebody_ct", "lung_middle_lobe_right", "72481006", None),
        ("wholebody_ct", "vertebrae_L5", "49668003", None),
        ("wholebody_ct", "rib_right_12", "43993008", RIGHT),
        ("wholebody_ct", "gluteus_minimus_left", "75297007", LEFT),
        ("spleen_ct", "spleen", "78961009", None),
        ("mindgrab", "brain", "12738006", None),
        ("brats_mri", "enhancing_tumor", "C113842", None),
        ("brats_mri", "tumor_core", "108369006", None),
        ("brain_t1_meshnet", "Hippocampus", "5366008", None),
        ("brain_t1_meshnet", "VentralDC", "110700", None),
        ("ctmr", "liver", "10200004", None),
        ("ctmr", "right subclavian artery", "36765005", RIGHT),
        ("ctmr", "Left-Thalamus-Proper", "42695009", LEFT),
        ("ctmr", "Right-Ent---entorhinal-area", "3937002", RIGHT),
        ("ctmr", "Left-PrG---precentral-gyrus", "89", LEFT),
        ("ctmr", "thyroid right", "69748006", RIGHT),
    ],
)
def test_well_known_structures_have_their_codes(
    model: str, name: str, value: str, modifier: str | None
) -> None:
    (segment,) = segments_named(segments_of(model), [name])

    assert segment.type.value == value
    assert (segment.modifier.value if segment.modifier else None) == modifier


def test_most_labels_have_a_published_code() -> None:
    count = Counter(segment.type.scheme for segment in segments_of("ctmr"))

    assert count == {"SCT": 233, "NEU": 81, "DCM": 3, PRIVATE_SCHEME: 28}


# NEU: the numbers of NeuroNames, as BrainInfo lists them; PS3.16 takes its tracts from the same.
# SCT: as other published tables and the international edition have them.
LOOKED_UP = {
    ("NEU", "6"): "posterior orbital gyrus",
    ("NEU", "57"): "frontal pole",
    ("NEU", "83"): "superior frontal gyrus",
    ("NEU", "84"): "middle frontal gyrus",
    ("NEU", "89"): "precentral gyrus",
    ("NEU", "92"): "lateral orbital gyrus",
    ("NEU", "93"): "medial orbital gyrus",
    ("NEU", "94"): "straight gyrus",
    ("NEU", "105"): "postcentral gyrus",
    ("NEU", "106"): "superior parietal lobule",
    ("NEU", "108"): "supramarginal gyrus",
    ("NEU", "109"): "angular gyrus",
    ("NEU", "110"): "precuneus",
    ("NEU", "120"): "long insular gyri",
    ("NEU", "126"): "temporal pole",
    ("NEU", "136"): "superior temporal gyrus",
    ("NEU", "137"): "middle temporal gyrus",
    ("NEU", "138"): "inferior temporal gyrus",
    ("NEU", "139"): "fusiform gyrus",
    ("NEU", "141"): "occipital pole",
    ("NEU", "154"): "superior occipital gyrus",
    ("NEU", "155"): "middle occipital gyrus",
    ("NEU", "156"): "inferior occipital gyrus",
    ("NEU", "157"): "cuneus",
    ("NEU", "158"): "lingual gyrus",
    ("NEU", "161"): "anterior cingulate gyrus",
    ("NEU", "162"): "posterior cingulate gyrus",
    ("NEU", "164"): "parahippocampal gyrus",
    ("NEU", "278"): "subcallosal area",
    ("NEU", "656"): "vermis of the anterior lobe",
    ("NEU", "1520"): "transverse temporal gyrus",
    ("NEU", "1997"): "basal forebrain",
    ("NEU", "2020"): "planum polare",
    ("NEU", "2268"): "frontal operculum",
    ("NEU", "2333"): "planum temporale",
    ("NEU", "3286"): "anterior insula",
    ("NEU", "3290"): "parietal operculum",
    ("NEU", "3291"): "orbital part of the inferior frontal gyrus",
    ("NEU", "3292"): "triangular part of the inferior frontal gyrus",
    ("NEU", "3293"): "opercular part of the inferior frontal gyrus",
    ("SCT", "1156198008"): "L6 vertebra",
    ("SCT", "1179657002"): "Structure of medial muscle of thigh",
    ("SCT", "12595009"): "Sartorius muscle",
    ("SCT", "128511007"): "Posterior muscle of thigh structure",
    ("SCT", "21989003"): "Quadriceps femoris muscle",
    ("SCT", "360499006"): "Intervertebral disc",
    ("SCT", "4866005"): "Constrictor muscle of pharynx structure",
    ("SCT", "51837005"): "Tympanic cavity structure",
    ("SCT", "80169004"): "Cochlea",
}
