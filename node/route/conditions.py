"""Conditions: what a clause can ask, one frozen class each, and the verdict that it gives.

A new operator, ``{key: value}``, is a class of ``Operator``, in a file of its own, and in ``OPERATORS``:
rules, explanations, contradictions and ``docs/rules.md`` take it from there.

A verdict is true, false, or unknown with the reason. and, or and not are Kleene's: unknown stays unknown
unless the other side decides.

How values compare: text trimmed and without case, AE titles and UIDs with case, numbers as numbers,
and a multi-valued attribute fits when any of its values does. A present but empty attribute has no
value: ``present: false`` is true for it, and every other condition unknown. The same holds for values
that cannot be read.

Source: PS3.5 6.2 (padding and case of value representations), PS3.5 6.4 (multiplicity).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf, isfinite, isnan, nan
from typing import Any, ClassVar, Self, TypeAlias

import re2

from node.domain.derived import Attribute, Kind
from node.domain.header import ABSENT, DIFFERS, MALFORMED, Header, Missing, Scalar
from node.route.attributes import find_attribute

EMPTY = Missing("empty")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}  # PS3.5 6.2, AS


class Truth(StrEnum):
    """What is known about a clause."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, known: bool) -> Truth:
        return cls.TRUE if known else cls.FALSE

    def negated(self) -> Truth:
        return _RISING[-1 - _RISING.index(self)]


_RISING = (Truth.FALSE, Truth.UNKNOWN, Truth.TRUE)


def all_of(truths: Iterable[Truth]) -> Truth:
    """Kleene and: one false decides, then one unknown."""
    return min(truths, key=_RISING.index, default=Truth.TRUE)


def any_of(truths: Iterable[Truth]) -> Truth:
    """Kleene or: one true decides, then one unknown."""
    return max(truths, key=_RISING.index, default=Truth.FALSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one clause says about one header.

    Args:
        name: The attribute, or ``all``, ``any``, ``not`` for a clause of clauses.
        clause: The clause as text, the way it stands in the rule.
        asked: The same without the attribute; empty for a clause of clauses.
        reason: Why it is unknown, without any value; empty for true and false.
        found: The values it was decided by: for a screen, never for a row or a log.
    """

    truth: Truth
    name: str
    clause: str
    asked: str = ""
    reason: str = ""
    found: tuple[Scalar, ...] = ()
    children: tuple[Verdict, ...] = ()

    def leaves(self) -> Iterator[Verdict]:
        """The clauses about single attributes, in the order of the rule."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf(ABC):
    """One attribute, and what is asked of it.

    Attributes:
        as_number: Values are numbers to ``fits``, ages in years.
    """

    as_number: ClassVar[bool] = False

    name: str

    @abstractmethod
    def fits(self, value: Scalar) -> bool:
        """Whether one value, of those that can be read, is what is asked."""

    @property
    @abstractmethod
    def asked(self) -> str:
        """What is asked, as it stands in a rule: ``CT``, ``{min: 3}``."""

    def judge(self, header: Header) -> Verdict:
        """True if any value fits, unknown if none does but one could not be read, else false."""
        value = header.get(self.name)
        if isinstance(value, Missing):
            return self._says(Truth.UNKNOWN, reason=value.reason)
        kind = Kind.NUMBER if self.as_number else find_attribute(self.name).kind
        readable = [each for each in value if _is_readable(kind, each)]
        if any(self.fits(each) for each in readable):
            return self._says(Truth.TRUE, found=value)
        filled = [each for each in value if _is_filled(each)]
        if not filled:
            return self._says(Truth.UNKNOWN, reason=EMPTY.reason)
        if len(readable) < len(filled):
            return self._says(Truth.UNKNOWN, reason=MALFORMED.reason, found=value)
        return self._says(Truth.FALSE, found=value)

    def _says(self, truth: Truth, *, reason: str = "", found: tuple[Scalar, ...] = ()) -> Verdict:
        return Verdict(
            truth=truth,
            name=self.name,
            clause=str(self),
            asked=self.asked,
            reason=reason,
            found=found,
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.asked}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator(Leaf):
    """A leaf that stands in a rule as ``{key: value}``.

    Attributes:
        example: A value, as YAML.
        meaning: When it is true, for ``docs/rules.md``.
    """

    example: ClassVar[str]
    meaning: ClassVar[str]

    @classmethod
    @abstractmethod
    def compile(cls, name: str, value: object) -> Self:
        """The condition on an attribute.

        Raises:
            ValueError: The value is none for this operator, or the attribute cannot be asked so.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf(Leaf):
    """The attribute has one of these values."""

    values: tuple[Scalar, ...]
    _wanted: frozenset[Scalar] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("an empty list fits nothing: name at least one value")
        for value in self.values:
            _check_value(find_attribute(self.name), value)
        wanted = frozenset(_folded(self.name, value) for value in self.values)
        object.__setattr__(self, "_wanted", wanted)

    def fits(self, value: Scalar) -> bool:
        return _folded(self.name, value) in self._wanted

    @property
    def asked(self) -> str:
        return _listed(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Between(Leaf):
    """The number lies in [low, high]; for ages, in years."""

    as_number: ClassVar[bool] = True

    low: float = -inf
    high: float = inf

    def __post_init__(self) -> None:
        if find_attribute(self.name).kind not in (Kind.NUMBER, Kind.AGE):
            raise ValueError(f"min and max need a number, and {self.name} is no number")
        if isnan(self.low) or isnan(self.high) or self.low == self.high == inf:
            raise ValueError("min and max must be numbers")
        if self.low > self.high:
            raise ValueError(f"min {self.low:g} is above max {self.high:g}: nothing fits")

    def fits(self, value: Scalar) -> bool:
        return self.low <= _number(value) <= self.high

    @property
    def asked(self) -> str:
        ends = (("min", self.low), ("max", self.high))
        return f"{{{', '.join(f'{word}: {end:.10g}' for word, end in ends if isfinite(end))}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contains(Operator):
    """One of these texts stands somewhere in a value of the attribute."""

    example: ClassVar[str] = "LOCALIZER"
    meaning: ClassVar[str] = "the text stands somewhere in it; a list is any of"

    parts: tuple[str, ...]

    @classmethod
    def compile(cls, name: str, value: object) -> Self:
        """Of a text or a list of texts."""
        listed: list[object] = value if isinstance(value, list) else [value]
        parts = tuple(part for part in listed if isinstance(part, str))
        if len(parts) < len(listed):
            raise ValueError("contains takes a text or a list of texts; put it in quotes")
        return cls(name=name, parts=parts)

    def __post_init__(self) -> None:
        _check_is_text(self.name, "contains")
        if not self.parts or not all(part.strip() for part in self.parts):
            raise ValueError("contains needs a text that is not empty")

    def fits(self, value: Scalar) -> bool:
        text = str(_folded(self.name, value))
        return any(str(_folded(self.name, part)) in text for part in self.parts)

    @property
    def asked(self) -> str:
        return f"{{contains: {_listed(self.parts)}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches(Operator):
    """The regular expression is found in a value; as written, so ``(?i)`` ignores case.

    RE2 runs in time linear in the text, so no header can stop the node. It has no look-around and no
    back-references.
    """

    example: ClassVar[str] = '"(?i)chest"'
    meaning: ClassVar[str] = "the regular expression is found in it"

    pattern: str
    _compiled: Any = field(init=False, repr=False, compare=False)

    @classmethod
    def compile(cls, name: str, value: object) -> Self:
        """Of one expression."""
        if not isinstance(value, str):
            raise ValueError("matches takes one regular expression as text; put it in quotes")
        return cls(name=name, pattern=value)

    def __post_init__(self) -> None:
        _check_is_text(self.name, "matches")
        if not self.pattern:
            raise ValueError("matches needs an expression that is not empty")
        options = re2.Options()
        options.log_errors = False
        try:
            object.__setattr__(self, "_compiled", re2.compile(self.pattern, options))
        except (re2.error, UnicodeError) as error:
            raise ValueError(f"no regular expression of RE2: {_re2_text(error)}") from None

    def fits(self, value: Scalar) -> bool:
        text = str(value).strip().encode("utf-8", "replace").decode()
        return self._compiled.search(text) is not None

    @property
    def asked(self) -> str:
        return f"{{matches: {self.pattern}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Present(Operator):
    """The attribute has a value in every instance (or, negated, in none).

    Values that differ between instances are there all the same; ``absent in some instances`` and
    malformed values are unknown.
    """

    example: ClassVar[str] = "true"
    meaning: ClassVar[str] = "it has a value (`false`: it has none)"

    expected: bool = True

    @classmethod
    def compile(cls, name: str, value: object) -> Self:
        """Of true or false."""
        if not isinstance(value, bool):
            raise ValueError("present takes true or false")
        return cls(name=name, expected=value)

    def __post_init__(self) -> None:
        find_attribute(self.name)

    def fits(self, value: Scalar) -> bool:
        return _is_filled(value) is self.expected

    def judge(self, header: Header) -> Verdict:
        """Whether there is a value, as expected: an attribute without any is no unknown."""
        value = header.get(self.name)
        if isinstance(value, Missing) and value not in (ABSENT, DIFFERS):
            return self._says(Truth.UNKNOWN, reason=value.reason)
        found = header.known(self.name)
        has_value = value == DIFFERS or any(map(_is_filled, found))
        return self._says(Truth.of(has_value is self.expected), found=found)

    @property
    def asked(self) -> str:
        return f"{{present: {str(self.expected).lower()}}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Several:
    """A clause of clauses; every one is judged, so that an explanation shows them all."""

    word: ClassVar[str]
    combine: ClassVar[Callable[[Iterable[Truth]], Truth]]

    conditions: tuple[Condition, ...]

    def judge(self, header: Header) -> Verdict:
        children = tuple(condition.judge(header) for condition in self.conditions)
        truth = type(self).combine(child.truth for child in children)
        return Verdict(truth=truth, name=self.word, clause=self.word, children=children)

    def __str__(self) -> str:
        return f"{self.word}: [{', '.join(f'{{{each}}}' for each in self.conditions)}]"


class AllOf(Several):
    """Every condition is true: Kleene and."""

    word = "all"
    combine = all_of


class AnyOf(Several):
    """At least one condition is true: Kleene or."""

    word = "any"
    combine = any_of

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ValueError("any of nothing fits nothing: name at least one clause")


@dataclass(frozen=True, slots=True, kw_only=True)
class Not:
    """The condition is false; what is unknown stays unknown."""

    condition: Condition

    def judge(self, header: Header) -> Verdict:
        child = self.condition.judge(header)
        return Verdict(truth=child.truth.negated(), name="not", clause="not", children=(child,))

    def __str__(self) -> str:
        return f"not: {{{self.condition}}}"


Condition: TypeAlias = Leaf | AllOf | AnyOf | Not

# ``min`` and ``max`` belong together and are compiled as one Between
OPERATORS: Mapping[str, type[Operator]] = {
    "contains": Contains,
    "matches": Matches,
    "present": Present,
}


def _is_filled(value: Scalar) -> bool:
    return str(value).strip() != ""


def _is_readable(kind: Kind, value: Scalar) -> bool:
    if kind is Kind.FLAG:
        return isinstance(value, bool)
    if kind is Kind.NUMBER:
        return not isnan(_number(value))
    return isinstance(value, str) and _is_filled(value)


def _number(value: Scalar) -> float:
    """The value as a number, an age in years; NaN where it is none."""
    if isinstance(value, bool):
        return nan
    if isinstance(value, int | float):
        return float(value)
    digits, unit = value.strip()[:-1], value.strip()[-1:]
    if digits.isascii() and digits.isdigit() and unit in _YEARS:
        return int(digits) * _YEARS[unit]
    return nan


def _folded(name: str, value: Scalar) -> Scalar:
    """The form in which two values of the attribute are compared."""
    if isinstance(value, str):
        trimmed = value.strip()
        return trimmed if find_attribute(name).kind is Kind.EXACT else trimmed.casefold()
    return value if isinstance(value, bool) else float(value)


def _check_value(attribute: Attribute, value: Scalar) -> None:
    """Refuse a value that the attribute can never have."""
    name, kind = attribute.name, attribute.kind
    if kind is Kind.FLAG and not isinstance(value, bool):
        raise ValueError(f"{name} is true or false")
    if kind is Kind.NUMBER and (isinstance(value, str | bool) or not isfinite(value)):
        raise ValueError(f"{name} is a number, and {value!r} is none")
    if kind in (Kind.TEXT, Kind.EXACT, Kind.AGE):
        if not isinstance(value, str):
            raise ValueError(f"{name} is text: write '{str(value).lower()}' in quotes")
        if not value.strip():
            raise ValueError("an empty text fits nothing; for no value write {present: false}")
        known = {each.casefold() for each in attribute.values}
        if known and value.strip().casefold() not in known:
            raise ValueError(f"{value!r} is none of {', '.join(attribute.values)}")


def _check_is_text(name: str, operator: str) -> None:
    if find_attribute(name).kind in (Kind.NUMBER, Kind.FLAG):
        raise ValueError(f"{operator} needs text, and {name} is no text")


def _listed(values: tuple[Scalar, ...]) -> str:
    words = [
        str(v).lower() if isinstance(v, bool) else f"{v:.10g}" if isinstance(v, float) else str(v)
        for v in values
    ]
    return words[0] if len(words) == 1 else f"[{', '.join(words)}]"


def _re2_text(error: Exception) -> str:
    first = error.args[0] if error.args else ""
    return first.decode("utf-8", "replace") if isinstance(first, bytes) else "not valid text"
