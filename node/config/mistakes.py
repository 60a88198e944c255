"""What is wrong with the shape of the file, as paths and sentences that say what to do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

from node.domain.settings import SettingsInvalid

Location = tuple[str | int, ...]

REQUIRED = "required, and not given"
KEYS_AND_VALUES = "takes keys and values"
A_LIST = "takes a list, such as [a, b]"
ONE_TEXT = "takes one text"
BAD_NAME = "names have letters, digits, dot, hyphen and underscore, 64 at most"

# Known to readers of the design, but not built yet: a clear answer instead of "unknown key".
# A "*" stands for any name or index.
_NOT_IN_THIS_VERSION = (
    "fetch", "ray", "s3", "tls", "worklist", "web.auth.oidc", "storage.s3", "peers.*.query",
    "destinations.*.confirm", "completion.expect",
)  # fmt: skip
_VALUES_NOT_IN_THIS_VERSION = (
    ("web.auth.kind", "oidc"),
    ("storage.duplicates", "replace"),
    ("destinations.*.kind", "s3"),
    ("destinations.*.kind", "hl7"),
    ("destinations.*.auth.kind", "oidc"),
)
_TYPES = {
    "string_type": "takes text: put it in quotes",
    "path_type": "takes text: put it in quotes",
    "int_type": "takes a whole number",
    "int_from_float": "takes a whole number",
    "float_type": "takes a number",
    "bool_type": "takes true or false",
    "tuple_type": A_LIST,
    "dict_type": KEYS_AND_VALUES,
    "dataclass_type": KEYS_AND_VALUES,
    "missing": REQUIRED,
}


def dotted(place: Location) -> str:
    """A location as one text: rules.2.when."""
    return ".".join(str(part) for part in place)


def unknown_key(key: str, at: Location, known: Collection[str]) -> str:
    """What to do about a key that no value has."""
    if any(_fits((*at, key), pattern) for pattern in _NOT_IN_THIS_VERSION):
        return "not in this version: take it out"
    if f"{key}_env" in known:
        return f"secrets do not belong in this file: use {key}_env or {key}_file"
    if close := get_close_matches(key, known, n=1, cutoff=0.7):
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; known here: {', '.join(known)}"


def mistake_of_text(text: str) -> str:
    """Why a text cannot stand in the file; empty where it can."""
    if not text:
        return "must not be empty"
    if not text.strip() or any(ord(each) < 0x20 or ord(each) == 0x7F for each in text):
        return "takes text without control characters, not only spaces"
    return ""


def value_not_in_this_version(at: Location, value: object) -> str:
    """The answer to a value that is known to readers of the design; empty for all others."""
    planned = any(_fits(at, path) and value == word for path, word in _VALUES_NOT_IN_THIS_VERSION)
    return f"{value} is not in this version" if planned else ""


def mistakes_of_error(
    error: ErrorDetails, content: Any, at: Location
) -> Iterator[tuple[Location, str]]:
    """Where below ``at`` an error of pydantic is, and what to do about it."""
    place, value = _place(error, content)
    invalid = error.get("ctx", {}).get("error")
    if isinstance(invalid, SettingsInvalid):
        for path, sentence in invalid.mistakes:
            parts = path.split(".") if path else []
            yield (*place, *(int(part) if part.isdigit() else part for part in parts)), sentence
        return
    yield place, _sentence(error, value, (*at, *place))


def _fits(at: Location, pattern: str) -> bool:
    parts = pattern.split(".")
    return len(parts) == len(at) and all(
        part in ("*", str(each)) for part, each in zip(parts, at, strict=True)
    )


def _place(error: ErrorDetails, here: Any) -> tuple[Location, Any]:
    """Where in the content an error is, without the parts that only pydantic knows of, and what is there."""
    place: list[str | int] = []
    parts = error["loc"]
    for number, part in enumerate(parts):
        is_there = (isinstance(here, Mapping) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if is_there:
            place.append(part)
            here = here[part]
        elif number == len(parts) - 1 and error["type"] == "missing":
            return (*place, part), None
    return tuple(place), here


def _sentence(error: ErrorDetails, value: Any, at: Location) -> str:
    kind = error["type"]
    if sentence := value_not_in_this_version(at, value):
        return sentence
    if "parameters" in at:
        return "takes a text, a number, true or false"
    if kind in ("literal_error", "enum"):
        expected = str(error.get("ctx", {}).get("expected", ""))
        return f"takes one of {expected.replace(chr(39), '').replace(' or ', ', ')}"
    if kind in ("string_type", "path_type") and isinstance(value, list | Mapping):
        return ONE_TEXT
    return _TYPES.get(kind, error["msg"])
