"""Rules: named conditions on one series, or on one series per role of a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from node.domain.errors import ConfigInvalid
from node.domain.header import Header
from node.route.compiling import Mistakes, collect_clause
from node.route.conditions import AllOf, AnyOf, Condition, OneOf
from node.route.contradiction import contradiction
from node.route.sets import Candidate, Role, SetChoice, choose
from node.route.verdict import Verdict

_ROLE_EXAMPLE = "for example {t1c: {Modality: MR, sequence: T1, contrast: true}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule on single series; it fires when its condition is true, and only then."""

    name: str
    condition: Condition

    def judge(self, header: Header) -> Verdict:
        """What the rule says about one series."""
        return self.condition.judge(header)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRule:
    """A rule on several series of one study; it fires when every role has exactly one."""

    name: str
    roles: Mapping[str, Role]

    def __post_init__(self) -> None:
        if not self.roles:
            raise ValueError(f"study rule {self.name} has no roles")

    def judge(self, header: Header) -> Mapping[str, Verdict]:
        """What each role says about one series."""
        return {name: role.condition.judge(header) for name, role in self.roles.items()}

    def choose(self, candidates: Sequence[Candidate]) -> SetChoice:
        """One series per role, out of all complete series of one study."""
        return choose(self.roles, candidates)


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


def conditions_of(rule: Rule | StudyRule) -> Mapping[str, Condition]:
    """The condition of each role; a rule on single series has the one role ``""``."""
    if isinstance(rule, Rule):
        return {"": rule.condition}
    return {name: role.condition for name, role in rule.roles.items()}


def named_sop_classes(condition: Condition) -> frozenset[str]:
    """The SOP Class UIDs that a condition asks for by ``SOPClassUID``; never those below ``not``."""
    if isinstance(condition, OneOf) and condition.name == "SOPClassUID":
        return frozenset(str(value) for value in condition.values)
    if isinstance(condition, AllOf | AnyOf):
        return frozenset[str]().union(*(named_sop_classes(c) for c in condition.conditions))
    return frozenset()


def names_sop_class(condition: Condition, sop_class_uid: str) -> bool:
    """Whether a rule asks for this class by name, and so takes what is else no input."""
    return sop_class_uid in named_sop_classes(condition)


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
