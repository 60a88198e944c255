"""Media types as HTTP headers carry them: Content-Type with parameters, and Accept.

Source: RFC 9110 5.6.6 (parameters), 8.3.1 (media type), 12.5.1 (Accept); RFC 2046 5.1.1 (boundary).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from node.domain.errors import NodeError

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of RFC 9110, no secret
_TYPE = re.compile(rf"\s*({_TOKEN})/({_TOKEN})\s*")
_PARAMETER = re.compile(
    rf';\s*(?:({_TOKEN})=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*)))?\s*',
    re.DOTALL,
)
# RFC 2046 allows 70 characters; the DICOMweb client of Orthanc sends 73
MAX_BOUNDARY = 200
_BOUNDARY = re.compile(
    rf"[0-9A-Za-z'()+_,\-./:=? ]{{0,{MAX_BOUNDARY - 1}}}[0-9A-Za-z'()+_,\-./:=?]"
)


class MediaTypeMalformed(NodeError):
    """A header is no media type; the client must send another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaType:
    """One media type; its name and the names of its parameters are in lower case."""

    name: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_media_type(text: str) -> MediaType:
    """Read ``type/subtype; name=value; name="quoted value"``.

    Raises:
        MediaTypeMalformed: The text has another form, or one parameter stands twice.
    """
    start = _TYPE.match(text)
    if start is None:
        raise MediaTypeMalformed("not a media type")
    parameters: dict[str, str] = {}
    position = start.end()
    while position < len(text):
        found = _PARAMETER.match(text, position)
        if found is None:
            raise MediaTypeMalformed("malformed parameters of a media type")
        position = found.end()
        name, quoted, token = found.groups()
        if name is None:
            continue
        if name.lower() in parameters:
            raise MediaTypeMalformed(f"parameter {name.lower()} given twice")
        parameters[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else token
    return MediaType(name=f"{start[1]}/{start[2]}".lower(), parameters=parameters)


def boundary_of(media_type: MediaType) -> bytes:
    """The boundary of a multipart type.

    Raises:
        MediaTypeMalformed: Absent, longer than ``MAX_BOUNDARY``, or of other characters than
            RFC 2046 allows.
    """
    boundary = media_type.parameters.get("boundary", "")
    if _BOUNDARY.fullmatch(boundary) is None:
        raise MediaTypeMalformed(f"boundary is absent or not 1 to {MAX_BOUNDARY} legal characters")
    return boundary.encode("ascii")


def best_of(accept: Sequence[str], offered: Sequence[str]) -> str | None:
    """The offered media type that an Accept header prefers; None where none is acceptable.

    ``multipart/related; type="X"`` counts as X. Equal preferences go to what is offered first.

    Args:
        accept: Values of all Accept headers; an empty sequence accepts everything.
        offered: Names of media types, the default first.
    """
    ranges = [_accept_range(entry) for value in accept for entry in _split(value) if entry.strip()]
    if not ranges:
        return offered[0]
    weights = {name: _weight(name, ranges) for name in offered}
    best = max(offered, key=lambda name: weights[name])
    return best if weights[best] > 0 else None


def _split(value: str) -> list[str]:
    """Split at commas outside quoted strings."""
    return re.findall(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+', value)


def _accept_range(entry: str) -> tuple[str, float]:
    """One media range and its weight; what cannot be read accepts nothing."""
    try:
        media_type = parse_media_type(entry)
        weight = float(media_type.parameters.get("q", "1"))
    except (MediaTypeMalformed, ValueError):
        return ("", 0.0)
    name = media_type.name
    if name == "multipart/related":
        name = media_type.parameters.get("type", "*/*").lower()
    return (name, weight)


def _weight(name: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The weight of the most specific range that covers a media type."""
    for pattern in (name, f"{name.partition('/')[0]}/*", "*/*"):
        found = [weight for covered, weight in ranges if covered == pattern]
        if found:
            return max(found)
    return 0.0
