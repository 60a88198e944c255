"""What the annotations of a value say about its keys in the file (``node.domain.settings``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from node.domain.settings import Given, Secret, Settings


@cache
def hints_of(settings: type) -> Mapping[str, Any]:
    """The fields of a value with their whole annotations."""
    hints = get_type_hints(settings, include_extras=True)
    return {name: hints[name] for name in _fields(settings)}


@cache
def keys_of(settings: type) -> Mapping[str, Any]:
    """The keys that a value has in the file, with their annotations."""
    keys: dict[str, Any] = {}
    for name, annotation in hints_of(settings).items():
        if Secret in members(annotation):
            keys |= {f"{name}_env": str, f"{name}_file": str}
        elif Given.BY_KEY not in marks(annotation):
            keys[name] = annotation
    return keys


def members(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have, with marks taken off; None is no type of the file."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(each for part in get_args(annotation) for each in members(part))
    return () if annotation is NoneType else (annotation,)


def marks(annotation: Any) -> tuple[Any, ...]:
    """What an annotation says besides the type."""
    return getattr(annotation, "__metadata__", ())


def is_settings(annotation: Any) -> bool:
    """Whether a value of the file is one of ours, with keys."""
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def is_required(settings: type, name: str) -> bool:
    """Whether a field has no default."""
    each = _fields(settings)[name]
    return each.default is MISSING and each.default_factory is MISSING


def is_given(settings: type, name: str, content: Mapping[Any, Any]) -> bool:
    """Whether the file gives a field; null counts as not given where nothing stands for it."""
    if name not in content:
        return False
    has_none = _fields(settings)[name].default in (None, "")
    return content[name] is not None or not (
        has_none or Given.BY_NODE in marks(hints_of(settings)[name])
    )


@cache
def _fields(settings: Any) -> Mapping[str, Field[Any]]:
    return {each.name: each for each in fields(settings)}
