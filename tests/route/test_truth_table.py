"""Each condition against each way a value can be, and can be missing."""

from __future__ import annotations

import time

import pytest

from node.domain.errors import ConfigInvalid
from node.domain.header import ABSENT, DIFFERS, MALFORMED, PARTLY_ABSENT, Header, Missing, Value
from node.route.compiling import compile_clause
from node.route.conditions import Truth

T, F, U = Truth.TRUE, Truth.FALSE, Truth.UNKNOWN
MISSING: tuple[Value, ...] = (ABSENT, PARTLY_ABSENT, DIFFERS, MALFORMED, (), ("  ",))

# clause, a value that fits, one that does not, then the verdicts for MISSING in that order
TABLE: list[tuple[object, Value, Value, str]] = [
    ({"Modality": "CT"}, (" ct ",), ("MR",), "UUUUUU"),
    ({"Modality": ["CT", "PT"]}, ("PT",), ("MR",), "UUUUUU"),
    ({"ImageType": "AXIAL"}, ("ORIGINAL", "PRIMARY", "AXIAL"), ("ORIGINAL", "AXIALS"), "UUUUUU"),
    ({"StationAETitle": "CT1"}, (" CT1 ",), ("ct1",), "UUUUUU"),
    ({"Rows": 512}, (512,), (256,), "UUUUUU"),
    ({"SliceThickness": {"max": 5}}, (5.0,), (5.01,), "UUUUUU"),
    ({"SliceThickness": {"min": 1, "max": 5}}, (1,), (0.5,), "UUUUUU"),
    ({"PatientAge": {"min": 18}}, ("018Y",), ("215M",), "UUUUUU"),
    ({"ImageType": {"contains": "local"}}, ("A", "LOCALIZER"), ("A", "B"), "UUUUUU"),
    ({"ImageType": {"contains": ["X", "B"]}}, ("A", "B"), ("A", "C"), "UUUUUU"),
    ({"StudyDescription": {"matches": "(?i)thorax"}}, ("CT Thorax",), ("Head",), "UUUUUU"),
    ({"StudyDescription": {"matches": "thorax"}}, ("thorax",), ("THORAX",), "UUUUUU"),
    ({"SliceThickness": {"present": True}}, (1.0,), (), "FUTUFF"),
    ({"SliceThickness": {"present": False}}, (), (1.0,), "TUFUTT"),
    ({"not": {"Modality": "CT"}}, ("MR",), ("CT",), "UUUUUU"),
    ({"any": [{"Modality": "CT"}, {"Modality": "PT"}]}, ("PT",), ("MR",), "UUUUUU"),
    ({"all": [{"Modality": "CT"}, {"Modality": ["CT", "MR"]}]}, ("CT",), ("MR",), "UUUUUU"),
    ({"slices": {"min": 20}}, (20,), (19,), "UUUUUU"),
    ({"contrast": True}, (True,), (False,), "UUUUUU"),
    ({"contrast": False}, (False,), (True,), "UUUUUU"),
    ({"orientation": "axial"}, ("AXIAL",), ("OBLIQUE",), "UUUUUU"),
    ({"calling_ae_title": "Pacs"}, ("Pacs",), ("PACS",), "UUUUUU"),
]


def name_in(clause: object) -> str:
    """The one attribute that a clause is about."""
    while True:
        clause = clause[0] if isinstance(clause, list) else clause
        assert isinstance(clause, dict)
        key, value = next(iter(clause.items()))
        if key not in ("any", "all", "not"):
            return str(key)
        clause = value


def judged(clause: object, value: Value) -> Truth:
    name = name_in(clause)
    header = Header(derived={name: value}) if name[0].islower() else Header({name: value})
    return compile_clause(clause, "when").judge(header).truth


@pytest.mark.parametrize(("clause", "fits", "differs", "missing"), TABLE, ids=str)
def test_truth_table(clause: object, fits: Value, differs: Value, missing: str) -> None:
    verdicts = "".join(
        judged(clause, value).value[0].upper() for value in (fits, differs, *MISSING)
    )

    assert verdicts == "TF" + missing


def test_every_missing_kind_names_its_reason() -> None:
    condition = compile_clause({"Modality": "CT"}, "when")

    reasons = [condition.judge(Header({"Modality": value})).reason for value in MISSING]

    assert reasons == [
        *(value.reason for value in MISSING if isinstance(value, Missing)),
        "empty",
        "empty",
    ]


def test_a_value_of_the_wrong_type_is_unknown_and_not_false() -> None:
    assert judged({"Rows": {"min": 1}}, ("many",)) is U
    assert judged({"contrast": True}, ("yes",)) is U
    assert judged({"PatientAge": {"min": 18}}, ("old",)) is U
    assert judged({"Rows": {"min": 1}}, (float("nan"),)) is U


def test_one_unreadable_value_among_several_is_unknown_unless_another_fits() -> None:
    assert judged({"PixelSpacing": {"max": 1}}, (2.0, "x")) is U
    assert judged({"PixelSpacing": {"max": 1}}, (0.5, "x")) is T
    assert judged({"PixelSpacing": {"max": 1}}, (2.0, 3.0)) is F


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*)*b", r"(\w+\s?)+:"])
def test_a_catastrophic_expression_takes_bounded_time(pattern: str) -> None:
    condition = compile_clause({"StudyDescription": {"matches": pattern}}, "when")
    header = Header({"StudyDescription": ("a" * 10_240 + "!",)})
    started = time.perf_counter()

    truth = condition.judge(header).truth

    assert truth is F
    assert time.perf_counter() - started < 1.0


def test_ten_kilobytes_and_odd_characters_are_compared_like_any_other_text() -> None:
    long = "CHEST" * 2048

    assert judged({"BodyPartExamined": "CHEST"}, (long,)) is F
    assert judged({"BodyPartExamined": {"contains": "chest"}}, (long,)) is T
    assert judged({"BodyPartExamined": "*"}, ("CHEST",)) is F
    assert judged({"StudyDescription": {"matches": "b$"}}, ("\udcff\x00\x1bb",)) is T


@pytest.mark.parametrize(
    ("clause", "path", "words"),
    [
        ({"Modalty": "CT"}, "w.Modalty", "did you mean Modality?"),
        ({"slice_thickness": 1}, "w.slice_thickness", "did you mean SliceThickness?"),
        ({"slizes": 1}, "w.slizes", "did you mean slices?"),
        ({"PixelData": "x"}, "w.PixelData", "sequence or binary"),
        ({"SharedFunctionalGroupsSequence": "x"}, "w.SharedFunctionalGroupsSequence", "sequence"),
        ({"TransferSyntaxUID": "1.2"}, "w.TransferSyntaxUID", "message or the file"),
        ({"Modality": []}, "w.Modality", "empty list"),
        ({"Modality": ""}, "w.Modality", "empty text"),
        ({"Modality": None}, "w.Modality", "no value"),
        ({"Modality": 5}, "w.Modality", "in quotes"),
        ({"Modality": [["CT"]]}, "w.Modality", "not a list of lists"),
        ({"Modality": {}}, "w.Modality", "empty mapping"),
        ({"Modality": {"max": 5}}, "w.Modality", "min and max need a number"),
        ({"Modality": {"contain": "C"}}, "w.Modality.contain", "did you mean contains?"),
        ({"Modality": {"contains": ""}}, "w.Modality.contains", "not empty"),
        ({"Modality": {"matches": "["}}, "w.Modality.matches", "missing ]"),
        ({"Modality": {"matches": "(?=C)"}}, "w.Modality.matches", "RE2"),
        ({"Modality": {"matches": "(a{1000}){1000}"}}, "w.Modality.matches", "RE2"),
        ({"Modality": {"present": "yes"}}, "w.Modality.present", "true or false"),
        ({"Rows": "512"}, "w.Rows", "is a number"),
        ({"Rows": True}, "w.Rows", "is a number"),
        ({"Rows": {"min": "1"}}, "w.Rows.min", "min takes a number"),
        ({"Rows": {"min": 3, "max": 2}}, "w.Rows", "min 3 is above max 2"),
        ({"Rows": {"contains": "5"}}, "w.Rows.contains", "Rows is no text"),
        ({"Rows": {"min": float("nan")}}, "w.Rows", "must be numbers"),
        ({"contrast": "true"}, "w.contrast", "true or false"),
        ({"sequence": "T3"}, "w.sequence", "none of T1, T2"),
        ({"SOPClassUID": "SegmentationStorag"}, "w.SOPClassUID", "no UID"),
        ({"any": []}, "w.any", "takes a list of clauses"),
        ({"any": {"Modality": "CT"}}, "w.any", "takes a list of clauses"),
        ({"any": [{}]}, "w.any.0", "no clause here"),
        ({"not": {}}, "w.not", "no clause here"),
        ({"not": {"any": [{"Modalty": "CT"}]}}, "w.not.any.0.Modalty", "did you mean Modality?"),
        ({}, "w", "no clause here"),
        ("CT", "w", "as a mapping"),
    ],
)
def test_a_clause_that_cannot_be_is_refused_with_its_path(
    clause: object, path: str, words: str
) -> None:
    with pytest.raises(ConfigInvalid) as invalid:
        compile_clause(clause, "w")

    assert [found for found, _ in invalid.value.mistakes] == [path]
    assert words in invalid.value.mistakes[0][1]


def test_nesting_without_end_is_refused_instead_of_exhausting_the_stack() -> None:
    clause: dict[str, object] = {"Modality": "CT"}
    for _ in range(500):
        clause = {"not": clause}

    with pytest.raises(ConfigInvalid, match="nested deeper"):
        compile_clause(clause, "w")
