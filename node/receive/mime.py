"""MIME as DICOM web services use it: media types in headers, and multipart bodies as streams.

Source: RFC 9110 5.6.6 (parameters), 8.3.1 (media type), 12.5.1 (Accept); RFC 2046 5.1.1 (multipart,
boundary), RFC 2387; PS3.18 8.6.1.2
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeAlias

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

MAX_PART_HEADER_BYTES = 16 * 1024
MAX_PREAMBLE_BYTES = 64 * 1024
_MAX_PADDING_BYTES = 128
_CRLF: Final = b"\r\n"
_HEADER_LINE = re.compile(rf"({_TOKEN}):[ \t]*(.*?)[ \t]*", re.DOTALL)


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


class MultipartMalformed(NodeError):
    """The body is no multipart body with the announced boundary; the client must mend it."""


@dataclass(frozen=True, slots=True)
class PartStarted:
    """The header fields of the next part, names in lower case."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PartEnded:
    """The part is complete: its closing delimiter was seen."""


Event: TypeAlias = PartStarted | memoryview | PartEnded


class _State(Enum):
    PREAMBLE = auto()
    HEADERS = auto()
    BODY = auto()
    EPILOGUE = auto()


class MultipartReader:
    """Turns the bytes of one body into parts, as they arrive.

    Nothing but an unfinished header block or a possible start of a delimiter is held back, so
    memory does not grow with the size of a part. Lines end with CR LF and nothing else: a body
    whose delimiters end with LF alone has no parts, which is an error and not an empty success.

    ``feed`` every piece, then ``finish``: without its closing delimiter a body is truncated, and
    the part that was open must be thrown away.
    """

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        # the first delimiter needs no line break before it
        self._held = _CRLF
        self._state = _State.PREAMBLE
        self._preamble_bytes = 0
        # the line break that ends the header block may also begin the delimiter of an empty part
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """What the next bytes of the body bring.

        Raises:
            MultipartMalformed: A header block is too long or unreadable, or no part ever starts.
        """
        self._held = self._held + data if self._held else data
        while True:
            if self._state is _State.EPILOGUE:
                self._held = b""
                return
            if self._state is _State.HEADERS:
                headers = self._read_headers()
                if headers is None:
                    return
                yield PartStarted(headers)
                continue
            at, after, closes = self._find_delimiter()
            yield from self._content(at)
            if after is None:
                return
            if self._state is _State.BODY:
                yield PartEnded()
            self._held = self._held[after - at :]
            self._state = _State.EPILOGUE if closes else _State.HEADERS

    def finish(self) -> None:
        """The body is over.

        Raises:
            MultipartMalformed: The closing delimiter was not seen.
        """
        if self._state is _State.PREAMBLE:
            raise MultipartMalformed("the body has no part with the announced boundary")
        if self._state is not _State.EPILOGUE:
            raise MultipartMalformed("the body ends before its closing delimiter")

    def _content(self, end: int) -> Iterator[memoryview]:
        """Hand on what is certainly content and forget it; ``_held`` then starts at ``end``."""
        if self._state is _State.BODY:
            start = min(self._skip, end)
            if end > start:
                yield memoryview(self._held)[start:end]
            self._skip -= start
        else:
            self._preamble_bytes += end
            if self._preamble_bytes > MAX_PREAMBLE_BYTES:
                raise MultipartMalformed("the body has no part with the announced boundary")
        self._held = self._held[end:]

    def _find_delimiter(self) -> tuple[int, int | None, bool]:
        """Where content ends, where the text after the delimiter starts, whether it closes.

        The second is None while no whole delimiter is there: content ends where one may begin.
        """
        held, position = self._held, 0
        while True:
            at = held.find(self._delimiter, position)
            if at < 0:
                return self._possible_start(position), None, False
            tail = at + len(self._delimiter)
            if held.startswith(b"--", tail):
                return at, tail + 2, True
            line_end = tail
            while held[line_end : line_end + 1] in (b" ", b"\t"):
                line_end += 1
            if held.startswith(_CRLF, line_end):
                return at, line_end, False
            rest = held[line_end : line_end + 2]
            padding = line_end - tail
            undecided = not rest or rest == b"\r" or (rest == b"-" and not padding)
            if undecided and padding <= _MAX_PADDING_BYTES:
                return at, None, False
            # the boundary as a prefix of other bytes, such as pixel data, is content
            position = at + len(_CRLF)

    def _possible_start(self, position: int) -> int:
        """The end of what cannot be part of a delimiter that the next piece completes."""
        held = self._held
        at = held.rfind(b"\r", max(position, len(held) - len(self._delimiter) + 1))
        return at if at >= 0 and self._delimiter.startswith(held[at:]) else len(held)

    def _read_headers(self) -> dict[str, str] | None:
        end = self._held.find(_CRLF + _CRLF)
        if (end if end >= 0 else len(self._held)) > MAX_PART_HEADER_BYTES:
            raise MultipartMalformed(f"header of a part exceeds {MAX_PART_HEADER_BYTES} bytes")
        if end < 0:
            return None
        headers: dict[str, str] = {}
        for line in self._held[len(_CRLF) : end].split(_CRLF) if end else ():
            found = _HEADER_LINE.fullmatch(line.decode("latin-1"))
            if found is None or "\n" in found[2] or found[1].lower() in headers:
                raise MultipartMalformed("malformed header of a part")
            headers[found[1].lower()] = found[2]
        self._held = self._held[end + len(_CRLF) :]
        self._state, self._skip = _State.BODY, len(_CRLF)
        return headers
