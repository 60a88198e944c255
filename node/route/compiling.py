"""From mappings, the way rules stand in YAML, to rules and conditions; every mistake with its path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from pydicom import uid

from node.domain.derived import Kind
from node.domain.errors import ConfigInvalid
from node.domain.header import Scalar
from node.domain.uids import is_uid
from node.route.attributes import UnknownAttribute, find_attribute
from node.route.conditions import OPERATORS, AllOf, AnyOf, Between, Condition, Not, OneOf
from node.route.contradiction import contradiction
from node.route.rules import Rule, StudyRule
from node.route.sets import Role

Mistakes = list[tuple[str, str]]

_EMPTY_CLAUSE = "no clause here: say which series, for example Modality: CT"
_DEEPEST = 32
_ROLE_EXAMPLE = "for example {t1c: {Modality: MR, sequence: T1, contrast: true}}"


def compile_clause(mapping: object, path: str) -> Condition:
    """The condition that a mapping of clauses stands for; its keys are and-ed.

    Raises:
        ConfigInvalid: With all mistakes below ``path``, not only the first.
    """
    mistakes: Mistakes = []
    condition = collect_clause(mapping, path, mistakes)
    if condition is None or mistakes:
        raise ConfigInvalid(mistakes)
    return condition


def collect_clause(
    mapping: object, path: str, mistakes: Mistakes, depth: int = 0
) -> Condition | None:
    """The same, adding to ``mistakes`` where ``compile_clause`` raises."""
    if not isinstance(mapping, Mapping):
        mistakes.append((path, "needs clauses as a mapping, for example {Modality: CT}"))
        return None
    if not mapping:
        mistakes.append((path, _EMPTY_CLAUSE))
        return None
    if depth > _DEEPEST:
        mistakes.append((path, f"nested deeper than {_DEEPEST} levels: write it flatter"))
        return None
    parts = [_entry(key, value, f"{path}.{key}", mistakes, depth) for key, value in mapping.items()]
    found = tuple(part for part in parts if part is not None)
    if len(found) < len(parts):
        return None
    return found[0] if len(found) == 1 else AllOf(conditions=found)


def compile_rule(
    *,
    name: str,
    when: Mapping[str, object] | None,
    study: Mapping[str, object] | None,
    path: str,
) -> Rule | StudyRule:
    """The rule that ``when`` or ``study`` stands for.

    Raises:
        ConfigInvalid: With all mistakes of the rule.
    """
    mistakes: Mistakes = []
    rule = _collect_rule(name, when, study, path, mistakes)
    if rule is None or mistakes:
        raise ConfigInvalid(mistakes)
    return rule


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
            where = f"{path}.{index}"
            name = str(raw.get("name", index))
            rule = _collect_rule(name, raw.get("when"), raw.get("study"), where, mistakes)
            compiled += [rule] if rule is not None else []
    return compiled, mistakes


def mistakes_in(rules: Iterable[object], path: str = "rules") -> Mistakes:
    """Everything wrong with the clauses of raw rules, as (path, sentence)."""
    return compile_rules(rules, path)[1]


def _collect_rule(
    name: str, when: object, study: object, path: str, mistakes: Mistakes
) -> Rule | StudyRule | None:
    if (when is None) == (study is None):
        mistakes.append((path, "needs either when (one series) or study (one series per role)"))
        return None
    if when is not None:
        condition = _possible(collect_clause(when, f"{path}.when", mistakes), path, mistakes)
        return None if condition is None else Rule(name=name, condition=condition)
    if not isinstance(study, Mapping) or not study:
        mistakes.append((f"{path}.study", f"needs roles with clauses, {_ROLE_EXAMPLE}"))
        return None
    roles = {
        str(role): _collect_role(clauses, f"{path}.study.{role}", mistakes)
        for role, clauses in study.items()
    }
    complete = {role: found for role, found in roles.items() if found is not None}
    return StudyRule(name=name, roles=complete) if len(complete) == len(roles) else None


def _collect_role(clauses: object, path: str, mistakes: Mistakes) -> Role | None:
    prefer: tuple[Condition, ...] | None = ()
    if isinstance(clauses, Mapping) and "prefer" in clauses:
        prefer = _collect_prefer(clauses["prefer"], f"{path}.prefer", mistakes)
        clauses = {key: value for key, value in clauses.items() if key != "prefer"}
    if not isinstance(clauses, Mapping) or not clauses:
        mistakes.append((path, f"a role needs clauses, {_ROLE_EXAMPLE}"))
        return None
    condition = _possible(collect_clause(clauses, path, mistakes), path, mistakes)
    if condition is None or prefer is None:
        return None
    return Role(condition=condition, prefer=prefer)


def _collect_prefer(wishes: object, path: str, mistakes: Mistakes) -> tuple[Condition, ...] | None:
    if not isinstance(wishes, list) or not wishes:
        mistakes.append((path, "takes a list of clauses, for example [{spacing_mm: {max: 1.5}}]"))
        return None
    found = [collect_clause(wish, f"{path}.{index}", mistakes) for index, wish in enumerate(wishes)]
    known = tuple(wish for wish in found if wish is not None)
    return known if len(known) == len(found) else None


def _possible(condition: Condition | None, path: str, mistakes: Mistakes) -> Condition | None:
    """Refuse clauses of one rule that can never be true together."""
    clash = contradiction(condition) if condition is not None else None
    if clash is None:
        return condition
    mistakes.append((path, f"can never fire: {clash}"))
    return None


def _entry(
    key: object, value: object, path: str, mistakes: Mistakes, depth: int
) -> Condition | None:
    if key == "not":
        inner = collect_clause(value, path, mistakes, depth + 1)
        return None if inner is None else Not(condition=inner)
    if key in ("any", "all"):
        return _list_of_clauses(str(key), value, path, mistakes, depth)
    if not isinstance(key, str):
        mistakes.append((path, "a clause is named by a DICOM keyword or a derived attribute"))
        return None
    try:
        find_attribute(key)
    except UnknownAttribute as unknown:
        mistakes.append((path, str(unknown)))
        return None
    if isinstance(value, Mapping):
        return _operators(key, value, path, mistakes)
    try:
        return OneOf(name=key, values=_values(key, value))
    except ValueError as error:
        mistakes.append((path, str(error)))
        return None


def _list_of_clauses(
    key: str, value: object, path: str, mistakes: Mistakes, depth: int
) -> Condition | None:
    if not isinstance(value, list) or not value:
        mistakes.append((path, f"{key} takes a list of clauses, for example [{{Modality: CT}}]"))
        return None
    parts = [
        collect_clause(item, f"{path}.{index}", mistakes, depth + 1)
        for index, item in enumerate(value)
    ]
    found = tuple(part for part in parts if part is not None)
    if len(found) < len(parts):
        return None
    return AnyOf(conditions=found) if key == "any" else AllOf(conditions=found)


def _operators(
    name: str, mapping: Mapping[object, object], path: str, mistakes: Mistakes
) -> Condition | None:
    """``{min, max}``, ``{contains}``, ``{matches}``, ``{present}``; several are and-ed."""
    before = len(mistakes)
    found: list[Condition] = []
    if not mapping:
        mistakes.append((path, "an empty mapping says nothing: write a value, or {present: true}"))
    if mapping.keys() & {"min", "max"}:
        found += _between(name, mapping, path, mistakes)
    for key, value in mapping.items():
        if key in ("min", "max"):
            continue
        if key not in OPERATORS:
            mistakes.append((f"{path}.{key}", _unknown_operator(str(key))))
            continue
        try:
            found.append(OPERATORS[str(key)].compile(name, value))
        except ValueError as error:
            mistakes.append((f"{path}.{key}", str(error)))
    if len(mistakes) > before:
        return None
    return found[0] if len(found) == 1 else AllOf(conditions=tuple(found))


def _between(
    name: str, mapping: Mapping[object, object], path: str, mistakes: Mistakes
) -> list[Condition]:
    ends: dict[str, float] = {}
    for key, argument in (("min", "low"), ("max", "high")):
        if key not in mapping:
            continue
        value = mapping[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            mistakes.append((f"{path}.{key}", f"{key} takes a number"))
            return []
        ends[argument] = float(value)
    try:
        return [Between(name=name, **ends)]
    except ValueError as error:
        mistakes.append((path, str(error)))
        return []


def _values(name: str, value: object) -> tuple[Scalar, ...]:
    """A scalar or a list of scalars; SOP classes may be written by their keyword."""
    listed = value if isinstance(value, list) else [value]
    values: list[Scalar] = []
    for each in listed:
        if each is None:
            raise ValueError("no value: write one, or {present: true} for any")
        if not isinstance(each, str | int | float | bool):
            raise ValueError("takes a value or a list of values, not a list of lists or mappings")
        values.append(_uid(name, each) if name.endswith("UID") else each)
    return tuple(values)


def _uid(name: str, value: Scalar) -> Scalar:
    if not isinstance(value, str) or find_attribute(name).kind is not Kind.EXACT:
        return value
    text = sop_class_uid(value) if name == "SOPClassUID" else value.strip()
    if not is_uid(text):
        raise ValueError(f"{value!r} is no UID")
    return text


def _unknown_operator(key: str) -> str:
    known = ("min", "max", *OPERATORS)
    close = get_close_matches(key, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else f": write one of {', '.join(known)}"
    return f"unknown operator{hint}"


def sop_class_uid(text: str) -> str:
    """The UID of a keyword (PS3.6 Annex A), such as SegmentationStorage; any other text, trimmed."""
    named = getattr(uid, text.strip(), None)
    return str(named) if isinstance(named, uid.UID) else text.strip()
