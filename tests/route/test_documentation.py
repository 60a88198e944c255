"""docs/rules.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from node.domain.derived import DERIVED, Kind
from node.route.compiling import mistakes_in
from node.route.conditions import OPERATORS

RULES_PAGE = Path(__file__).resolve().parents[2] / "docs" / "rules.md"
_TAKES = {Kind.NUMBER: "number", Kind.FLAG: "true or false", Kind.EXACT: "exact text"}


def test_the_table_of_derived_attributes_is_the_one_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", RULES_PAGE.read_text(), re.M)

    assert rows == [
        (each.name, ", ".join(each.values) or _TAKES.get(each.kind, "text"), each.meaning)
        for each in DERIVED.values()
    ]


def test_the_table_of_operators_is_the_one_of_the_code() -> None:
    rows = re.findall(r"^\| `\{(\w+): (.+?)\}` \| (.+?) \|$", RULES_PAGE.read_text(), re.M)

    assert [row for row in rows if row[0] not in ("min", "max")] == [
        (key, operator.example, operator.meaning) for key, operator in OPERATORS.items()
    ]


def test_the_rules_that_real_cases_are_judged_by_compile() -> None:
    localizer, perfusion = (
        {"ImageType": {"contains": word}} for word in ("LOCALIZER", "PERFUSION")
    )
    rules = [
        {"name": "ct", "when": {"Modality": "CT", "not": {"any": [localizer, perfusion]}}},
        {"name": "mr", "when": {"Modality": "MR", "not": {"ImageType": {"contains": "ADC"}}}},
        {"name": "pt", "when": {"Modality": "PT"}},
    ]

    assert mistakes_in(rules) == []
