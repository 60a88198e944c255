"""Laws of the rule language: Kleene, explanations, contradictions, sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.domain.errors import ConfigInvalid
from node.domain.header import ABSENT, DIFFERS, MALFORMED, Header, Value
from node.route.compiling import compile_clause, compile_rule, mistakes_in
from node.route.conditions import Truth
from node.route.contradiction import contradiction, could_match
from node.route.rules import Rule, StudyRule, explain, names_sop_class
from node.route.sets import Ambiguous, Candidate, Chosen, Waiting
from node.words import tell_all

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"

values: st.SearchStrategy[Value] = st.one_of(
    st.sampled_from([ABSENT, DIFFERS, MALFORMED]),
    st.sampled_from(["CT", "MR", "PT", ""]).map(lambda text: (text,)),
    st.just(()),
)
numbers: st.SearchStrategy[Value] = st.one_of(
    st.sampled_from([ABSENT, DIFFERS]), st.integers(0, 9).map(lambda n: (n,))
)
headers = st.builds(
    lambda modality, slices, contrast: Header(
        {"Modality": modality}, {"slices": slices, "contrast": contrast}
    ),
    values,
    numbers,
    st.sampled_from([ABSENT, (True,), (False,)]),
)
leaves: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.lists(st.sampled_from(["CT", "MR", "PT"]), min_size=1).map(lambda v: {"Modality": v}),
    st.booleans().map(lambda there: {"Modality": {"present": there}}),
    st.tuples(st.integers(0, 9), st.integers(0, 9)).map(
        lambda ends: {"slices": {"min": min(ends), "max": max(ends)}}
    ),
    st.booleans().map(lambda flag: {"contrast": flag}),
)
clauses = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(lambda c: {"not": c}),
        st.lists(inner, min_size=1, max_size=3).map(lambda cs: {"any": cs}),
        st.lists(inner, min_size=1, max_size=3).map(lambda cs: {"all": cs}),
    ),
    max_leaves=6,
)


def truth(clause: Mapping[str, Any], header: Header) -> Truth:
    return compile_clause(clause, "when").judge(header).truth


@given(clauses, headers)
def test_not_twice_is_nothing(clause: dict[str, Any], header: Header) -> None:
    assert truth({"not": {"not": clause}}, header) is truth(clause, header)


@given(clauses, clauses, headers)
def test_not_of_any_is_all_of_nots(a: dict[str, Any], b: dict[str, Any], header: Header) -> None:
    left = truth({"not": {"any": [a, b]}}, header)

    assert left is truth({"all": [{"not": a}, {"not": b}]}, header)


@given(clauses, clauses, clauses, headers)
def test_all_distributes_over_any(
    a: dict[str, Any], b: dict[str, Any], c: dict[str, Any], header: Header
) -> None:
    left = truth({"all": [a, {"any": [b, c]}]}, header)

    assert left is truth({"any": [{"all": [a, b]}, {"all": [a, c]}]}, header)


@given(st.permutations(range(3)), st.lists(clauses, min_size=3, max_size=3), headers)
def test_the_order_of_clauses_does_not_matter(
    order: list[int], parts: list[dict[str, Any]], header: Header
) -> None:
    for word in ("any", "all"):
        shuffled = {word: [parts[i] for i in order]}

        assert truth(shuffled, header) is truth({word: parts}, header)


@given(clauses, headers, st.sampled_from(["CT", "MR", "PT"]), st.integers(0, 9))
def test_what_is_known_stays_so_when_more_becomes_known(
    clause: dict[str, Any], header: Header, modality: str, slices: int
) -> None:
    def learn(name: str, value: str | int) -> Value:
        # absence is knowledge for ``present``, so only values that could not be read are learned
        return (value,) if header.get(name) in (DIFFERS, MALFORMED) else header.get(name)

    fuller = Header(
        {"Modality": learn("Modality", modality)},
        {"slices": learn("slices", slices), "contrast": header.get("contrast")},
    )

    before, after = truth(clause, header), truth(clause, fuller)

    assert before in (after, Truth.UNKNOWN)


@given(clauses, headers)
def test_the_explanation_agrees_with_the_verdict(clause: dict[str, Any], header: Header) -> None:
    rule = Rule(name="r", condition=compile_clause(clause, "when"))

    explanation = explain(rule, header)

    assert explanation.truth is rule.condition.judge(header).truth
    assert explanation.as_json()["truth"] == explanation.truth.value
    assert explanation.lines()[0] == f"rule r: {explanation.truth.value}"
    ((_, does_not_fit, unknown),) = explanation.why_silent()[1]
    assert bool(does_not_fit or unknown) is (explanation.truth is not Truth.TRUE)


@given(clauses, clauses, headers)
def test_a_contradiction_is_never_fulfilled(
    a: dict[str, Any], b: dict[str, Any], header: Header
) -> None:
    asked, accepted = compile_clause(a, "when"), compile_clause(b, "when")

    both_true = truth(a, header) is Truth.TRUE and truth(b, header) is Truth.TRUE

    assert could_match(asked, accepted) or not both_true


@pytest.mark.parametrize(
    ("rule", "model", "sentence"),
    [
        (
            {"Modality": "MR"},
            {"Modality": "CT", "slices": {"min": 3}},
            "rule asks for Modality MR, model ct_tissue accepts CT",
        ),
        (
            {"any": [{"Modality": "MR"}, {"Modality": "PT"}]},
            {"Modality": ["CT"]},
            "rule asks for Modality MR, model ct_tissue accepts CT",
        ),
        (
            {"slices": {"max": 2}},
            {"slices": {"min": 3}},
            "rule asks for slices {max: 2}, model ct_tissue accepts {min: 3}",
        ),
        (
            {"not": {"Modality": ["CT", "MR"]}},
            {"Modality": "CT"},
            "rule asks for Modality not [CT, MR], model ct_tissue accepts CT",
        ),
        (
            {"contrast": {"present": False}},
            {"contrast": True},
            "rule asks for contrast {present: false}, model ct_tissue accepts true",
        ),
        ({"Modality": ["CT", "MR"]}, {"Modality": "CT"}, None),
        ({"not": {"Modality": "MR"}}, {"Modality": "CT"}, None),
        ({"any": [{"Modality": "MR"}, {"slices": {"min": 3}}]}, {"Modality": "CT"}, None),
        ({"ImageType": "ORIGINAL"}, {"ImageType": "AXIAL"}, None),
        ({"StudyDescription": {"contains": "head"}}, {"Modality": "CT"}, None),
    ],
)
def test_a_rule_that_a_model_cannot_take_is_named(
    rule: dict[str, Any], model: dict[str, Any], sentence: str | None
) -> None:
    found = contradiction(
        compile_clause(rule, "when"), compile_clause(model, "when"), model="ct_tissue"
    )

    assert found == sentence


def test_a_rule_against_itself_is_refused() -> None:
    mistakes = mistakes_in([{"name": "a", "when": {"Modality": "CT", "all": [{"Modality": "MR"}]}}])

    assert [path for path, _ in mistakes] == ["rules.0"]
    assert "can never fire: rule asks for Modality CT and MR" in mistakes[0][1]


def test_a_very_branchy_rule_is_compiled_in_bounded_time() -> None:
    wide = {"any": [{"slices": n} for n in range(10)]}

    condition = compile_clause({"all": [wide] * 12}, "when")

    assert could_match(condition)


def test_only_a_rule_that_asks_for_a_class_names_it() -> None:
    by_keyword = compile_clause({"SOPClassUID": "SegmentationStorage"}, "when")
    nested = compile_clause({"any": [{"SOPClassUID": [SEGMENTATION]}, {"Modality": "CT"}]}, "when")
    refused = compile_clause({"not": {"SOPClassUID": SEGMENTATION}}, "when")
    by_modality = compile_clause({"Modality": "SEG"}, "when")

    named = [names_sop_class(c, SEGMENTATION) for c in (by_keyword, nested, refused, by_modality)]

    assert named == [True, True, False, False]


def test_an_explanation_for_storage_holds_no_header_value() -> None:
    condition = compile_clause(
        {"StudyDescription": {"contains": "chest"}, "Modality": "CT"}, "when"
    )
    header = Header({"StudyDescription": ("for Mr Secretname",), "Modality": ("CT",)})

    explanation = explain(Rule(name="r", condition=condition), header)

    assert "Secretname" not in str(explanation.as_json()) + str(explanation.why_silent())
    assert "Secretname" in "".join(explanation.lines(values=True))
    assert explanation.why_silent() == ("r", (("", ("StudyDescription",), ()),))


def test_a_header_cannot_write_control_characters_to_a_terminal() -> None:
    condition = compile_clause({"StudyDescription": "x"}, "when")
    header = Header({"StudyDescription": ("\x1b[2J" + "y" * 10_240,)})

    lines = explain(Rule(name="r", condition=condition), header).lines()

    assert all(line.isprintable() and len(line) < 200 for line in lines)


def glioma() -> StudyRule:
    rule = compile_rule(
        name="glioma",
        when=None,
        study={
            "t1c": {"sequence": "T1", "contrast": True},
            "t1": {"sequence": "T1", "prefer": [{"orientation": "AXIAL"}]},
            "flair": {"sequence": "FLAIR"},
        },
        path="rules.0",
    )
    assert isinstance(rule, StudyRule)
    return rule


def series(uid: str, slices: int = 20, patient: str = "P", **derived: object) -> Candidate:
    found: dict[str, Value] = {name: (value,) for name, value in derived.items()}  # type: ignore[misc]
    return glioma().candidate(uid, patient_id=patient, header=Header({}, found), slices=slices)


T1C = series("1.1", sequence="T1", contrast=True)
T1 = series("1.2", sequence="T1", contrast=False)
FLAIR = series("1.3", sequence="FLAIR")


@given(st.permutations([T1C, T1, FLAIR]))
def test_every_role_gets_its_series_in_any_order(candidates: list[Candidate]) -> None:
    choice = glioma().choose(candidates)

    assert choice == Chosen(roles={"t1c": "1.1", "t1": "1.2", "flair": "1.3"})


def test_a_missing_role_is_waited_for_by_name() -> None:
    choice = glioma().choose([T1C, T1])

    assert isinstance(choice, Waiting)
    assert tell_all(choice.reasons) == "no series yet for role flair"


def test_what_is_unknown_about_a_missing_role_is_said() -> None:
    choice = glioma().choose([T1, FLAIR, series("1.4", sequence="T1")])

    assert isinstance(choice, Waiting)
    assert (
        tell_all(choice.reasons) == "no series yet for role t1c (contrast unknown in some series)"
    )


@given(st.permutations([T1C, T1, FLAIR, series("1.4", sequence="FLAIR")]))
def test_two_series_that_fit_equally_are_never_decided(candidates: list[Candidate]) -> None:
    choice = glioma().choose(candidates)

    assert isinstance(choice, Ambiguous)
    assert tell_all(choice.reasons) == "two series fit role flair: 1.3, 1.4"


def test_the_most_slices_win_and_a_preference_beats_them() -> None:
    more = series("1.4", slices=40, sequence="FLAIR")
    axial = series("1.5", slices=10, sequence="T1", contrast=False, orientation="AXIAL")

    choice = glioma().choose([T1C, T1, FLAIR, more, axial])

    assert choice == Chosen(roles={"t1c": "1.1", "t1": "1.5", "flair": "1.4"})


def test_one_series_never_fills_two_roles() -> None:
    choice = glioma().choose([T1C, FLAIR])

    assert isinstance(choice, Waiting)
    assert tell_all(choice.reasons) == (
        "series 1.1 is the only one for roles t1c and t1, and a series fills one role only"
    )


def test_a_series_that_is_best_for_two_roles_is_not_guessed() -> None:
    both = series("1.6", slices=90, sequence="T1", contrast=True)

    choice = glioma().choose([T1C, T1, FLAIR, both])

    assert isinstance(choice, Ambiguous)
    assert tell_all(choice.reasons).startswith("series 1.6 fits roles t1c and t1 best")


def test_two_patients_in_one_set_are_parked_without_naming_them() -> None:
    stranger = series("1.3", patient="OTHER", sequence="FLAIR")

    choice = glioma().choose([T1C, T1, stranger])

    assert isinstance(choice, Ambiguous)
    assert "differ in Patient ID" in tell_all(choice.reasons)
    assert "OTHER" not in tell_all(choice.reasons)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["T1", "FLAIR"]),
            st.sampled_from([True, False, None]),
            st.integers(3, 5),
        ),
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_a_choice_does_not_depend_on_arrival_order(
    made: list[tuple[str, bool | None, int]], random: Any
) -> None:
    candidates = [
        series(f"1.{n}", slices=slices, sequence=sequence)
        if contrast is None
        else series(f"1.{n}", slices=slices, sequence=sequence, contrast=contrast)
        for n, (sequence, contrast, slices) in enumerate(made)
    ]
    shuffled = candidates.copy()
    random.shuffle(shuffled)

    choice = glioma().choose(candidates)

    assert glioma().choose(shuffled) == choice
    if isinstance(choice, Chosen):
        assert len(set(choice.roles.values())) == 3


def test_a_rule_needs_exactly_one_of_when_and_study() -> None:
    with pytest.raises(ConfigInvalid, match="either when"):
        compile_rule(name="r", when=None, study=None, path="rules.0")
