"""Rules: named conditions on one series, or on one series per role of a study; and why they fired or not.

An explanation has two faces: JSON for the job list and the API, lines for a terminal. Header values are
shown on request only, on a screen in front of the person who asked: what is stored or logged names
attributes and reasons, never values, as a Study Description or a Patient ID may name a patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.domain.derived import DERIVED
from node.domain.header import Header
from node.route.conditions import Condition, OneOf, Several, Truth, Verdict, any_of
from node.route.sets import Candidate, Role, SetChoice, choose

_VALUE_LENGTH = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule on single series; it fires when its condition is true, and only then."""

    name: str
    condition: Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRule:
    """A rule on several series of one study; it fires when every role has exactly one."""

    name: str
    roles: Mapping[str, Role]

    def __post_init__(self) -> None:
        if not self.roles:
            raise ValueError(f"study rule {self.name} has no roles")

    def candidate(
        self, series_instance_uid: str, *, patient_id: str, header: Header, slices: int
    ) -> Candidate:
        """A series as each role judges it."""
        return Candidate(
            series_instance_uid=series_instance_uid,
            patient_id=patient_id,
            fits={name: role.judge(header, slices) for name, role in self.roles.items()},
        )

    def choose(self, candidates: Sequence[Candidate]) -> SetChoice:
        """One series per role, out of all complete series of one study.

        Args:
            candidates: Made by this rule.
        """
        return choose(self.roles, candidates)


def conditions_of(rule: Rule | StudyRule) -> Mapping[str, Condition]:
    """The condition of each role; a rule on single series has the one role ``""``."""
    if isinstance(rule, Rule):
        return {"": rule.condition}
    return {name: role.condition for name, role in rule.roles.items()}


def names_sop_class(condition: Condition, sop_class_uid: str) -> bool:
    """Whether a rule asks for this class by name, and so takes what is else no input.

    What stands below ``not`` asks for nothing.
    """
    if isinstance(condition, Several):
        return any(names_sop_class(each, sop_class_uid) for each in condition.conditions)
    if isinstance(condition, OneOf) and condition.name == "SOPClassUID":
        return sop_class_uid in condition.values
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What one rule says about one series.

    Args:
        roles: One verdict per role; a rule on single series has the one role ``""``.
    """

    rule: str
    roles: Mapping[str, Verdict]

    @property
    def truth(self) -> Truth:
        """Of a rule on single series: whether it fires; of a study rule: whether a role fits."""
        return any_of(verdict.truth for verdict in self.roles.values())

    def why_silent(self) -> tuple[str, tuple[tuple[Any, ...], ...]]:
        """The rule, and for each role why it does not fit: plain facts without header values."""
        roles = ((name, *why_not(verdict)) for name, verdict in self.roles.items())
        return self.rule, tuple(roles)

    def as_json(self, *, values: bool = False) -> dict[str, Any]:
        """A JSON-ready structure.

        Args:
            values: Whether to show what was found in the header; never for storage.
        """
        body: dict[str, Any] = {"rule": self.rule, "truth": self.truth.value}
        if set(self.roles) == {""}:
            return body | {"verdict": _as_json(self.roles[""], values)}
        return body | {"roles": {name: _as_json(v, values) for name, v in self.roles.items()}}

    def lines(self, *, values: bool = True) -> list[str]:
        """The same as text, one line per clause."""
        lines = [f"rule {self.rule}: {self.truth}"]
        for name, verdict in self.roles.items():
            if name:
                lines.append(f"  role {name}: {verdict.truth}")
            for child in verdict.children if verdict.name == "all" else (verdict,):
                lines.extend(_lines(child, 2 if name else 1, values))
        return lines


def explain(rule: Rule | StudyRule, header: Header) -> Explanation:
    roles = {role: condition.judge(header) for role, condition in conditions_of(rule).items()}
    return Explanation(rule=rule.name, roles=roles)


def why_not(verdict: Verdict) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The clauses that kept a verdict from being true: attributes that do not fit, and those that
    are unknown with the reason; without values.
    """
    false, unknown = [], []
    for leaf, wanted in _deciding(verdict, Truth.TRUE, is_met=False):
        if leaf.truth is Truth.UNKNOWN:
            unknown.append((leaf.name, leaf.reason))
        elif leaf.truth is not wanted:
            false.append(leaf.name)
    return tuple(dict.fromkeys(false)), tuple(dict.fromkeys(unknown))


def why_true(verdict: Verdict) -> tuple[tuple[Any, ...], ...]:
    """The clauses that made a verdict true: attribute, what is asked, whether that holds, found.

    A clause of clauses is told by its parts; ``any`` by those of its clauses that are true. What was
    found stands there only where it is one of few values that the node made.
    """
    clauses = []
    for leaf, wanted in _deciding(verdict, Truth.TRUE, is_met=True):
        is_ours = leaf.name in DERIVED and bool(DERIVED[leaf.name].values)
        found = tuple(map(str, leaf.found)) if is_ours else ()
        clauses.append((leaf.name, leaf.asked, wanted is Truth.TRUE, found))
    return tuple(dict.fromkeys(clauses))


def _deciding(verdict: Verdict, wanted: Truth, *, is_met: bool) -> Iterator[tuple[Verdict, Truth]]:
    """The leaves below clauses that are, or are not, as wanted, each with what was wanted of it."""
    if (verdict.truth is wanted) is not is_met:
        return
    if not verdict.children:
        yield verdict, wanted
    for child in verdict.children:
        inner = wanted.negated() if verdict.name == "not" else wanted
        yield from _deciding(child, inner, is_met=is_met)


def _as_json(verdict: Verdict, values: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"clause": verdict.clause, "truth": verdict.truth.value}
    if verdict.reason:
        body["reason"] = verdict.reason
    if values and verdict.found:
        body["found"] = list(verdict.found)
    if verdict.children:
        body["clauses"] = [_as_json(child, values) for child in verdict.children]
    return body


def _lines(verdict: Verdict, indent: int, values: bool) -> Iterator[str]:
    found = ""
    if verdict.reason:
        found = f"  ({verdict.reason})"
    elif values and verdict.found:
        found = f"  (is {_shown(verdict)})"
    yield f"{'  ' * indent}{verdict.truth.value:8}{verdict.clause}{found}"
    for child in verdict.children:
        yield from _lines(child, indent + 1, values)


def _shown(verdict: Verdict) -> str:
    """The values on one line: a header cannot write control characters to a terminal."""
    text = "\\".join(str(value) for value in verdict.found)
    printable = "".join(character if character.isprintable() else "?" for character in text)
    cut = printable[:_VALUE_LENGTH]
    return cut if cut == printable else f"{cut}..."
