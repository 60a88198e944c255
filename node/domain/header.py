"""Headers: what a whole series says about itself.

A header value is what is equal in all instances of the series; no rule ever looks at "the first
file". In multi-frame objects shared functional groups count as top level, and per-frame ones when
they are equal in all frames.

Source: PS3.3 C.7.6.16.1 (functional groups), PS3.5 6.2 (value representations).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import isfinite
from typing import Any, TypeAlias

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.tag import BaseTag, Tag

Scalar: TypeAlias = str | int | float | bool
_Elements: TypeAlias = dict[int, DataElement | RawDataElement]

# what pydicom raises for a value that its VR does not allow
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    AttributeError,
    NotImplementedError,
    BytesLengthException,
)

_NOT_TEXT = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN", "SQ"})
_NUMBERS = frozenset({"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "IS", "DS"})
# the same bytes are the same value, whatever the character set is
_IN_ANY_CHARACTER_SET = _NUMBERS | {"AS", "CS", "DA", "DT", "TM", "UI"}
_FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_FIRST_BULK_GROUP = 0x5400
_SHORT = 256  # bytes of a value that is worth to be kept decoded


@dataclass(frozen=True, slots=True)
class Missing:
    """A value that cannot be read, and why: absent, different between instances, malformed."""

    reason: str


ABSENT = Missing("absent")
PARTLY_ABSENT = Missing("absent in some instances")
DIFFERS = Missing("different between instances")
MALFORMED = Missing("malformed")
TOO_LONG = Missing("longer than 64 kB")

Value: TypeAlias = tuple[Scalar, ...] | Missing


@dataclass(frozen=True, slots=True)
class Header:
    """The attributes of a series by DICOM keyword, and those derived from them by name.

    Values are tuples: text trimmed, IS as int, DS as float, an empty value is the empty tuple.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    derived: Mapping[str, Value] = field(default_factory=dict)

    def get(self, name: str) -> Value:
        """The value of a DICOM keyword or of a derived attribute."""
        if name in self.derived:
            return self.derived[name]
        return self.values.get(name, ABSENT)

    def known(self, name: str) -> tuple[Scalar, ...]:
        """The values of a name; none where it has none that can be read."""
        value = self.get(name)
        return () if isinstance(value, Missing) else value

    def text(self, name: str) -> str:
        """The first value as text, or the empty string."""
        return "".join(map(str, self.known(name)[:1]))

    def number(self, name: str) -> int | None:
        """The first value, where it is a whole number of 32 bits (IS, PS3.5 6.2)."""
        value = next(iter(self.known(name)), None)
        return value if isinstance(value, int) and abs(value) < 2**31 else None

    def with_derived(self, derived: Mapping[str, Value]) -> Header:
        return replace(self, derived={**self.derived, **derived})

    def to_json(self) -> dict[str, dict[str, object]]:
        """A JSON-ready mapping; a missing value is an object with its reason."""
        return {
            part: {
                name: {"missing": value.reason} if isinstance(value, Missing) else list(value)
                for name, value in values.items()
            }
            for part, values in (("values", self.values), ("derived", self.derived))
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Mapping[str, Any]]) -> Header:
        values, derived = (
            {
                name: Missing(value["missing"]) if isinstance(value, Mapping) else tuple(value)
                for name, value in body.get(part, {}).items()
            }
            for part in ("values", "derived")
        )
        return cls(values, derived)


class HeaderMerger:
    """Adds instances one by one; ``header()`` is what they have in common.

    Most elements of a series are equal byte for byte, so undecoded values are compared first and
    decoded only where they differ: adding a slice costs tens of microseconds.
    """

    def __init__(self, instances: Iterable[Dataset] = ()) -> None:
        self.count = 0
        self._first = Dataset()
        self._elements: _Elements = {}
        self._lost: dict[int, Missing] = {}
        self._groups: dict[str, Value] = {}
        for instance in instances:
            self.add(instance)

    def add(self, instance: Dataset) -> None:
        """Take one instance into account; pixel data need not be there."""
        elements = _comparable(instance)
        for tag in [tag for tag, element in elements.items() if is_left_out(element)]:
            self._lost[tag] = TOO_LONG
            del elements[tag]
        groups = _functional_group_values(instance)
        if self.count == 0:
            self._first, self._elements, self._groups = _but(instance, elements), elements, groups
        else:
            self._compare(instance, elements)
            self._groups = merge_values([self._groups, groups])
        self.count += 1

    def header(self) -> Header:
        """The values equal in all instances added so far."""
        values: dict[str, Value] = dict(self._groups)
        for tag in {**self._elements, **self._lost}:
            keyword = keyword_for_tag(tag)
            if keyword:
                values[keyword] = self._lost.get(tag) or value_of(self._first, tag)
        return Header(values)

    def _compare(self, instance: Dataset, elements: _Elements) -> None:
        # equal bytes are equal values only in the same byte order and character set
        same_encoding = _encoding(self._first) == _encoding(instance)
        for tag in elements.keys() | self._elements.keys():
            if tag in self._lost:
                continue
            ours, theirs = self._elements.get(tag), elements.get(tag)
            if ours is None or theirs is None:
                self._lost[tag] = PARTLY_ABSENT
            elif same_encoding and ours.value == theirs.value:
                continue
            elif value_of(self._first, tag) != value_of(instance, tag):
                self._lost[tag] = DIFFERS


def merge_values(headers: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    """What several mappings of values have in common, each difference named."""
    merged: dict[str, Value] | None = None
    for values in headers:
        if merged is None:
            merged = dict(values)
            continue
        for name in merged.keys() | values.keys():
            ours, theirs = merged.get(name, ABSENT), values.get(name, ABSENT)
            if ours == theirs or (isinstance(ours, Missing) and ours != ABSENT):
                continue
            merged[name] = PARTLY_ABSENT if ABSENT in (ours, theirs) else DIFFERS
    return merged or {}


def value_of(dataset: Dataset, tag: int | str) -> Value:
    """One attribute of a data set in the form rules compare.

    What most images of a series share is decoded once, and stays undecoded in the data set.
    """
    tag = tag_of(tag)
    found = undecoded(dataset).get(tag)
    if isinstance(found, RawDataElement) and isinstance(found.value, bytes):
        vr = found.VR if found.VR is not None else vr_of(tag)  # implicit VR leaves it out
        if vr in _IN_ANY_CHARACTER_SET and len(found.value) <= _SHORT:
            return _decoded(tag, vr, found.value, found.is_little_endian)
    return _value_of(dataset, tag)


@lru_cache(maxsize=1024)
def tag_of(keyword: str | int) -> BaseTag:
    """The tag of a keyword; to look it up takes longer than most of what follows."""
    return Tag(keyword)


@lru_cache(maxsize=4096)
def _decoded(tag: BaseTag, vr: str, value: bytes, is_little_endian: bool) -> Value:
    """The value of an undecoded element."""
    element = RawDataElement(tag, vr, len(value), value, 0, False, is_little_endian)
    return _value_of(Dataset({tag: element}), tag)


def _value_of(dataset: Dataset, tag: BaseTag) -> Value:
    try:
        element = dataset[tag]
        raw = element.value
        if raw is None or raw == "":
            return ()
        many = raw if element.VM > 1 else [raw]
        return tuple(_scalar(element.VR, value) for value in many)
    except KeyError:
        return ABSENT
    except UNREADABLE:
        return MALFORMED


def _scalar(vr: str, value: object) -> Scalar:
    if vr in _NUMBERS:
        number = float(str(value)) if not isinstance(value, int | float) else value
        if not isfinite(number):
            raise ValueError(f"{vr} {number}")
        if vr == "IS" and number != int(number):
            raise ValueError("an integer string with a fraction")
        return int(number) if vr == "IS" or isinstance(number, int) else float(number)
    return str(value).strip().rstrip("\0")


def undecoded(dataset: Dataset) -> Mapping[BaseTag, DataElement | RawDataElement]:
    """The elements of a data set, as long as nobody looks at them undecoded."""
    elements: Mapping[BaseTag, DataElement | RawDataElement]
    elements = dataset.keys().mapping  # type: ignore[attr-defined]  # a view of a dict
    return elements


def is_left_out(element: DataElement | RawDataElement) -> bool:
    """Whether a value was left in its file because it is long."""
    return isinstance(element, RawDataElement) and element.value is None and element.length > 0


def _comparable(instance: Dataset) -> _Elements:
    """What rules can compare, undecoded, by tag."""
    return {
        int(tag): element
        for tag, element in undecoded(instance).items()
        if _is_comparable(tag, element.VR)
    }


@lru_cache(maxsize=4096)
def _is_comparable(tag: BaseTag, vr: str | None) -> bool:
    """Whether it is an attribute of the Standard that tells something, and no bulk data.

    Implicit VR leaves "US or OW" tables of bytes undecided.
    """
    if tag.is_private or tag.element == 0 or tag.group >= _FIRST_BULK_GROUP:
        return False
    vr = vr if vr is not None else vr_of(tag)  # implicit VR leaves it out
    return vr not in _NOT_TEXT and " or " not in vr


def _but(instance: Dataset, elements: _Elements) -> Dataset:
    """A data set of these elements alone: private ones may take more memory than all the rest."""
    twin = Dataset(dict(elements))  # type: ignore[arg-type]  # a tag is an int
    is_implicit_vr, is_little_endian = instance.original_encoding
    twin.set_original_encoding(is_implicit_vr, is_little_endian, instance.original_character_set)
    return twin


def _encoding(instance: Dataset) -> tuple[object, object]:
    return instance.original_encoding[1], value_of(instance, "SpecificCharacterSet")


@lru_cache(maxsize=4096)
def vr_of(tag: BaseTag) -> str:
    """The value representation by the dictionary; UN where it does not know the tag."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _functional_group_values(instance: Dataset) -> dict[str, Value]:
    """Values from functional groups: shared ones, and per-frame ones equal in all frames."""
    shared, per_frame = (instance.get(keyword) or [] for keyword in _FUNCTIONAL_GROUPS)
    common = merge_values(_macro_values(item) for item in per_frame)
    for item in shared:
        common.update(_macro_values(item))
    return common


def macros(group: Dataset | None) -> Iterator[Dataset]:
    """The first items of the functional group macros of one frame.

    Private groups are left out: some vendors repeat a classic header there, of another image.
    """
    if group is None:
        return
    for tag in group.keys():  # noqa: SIM118 - iterating a Dataset would decode every element
        if not tag.is_private and (element := group[tag]).VR == "SQ" and element.value:
            yield element.value[0]


def _macro_values(group: Dataset) -> dict[str, Value]:
    return {
        keyword: value_of(item, tag)
        for item in macros(group)
        for tag, element in undecoded(item).items()
        if (keyword := keyword_for_tag(tag)) and _is_comparable(tag, element.VR)
    }
