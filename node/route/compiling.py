"""From mappings, the way rules stand in YAML, to rules and conditions; every mistake with its path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from math import inf
from typing import Any, NoReturn, TypeVar

from pydicom import uid

from node.domain.derived import Kind
from node.domain.errors import ConfigInvalid
from node.domain.header import Scalar
from node.domain.uids import is_uid
from node.route.attributes import find_attribute
from node.route.conditions import OPERATORS, AllOf, AnyOf, Between, Condition, Not, OneOf
from node.route.contradiction import contradiction
from node.route.rules import Rule, StudyRule
from node.route.sets import Role

Mistakes = list[tuple[str, str]]
T = TypeVar("T")

_EMPTY_CLAUSE = "no clause here: say which series, for example Modality: CT"
_DEEPEST = 32
_ROLE_EXAMPLE = "for example {t1c: {Modality: MR, sequence: T1, contrast: true}}"


def compile_rules(
    rules: Iterable[object], path: str = "rules"
) -> tuple[list[Rule | StudyRule], Mistakes]:
    """Raw rules in their order, and everything wrong with their clauses; pure.

    Takes what stands in the YAML, whatever it is: the shape around the clauses is checked by
    whoever reads the file. Without a mistake there is one compiled rule for each.
    """
    mistakes: Mistakes = []
    compiled: list[Rule | StudyRule] = []
    for index, raw in enumerate(rules):
        if isinstance(raw, Mapping):
            name, when, study = str(raw.get("name", index)), raw.get("when"), raw.get("study")
            try:
                compiled.append(
                    compile_rule(name=name, when=when, study=study, path=f"{path}.{index}")
                )
            except ConfigInvalid as invalid:
                mistakes += invalid.mistakes
    return compiled, mistakes


def mistakes_in(rules: Iterable[object], path: str = "rules") -> Mistakes:
    """Everything wrong with the clauses of raw rules, as (path, sentence)."""
    return compile_rules(rules, path)[1]


def compile_rule(*, name: str, when: object, study: object, path: str) -> Rule | StudyRule:
    """The rule that ``when`` or ``study`` stands for.

    Raises:
        ConfigInvalid: With all mistakes of the rule.
    """
    if (when is None) == (study is None):
        _refuse(path, "needs either when (one series) or study (one series per role)")
    if when is not None:
        return Rule(name=name, condition=_possible(compile_clause(when, f"{path}.when"), path))
    if not isinstance(study, Mapping) or not study:
        _refuse(f"{path}.study", f"needs roles with clauses, {_ROLE_EXAMPLE}")
    roles = _all_of(partial(_role, study[role], f"{path}.study.{role}") for role in study)
    return StudyRule(name=name, roles=dict(zip(map(str, study), roles, strict=True)))


def compile_clause(mapping: object, path: str, depth: int = 0) -> Condition:
    """The condition that a mapping of clauses stands for; its keys are and-ed.

    Raises:
        ConfigInvalid: With all mistakes below ``path``, not only the first.
    """
    if not isinstance(mapping, Mapping):
        _refuse(path, "needs clauses as a mapping, for example {Modality: CT}")
    if not mapping:
        _refuse(path, _EMPTY_CLAUSE)
    if depth > _DEEPEST:
        _refuse(path, f"nested deeper than {_DEEPEST} levels: write it flatter")
    return _anded(
        partial(_entry, key, value, f"{path}.{key}", depth) for key, value in mapping.items()
    )


def _refuse(path: str, sentence: str) -> NoReturn:
    raise ConfigInvalid([(path, sentence)])


def _at(path: str, make: Callable[..., T], *arguments: object) -> T:
    """What it makes; why it cannot is a mistake at the path."""
    try:
        return make(*arguments)
    except ValueError as error:
        raise ConfigInvalid([(path, str(error))]) from None


def _all_of(makers: Iterable[Callable[[], T]]) -> list[T]:
    """What each of them makes, or the mistakes of all of them."""
    made: list[T] = []
    mistakes: Mistakes = []
    for make in makers:
        try:
            made.append(make())
        except ConfigInvalid as invalid:
            mistakes += invalid.mistakes
    if mistakes:
        raise ConfigInvalid(mistakes)
    return made


def _anded(makers: Iterable[Callable[[], Condition]]) -> Condition:
    found = _all_of(makers)
    return found[0] if len(found) == 1 else AllOf(conditions=tuple(found))


def _role(clauses: object, path: str) -> Role:
    makers: list[Callable[[], Condition]] = []
    if isinstance(clauses, Mapping) and "prefer" in clauses:
        makers = _wishes(clauses["prefer"], f"{path}.prefer")
        clauses = {key: value for key, value in clauses.items() if key != "prefer"}
    makers.append(partial(_role_clause, clauses, path))
    *prefer, condition = _all_of(makers)
    return Role(condition=condition, prefer=tuple(prefer))


def _wishes(wishes: object, path: str) -> list[Callable[[], Condition]]:
    if not isinstance(wishes, list) or not wishes:
        sentence = "takes a list of clauses, for example [{spacing_mm: {max: 1.5}}]"
        return [partial(_refuse, path, sentence)]
    return [partial(compile_clause, wish, f"{path}.{i}") for i, wish in enumerate(wishes)]


def _role_clause(clauses: object, path: str) -> Condition:
    if not isinstance(clauses, Mapping) or not clauses:
        _refuse(path, f"a role needs clauses, {_ROLE_EXAMPLE}")
    return _possible(compile_clause(clauses, path), path)


def _possible(condition: Condition, path: str) -> Condition:
    """Refuse clauses of one rule that can never be true together."""
    clash = contradiction(condition)
    if clash is not None:
        _refuse(path, f"can never fire: {clash}")
    return condition


def _entry(key: object, value: object, path: str, depth: int) -> Condition:
    if key == "not":
        return Not(condition=compile_clause(value, path, depth + 1))
    if key in ("any", "all"):
        if not isinstance(value, list) or not value:
            _refuse(path, f"{key} takes a list of clauses, for example [{{Modality: CT}}]")
        parts = tuple(
            _all_of(
                partial(compile_clause, item, f"{path}.{index}", depth + 1)
                for index, item in enumerate(value)
            )
        )
        return AnyOf(conditions=parts) if key == "any" else AllOf(conditions=parts)
    if not isinstance(key, str):
        _refuse(path, "a clause is named by a DICOM keyword or a derived attribute")
    _at(path, find_attribute, key)
    if isinstance(value, Mapping):
        return _operators(key, value, path)
    return _at(path, _one_of, key, value)


def _operators(name: str, mapping: Mapping[Any, object], path: str) -> Condition:
    """``{min, max}``, ``{contains}``, ``{matches}``, ``{present}``; several are and-ed."""
    if not mapping:
        _refuse(path, "an empty mapping says nothing: write a value, or {present: true}")
    ends = {key: mapping[key] for key in ("min", "max") if key in mapping}
    makers: list[Callable[[], Condition]] = [
        partial(_operator, name, key, value, f"{path}.{key}")
        for key, value in mapping.items()
        if key not in ends
    ]
    return _anded([partial(_between, name, ends, path), *makers] if ends else makers)


def _operator(name: str, key: object, value: object, path: str) -> Condition:
    if key not in OPERATORS:
        known = ("min", "max", *OPERATORS)
        close = get_close_matches(str(key), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else f": write one of {', '.join(known)}"
        _refuse(path, f"unknown operator{hint}")
    return _at(path, OPERATORS[str(key)].compile, name, value)


def _between(name: str, ends: Mapping[str, object], path: str) -> Condition:
    numbers = {"min": -inf, "max": inf}
    for key, value in ends.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            _refuse(f"{path}.{key}", f"{key} takes a number")
        numbers[key] = float(value)
    return _at(path, partial(Between, name=name, low=numbers["min"], high=numbers["max"]))


def _one_of(name: str, value: object) -> Condition:
    """A scalar or a list of scalars; SOP classes may be written by their keyword."""
    listed = value if isinstance(value, list) else [value]
    values: list[Scalar] = []
    for each in listed:
        if each is None:
            raise ValueError("no value: write one, or {present: true} for any")
        if not isinstance(each, str | int | float | bool):
            raise ValueError("takes a value or a list of values, not a list of lists or mappings")
        values.append(_uid(name, each) if name.endswith("UID") else each)
    return OneOf(name=name, values=tuple(values))


def _uid(name: str, value: Scalar) -> Scalar:
    if not isinstance(value, str) or find_attribute(name).kind is not Kind.EXACT:
        return value
    text = value.strip()
    known = getattr(uid, text, None) if name == "SOPClassUID" else None
    if isinstance(known, uid.UID):  # by its keyword (PS3.6 Annex A), such as SegmentationStorage
        return str(known)
    if not is_uid(text):
        raise ValueError(f"{value!r} is no UID")
    return text
