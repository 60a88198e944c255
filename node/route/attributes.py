"""What a clause may name: DICOM keywords, and attributes that the node derives.

Source: PS3.5 6.2 (value representations), PS3.6 (registry of data elements).
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache

from pydicom.datadict import (
    dictionary_is_retired,
    dictionary_VM,
    dictionary_VR,
    keyword_dict,
    tag_for_keyword,
)

from node.domain.derived import DERIVED, Attribute, Kind

_KINDS = {
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "IS", "DS"), Kind.NUMBER),
    **dict.fromkeys(("CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM"), Kind.TEXT),
    **dict.fromkeys(("UC", "UR", "UT"), Kind.TEXT),
    **dict.fromkeys(("AE", "UI"), Kind.EXACT),
    "AS": Kind.AGE,
}
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
    kinds = {_KINDS.get(each) for each in vr.split(" or ")}
    return kinds.pop() if len(kinds) == 1 else None
