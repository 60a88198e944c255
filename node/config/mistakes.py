"""What is wrong with the shape of the file, as paths and sentences that say what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from node.config.schema import NOT_IN_THIS_VERSION, SECRETS, VALUES_NOT_IN_THIS_VERSION, NodeKeys

Mistake = tuple[str, str]
Location = tuple[str | int, ...]

NOT_YET = "not in this version: take it out"
STAND_IN = "stand-in"
_STAND_INS = {"rules": {"name": STAND_IN, "run": STAND_IN}, "folders": {"path": STAND_IN}}
_TYPES = {
    "string_type": "takes text: put it in quotes",
    "int_type": "takes a whole number",
    "int_from_float": "takes a whole number",
    "float_type": "takes a number",
    "bool_type": "takes true or false",
    "list_type": "takes a list, such as [a, b]",
    "dict_type": "takes keys and values",
    "model_type": "takes keys and values",
    "model_attributes_type": "takes keys and values",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty: name at least one",
    "finite_number": "must be a finite number",
}


def check_shape(content: Mapping[str, Any]) -> tuple[NodeKeys, list[Mistake]]:
    """The typed file, and everything wrong with its shape.

    What is wrong is taken out or stood in for by ``STAND_IN``, so that all other checks can go on.
    """
    mistakes = list(unknown_keys(NodeKeys, content, ()))
    rest: Any = _copied(content)
    while True:
        try:
            return NodeKeys.model_validate(rest), mistakes
        except ValidationError as invalid:
            places = [(_location(rest, error), error) for error in invalid.errors()]
        mistakes += [(dotted(place), _sentence(error, rest, place)) for place, error in places]
        for place in sorted({place for place, _ in places}, key=_last_first, reverse=True):
            _mend(rest, place)


def unknown_keys(model: type[BaseModel], content: Any, at: Location) -> Iterator[Mistake]:
    """Keys that no model declares, at any depth."""
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        here = (*at, key)
        if key in model.model_fields:
            yield from _unknown_below(model.model_fields[key].rebuild_annotation(), value, here)
        else:
            yield dotted(here), _unknown(str(key), here, model)


def dotted(place: Location) -> str:
    """A location as one text: rules.2.when."""
    return ".".join(str(part) for part in place)


def _unknown_below(annotation: Any, value: Any, at: Location) -> Iterator[Mistake]:
    models = [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
    for member in _members(annotation):
        if get_origin(member) is list and isinstance(value, list):
            for index, item in enumerate(value):
                yield from _unknown_below(get_args(member)[0], item, (*at, index))
        if get_origin(member) is dict and isinstance(value, Mapping):
            for name, item in value.items():
                yield from _unknown_below(get_args(member)[1], item, (*at, name))
    if isinstance(value, Mapping) and models:
        kinds = [m for m in models if value.get("kind") in _kinds(m)]
        if len(models) == 1 or kinds:
            yield from unknown_keys((kinds or models)[0], value, at)


def _members(annotation: Any) -> list[Any]:
    """The types of a union, with their annotations taken off."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [each for part in get_args(annotation) for each in _members(part)]
    return [annotation]


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()


def _unknown(key: str, at: Location, model: type[BaseModel]) -> str:
    if _pattern_fits(at, NOT_IN_THIS_VERSION):
        return NOT_YET
    if key in SECRETS and f"{key}_env" in model.model_fields:
        return f"secrets do not belong in this file: use {key}_env or {key}_file"
    close = get_close_matches(key, model.model_fields, n=1, cutoff=0.7)
    if close:
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; known here: {', '.join(model.model_fields)}"


def _pattern_fits(at: Location, patterns: frozenset[str]) -> bool:
    return any(_fits(at, pattern) for pattern in patterns)


def _fits(at: Location, pattern: str) -> bool:
    parts = pattern.split(".")
    return len(parts) == len(at) and all(
        part in ("*", str(each)) for part, each in zip(parts, at, strict=True)
    )


def _location(content: Any, error: ErrorDetails) -> Location:
    """Where in the file an error is: without the parts that only pydantic knows of."""
    place: list[str | int] = []
    parts = error["loc"]
    here = content
    for number, part in enumerate(parts):
        is_there = (isinstance(here, Mapping) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if is_there:
            place.append(part)
            here = here[part]
        elif number == len(parts) - 1 and error["type"] == "missing":
            place.append(part)
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        place.append("kind")
    return tuple(place)


def _sentence(error: ErrorDetails, content: Any, at: Location) -> str:
    kind, context = error["type"], error.get("ctx", {})
    value = _value_at(content, at)
    if any(_fits(at, pattern) and value == word for pattern, word in VALUES_NOT_IN_THIS_VERSION):
        return f"{value} is not in this version"
    if error["loc"] and error["loc"][-1] == "[key]":
        return "names have letters, digits, dot, hyphen and underscore, 64 at most"
    if kind in ("missing", "union_tag_not_found"):
        return "required, and not given"
    if "parameters" in at:
        return "takes a text, a number, true or false"
    if kind in ("literal_error", "union_tag_invalid"):
        expected = str(context.get("expected", context.get("expected_tags", "")))
        return f"takes one of {expected.replace(chr(39), '').replace(' or ', ', ')}"
    if kind == "string_pattern_mismatch":
        return _pattern_sentence(at)
    for word, limit in (("ge", "or more"), ("le", "or less")):
        if word in context:
            return f"takes {context[word]:g} {limit}"
    for word, limit in (("gt", "more than"), ("lt", "less than")):
        if word in context:
            return f"takes {limit} {context[word]:g}"
    if kind == "string_type" and isinstance(value, list | Mapping):
        return "takes one text"
    return _TYPES.get(kind, error["msg"])


def _pattern_sentence(at: Location) -> str:
    if at and at[-1] == "url":
        return "takes a URL that begins with http:// or https://"
    if at and at[-1] == "name":
        return "takes text of 1 to 128 characters without spaces around it"
    return "takes text without control characters, not only spaces"


def _value_at(content: Any, at: Location) -> Any:
    for part in at:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return None
    return content


def _last_first(place: Location) -> list[tuple[int, str]]:
    """Sorts items of one list by number, so that the last can be taken out first."""
    return [(part, "") if isinstance(part, int) else (-1, part) for part in place]


def _mend(content: Any, place: Location) -> None:
    """Take out what is wrong; list items that others count keep their place."""
    if place[0] in _STAND_INS and len(place) <= 3:
        stand_in = _STAND_INS[str(place[0])]
        if len(place) == 1:
            content[place[0]] = [dict(stand_in)]
        elif len(place) == 2:
            content[place[0]][place[1]] = dict(stand_in)
        elif place[2] in stand_in:
            content[place[0]][place[1]][place[2]] = stand_in[str(place[2])]
        else:
            del content[place[0]][place[1]][place[2]]
        return
    parent, last = _value_at(content, place[:-1]), place[-1]
    if isinstance(parent, list):
        parent.pop(int(last))
    elif isinstance(parent, dict) and last in parent:
        del parent[last]
    else:  # something required is missing: what lacks it goes
        _mend(content, place[:-1])


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
