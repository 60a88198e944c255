"""What a clause may name: DICOM keywords, and attributes that the node derives.

Source: PS3.5 6.2 (value representations), PS3.6 (registry of data elements).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache

from pydicom.datadict import (
    dictionary_is_retired,
    dictionary_VM,
    dictionary_VR,
    keyword_dict,
    tag_for_keyword,
)

from node.domain.quantity import Quantity


class Kind(StrEnum):
    """How values of an attribute are compared."""

    TEXT = "text"  # trimmed and without case
    EXACT = "exact text"  # trimmed; case matters (AE titles, UIDs)
    NUMBER = "number"
    AGE = "age"  # AS: ranges in years, or the text as it stands ("045Y")
    FLAG = "true or false"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One name that a clause may use.

    Args:
        is_single: At most one value, so that two different values contradict each other.
        values: All values a text may have; empty for free text.
    """

    name: str
    kind: Kind
    is_single: bool = True
    values: tuple[str, ...] = ()
    meaning: str = ""


def _derived(
    name: str,
    kind: Kind,
    meaning: str,
    values: tuple[str, ...] = (),
    *,
    is_single: bool = True,
) -> tuple[str, Attribute]:
    return name, Attribute(
        name=name, kind=kind, is_single=is_single, values=values, meaning=meaning
    )


SEQUENCES = (
    *("T1", "T2", "T2*", "PD", "FLAIR", "STIR"),
    *("DWI", "ADC", "SWI", "TOF", "PERFUSION"),
)
BODY_REGIONS = (
    *("HEAD", "NECK", "CHEST", "BREAST", "ABDOMEN", "PELVIS", "SPINE", "ARM", "LEG"),
    "PHANTOM",
)

QUANTITIES = tuple(quantity.value for quantity in Quantity if quantity is not Quantity.UNSPECIFIED)

DERIVED: Mapping[str, Attribute] = dict(
    (
        _derived(
            "slices", Kind.NUMBER, "planes of the series; frames count in multi-frame objects"
        ),
        _derived("rows", Kind.NUMBER, "rows of every plane"),
        _derived("columns", Kind.NUMBER, "columns of every plane"),
        _derived(
            "spacing_mm", Kind.NUMBER, "largest edge of a voxel: of slice, row and column spacing"
        ),
        _derived(
            "orientation",
            Kind.TEXT,
            "the plane that the slices lie in",
            ("AXIAL", "SAGITTAL", "CORONAL", "OBLIQUE"),
        ),
        _derived(
            "is_localizer",
            Kind.FLAG,
            "Image Type says LOCALIZER, or few images lie in two or three planes",
        ),
        _derived("is_derived", Kind.FLAG, "Image Type says DERIVED"),
        _derived("is_volume", Kind.FLAG, "the geometry gate accepts it as one regular volume"),
        _derived("has_gaps", Kind.FLAG, "slices are missing inside the stack"),
        _derived("quantity", Kind.TEXT, "what the numbers measure", QUANTITIES),
        _derived("sequence", Kind.TEXT, "the kind of MR weighting", SEQUENCES),
        _derived("contrast", Kind.FLAG, "a contrast agent was given"),
        _derived(
            "body_region",
            Kind.TEXT,
            "every part of the body that Body Part Examined or a name tells of",
            BODY_REGIONS,
            is_single=False,
        ),
        _derived("transport", Kind.TEXT, "how it came in", ("dimse", "stow", "folder")),
        _derived("peer", Kind.TEXT, "name of the configured peer that sent it"),
        _derived("calling_ae_title", Kind.EXACT, "how the sender called itself"),
        _derived("called_ae_title", Kind.EXACT, "how the sender called this node"),
    )
)

_NUMBER_VRS = frozenset({"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "IS", "DS"})
_TEXT_VRS = frozenset({"CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"})
_EXACT_VRS = frozenset({"AE", "UI"})
# PS3.7 E.1 and PS3.10 7.1: groups of the message and of the file, not of the data set
_LAST_ENVELOPE_GROUP = 0x0007
_FIRST_BULK_GROUP = 0x5400


class UnknownAttribute(ValueError):
    """The name cannot stand in a clause; the message says why and what to write."""


@cache
def find_attribute(name: str) -> Attribute:
    """The attribute of this name.

    Raises:
        UnknownAttribute: No such name, or one that rules cannot compare.
    """
    if name in DERIVED:
        return DERIVED[name]
    tag = tag_for_keyword(name)
    if tag is None:
        raise UnknownAttribute(f"no DICOM keyword and no derived attribute{did_you_mean(name)}")
    if tag >> 16 <= _LAST_ENVELOPE_GROUP:
        raise UnknownAttribute("belongs to the message or the file, not to the series: take it out")
    kind = _kind(dictionary_VR(tag))
    if kind is None or tag >> 16 >= _FIRST_BULK_GROUP:
        raise UnknownAttribute("is a sequence or binary data; rules compare text and numbers only")
    return Attribute(name=name, kind=kind, is_single=dictionary_VM(tag) == "1")


def did_you_mean(name: str) -> str:
    """A suggestion to put behind a sentence, or nothing."""
    plain = {_plain(known): known for known in _known_names()}
    if _plain(name) in plain:
        return f"; did you mean {plain[_plain(name)]}?"
    close = get_close_matches(name, _known_names(), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


@cache
def _known_names() -> tuple[str, ...]:
    # names in use come first, so that a retired one is never the first guess
    retired = {name: dictionary_is_retired(tag) for name, tag in keyword_dict.items() if name}
    return (*DERIVED, *sorted(retired, key=retired.__getitem__))


def _plain(name: str) -> str:
    return name.replace("_", "").replace(" ", "").casefold()


def _kind(vr: str) -> Kind | None:
    if set(vr.split(" or ")) <= _NUMBER_VRS:
        return Kind.NUMBER
    if vr in _TEXT_VRS:
        return Kind.TEXT
    if vr in _EXACT_VRS:
        return Kind.EXACT
    return Kind.AGE if vr == "AS" else None
