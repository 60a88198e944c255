"""Words: every reason has some, and nothing but people reads them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import node
from node.domain.health import COUNTED, Finding, Health, HealthCode
from node.domain.reasons import Reason, ReasonCode, reasons_from_json, reasons_to_json
from node.words import (
    Audience,
    show_count,
    show_degraded,
    show_job,
    show_match,
    show_series,
    tell,
    tell_all,
)
from node.words.gate import TELLINGS as OF_GATE
from node.words.journey import TELLINGS as OF_JOURNEY

READS = frozenset(
    (
        *("removesuffix", "removeprefix", "partition", "rpartition", "split", "rsplit", "replace"),
        *("startswith", "endswith", "find", "index", "count", "translate"),
    )
)
NOT_OURS = ("migrations",)  # of rows that an earlier version wrote


def test_every_code_has_words_of_one_room() -> None:
    assert set(OF_GATE) | set(OF_JOURNEY) == set(ReasonCode)
    assert not set(OF_GATE) & set(OF_JOURNEY)


@pytest.mark.parametrize("code", ReasonCode)
def test_what_was_told_is_said_as_it_is(code: ReasonCode) -> None:
    assert tell(Reason(code, {"told": "as it is {}"})) == "as it is {}"


def test_a_reason_names_its_role_instance_and_attempt() -> None:
    reason = Reason(ReasonCode.ONE_SLICE, {"role": "t1", "instance": "1.2"})

    said = tell(reason.having(attempt=1, attempts=3, is_tried_again=True))

    assert said == ("role t1: instance 1.2: one slice: not a volume (attempt 1 of 3, tried again)")


def test_what_is_said_twice_is_said_once() -> None:
    assert tell_all([Reason(ReasonCode.NO_IMAGES), Reason(ReasonCode.NO_IMAGES)]) == "no images"


def test_a_reason_survives_its_row() -> None:
    reasons = (
        Reason(ReasonCode.MATRIX_DIFFERS, {"sizes": [(512, 512), [256, 256]]}),
        Reason(ReasonCode.QUIET, {"quiet_s": float("inf"), "images": 3}),
    )

    assert reasons_from_json(reasons_to_json(reasons)) == reasons


def test_facts_are_plain_and_stay_as_they_are() -> None:
    reason = Reason(ReasonCode.GAP, {"missing": 1})

    with pytest.raises(TypeError):
        Reason(ReasonCode.GAP, {"missing": object()})
    with pytest.raises(TypeError):
        reason.facts["missing"] = 2  # type: ignore[index]


def test_who_is_spoken_to_decides_the_command() -> None:
    refused = Reason(ReasonCode.IMAGES_REFUSED, {"count": 1, "of": 2, "whys": [(1, "cut off")]})
    series = {
        "series_instance_uid": "1.2", "state": "held", "reasons": reasons_to_json([refused])
    }  # fmt: skip
    large = Reason(ReasonCode.IMPLAUSIBLE_VOLUME, {"told": "Spleen 30000.0 ml"})
    job = {"id": 5, "state": "implausible", "reasons": reasons_to_json([large])}

    said = [
        (show_series(series, audience)["sentence"], show_job(job, audience)["sentence"])
        for audience in (Audience.NODE, Audience.RUN)
    ]

    assert said == [
        (
            "1 of 2 images was refused (1 x cut off); go on without them with: segnode series "
            "proceed 1.2",
            "implausible: Spleen 30000.0 ml: not delivered until: segnode jobs accept 5",
        ),
        (
            "1 of 2 images was refused (1 x cut off); go on without them with: --proceed",
            "implausible: Spleen 30000.0 ml: not written without --accept-implausible",
        ),
    ]


def test_what_was_not_counted_to_its_end_is_told_as_at_least_that() -> None:
    assert [show_count(number) for number in (0, COUNTED - 1, COUNTED)] == [
        "0",
        "9999",
        "10000 or more",
    ]
    assert show_degraded(
        Health(
            (
                Finding(HealthCode.HELD, facts={"count": 1}),
                Finding(HealthCode.BLOCKED, facts={"count": COUNTED}),
            )
        )
    ) == {
        "held": "1 series wait for a person: segnode series list --state held",
        "blocked": "10000 or more results cannot be delivered: "
        "segnode deliveries list --state blocked",
    }


def test_models_without_rules_are_not_called_rules() -> None:
    silent = Reason(
        ReasonCode.NO_RULE_FIRED, {"rules": [("ct", [("", ["Modality"], [("plane", "absent")])])]}
    )
    row = {"state": "unmatched", "job_id": None, "reasons": reasons_to_json([silent])}

    assert show_match(row)["sentence"] == (
        "no rule fired: rule ct: does not fit: Modality; unknown: plane (absent)"
    )
    assert show_match(row, Audience.RUN_OF_MODELS)["sentence"] == (
        "no model takes it: ct: does not fit: Modality; unknown: plane (absent)"
    )


def test_no_code_reads_a_sentence() -> None:
    root = Path(node.__file__).parent
    found = [
        f"{path.relative_to(root)}:{line}"
        for path in sorted(root.rglob("*.py"))
        if not set(NOT_OURS) & set(path.parts)
        for line in reads_of_sentences(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        'row["sentence"].removesuffix(hint)',
        "job.sentence.endswith(hint)",
        '"refused" in row.sentence',
        'sentence == "nothing found"',
        'if not row["sentence"]: pass',
    ],
)
def test_a_read_of_a_sentence_is_noticed(code: str) -> None:
    assert list(reads_of_sentences(ast.parse(code))) == [1]


def reads_of_sentences(tree: ast.AST) -> Iterator[int]:
    """Lines that take a sentence apart, compare it, or decide by whether a row has one."""
    for part in ast.walk(tree):
        match part:
            case ast.Call(func=ast.Attribute(attr=attr, value=value)) if attr in READS:
                read = [value]
            case ast.Compare(left=left, comparators=others):
                read = [left, *others]
            case ast.UnaryOp(op=ast.Not(), operand=ast.Subscript() as row):
                read = [row]
            case ast.If(test=ast.Subscript() as row) | ast.IfExp(test=ast.Subscript() as row):
                read = [row]
            case _:
                read = []
        if any(map(is_sentence, read)):
            yield part.lineno  # type: ignore[attr-defined]


def is_sentence(part: ast.AST) -> bool:
    match part:
        case ast.Attribute(attr="sentence") | ast.Name(id="sentence"):
            return True
        case ast.Subscript(slice=ast.Constant(value="sentence")):
            return True
    return False
