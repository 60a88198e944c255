"""Contradictions: conditions that no series can ever fulfil together.

Sound, not complete: what is called a contradiction is one; some that are hard to see are let through
and simply never fire. Only attributes with at most one value can contradict, as a multi-valued one
fits when any of its values does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

from node.domain.header import Header
from node.route.attributes import find_attribute
from node.route.conditions import AllOf, AnyOf, Between, Condition, Leaf, Not, OneOf, Present, Truth

_MOST_BRANCHES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Literal:
    """A leaf that must be true, or, negated, false; ``side`` is whose wish it is."""

    leaf: Leaf
    wanted: Truth
    side: int


_Branch = tuple[_Literal, ...]


def could_match(condition: Condition, *others: Condition) -> bool:
    """Whether one series could, for all that is known, fulfil all of these conditions."""
    return _first_clash((condition, *others)) is None


def contradiction(
    asked: Condition, accepted: Condition | None = None, *, model: str = ""
) -> str | None:
    """Why a rule can never be true together with a model's conditions, as a sentence, or None.

    Args:
        accepted: What the model takes; without it the rule's own clauses are held against each other.
    """
    both = (asked,) if accepted is None else (asked, accepted)
    clash = _first_clash(both)
    if clash is None:
        return None
    ours = [literal for literal in clash if literal.side == 0]
    theirs = [literal for literal in clash if literal.side == 1]
    if not (ours and theirs):
        who = f"model {model} accepts" if theirs else "rule asks for"
        return f"{who} {_named(ours or theirs)}, which is never true"
    model_name = f"model {model}" if model else "the model"
    return f"rule asks for {_named(ours)}, {model_name} accepts {_wishes(theirs)}"


def _first_clash(conditions: Sequence[Condition]) -> _Branch | None:
    """A clash of the first branch when every branch has one; None when some branch is possible."""
    first: _Branch | None = None
    parts = [_branches(c, Truth.TRUE, side) for side, c in enumerate(conditions)]
    for count, combination in enumerate(_joined(parts)):
        clash = _clash(combination)
        if clash is None or count >= _MOST_BRANCHES:
            return None
        first = first or clash
    return first


def _branches(condition: Condition, wanted: Truth, side: int) -> list[_Branch]:
    """The ways in which a condition can be as wanted: disjunctive normal form, cut short."""
    match condition:
        case Not(condition=inner):
            return _branches(inner, wanted.negated(), side)
        case AllOf(conditions=parts) | AnyOf(conditions=parts):
            each = [_branches(part, wanted, side) for part in parts]
            if isinstance(condition, AllOf) is (wanted is Truth.TRUE):
                return list(islice(_joined(each), _MOST_BRANCHES + 1))
            return [branch for branches in each for branch in branches]
        case _:
            return [(_Literal(leaf=condition, wanted=wanted, side=side),)]


def _joined(parts: Sequence[Sequence[_Branch]]) -> Iterator[_Branch]:
    return (tuple(lit for branch in choice for lit in branch) for choice in product(*parts))


def _clash(branch: _Branch) -> _Branch | None:
    """Literals of one attribute that exclude each other."""
    for name in dict.fromkeys(literal.leaf.name for literal in branch):
        literals = tuple(literal for literal in branch if literal.leaf.name == name)
        if find_attribute(name).is_single and _exclude(name, literals):
            return literals
    return None


def _exclude(name: str, literals: _Branch) -> bool:
    if len({_wants_value(literal) for literal in literals}) > 1:
        return True
    for literal in literals:
        if isinstance(literal.leaf, OneOf) and literal.wanted is Truth.TRUE:
            headers = [Header({name: (value,)}) for value in literal.leaf.values]
            return not any(_all_hold(literals, header) for header in headers)
    ranges = [x.leaf for x in literals if isinstance(x.leaf, Between) and x.wanted is Truth.TRUE]
    return bool(ranges) and max(r.low for r in ranges) > min(r.high for r in ranges)


def _wants_value(literal: _Literal) -> bool:
    """Whether it needs a value: all but ``present`` are unknown without one, negated or not."""
    leaf = literal.leaf
    return not isinstance(leaf, Present) or leaf.expected is (literal.wanted is Truth.TRUE)


def _all_hold(literals: _Branch, header: Header) -> bool:
    return all(literal.leaf.judge(header).truth is literal.wanted for literal in literals)


def _named(literals: Sequence[_Literal]) -> str:
    return f"{literals[0].leaf.name} {_wishes(literals)}"


def _wishes(literals: Sequence[_Literal]) -> str:
    return " and ".join(
        ("" if literal.wanted is Truth.TRUE else "not ") + literal.leaf.asked
        for literal in literals
    )
