"""Settings: values of the configuration that cannot be built wrong, wherever they are built.

A section of the file is one frozen dataclass beside its user, a ``Settings``. Its annotations say all that
the configuration needs to read it: types, bounds (``port: Port``), and what the file gives in another way
than by the value itself:

- ``Path`` and ``FileName``: relative to the folder of the file.
- ``Secret``, called ``password``: by ``password_env`` or ``password_file``.
- ``Peer``: by its name among ``peers``.
- ``KeyName``: the key under which the file holds the value.
- ``OwnAeTitle``: where it is left out, the first AE title of this node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from math import inf, isfinite
from typing import Annotated, Any, Literal, get_args, get_type_hints

Mistake = tuple[str, str]  # where, in dots; and a sentence that says what to do


class SettingsInvalid(ValueError):
    """A value was given settings that it cannot have: each field, and what it takes."""

    def __init__(self, value: str, mistakes: tuple[Mistake, ...]) -> None:
        self.mistakes = mistakes
        words = "; ".join(f"{at}: {text}" if at else text for at, text in mistakes)
        super().__init__(f"{value}: {words}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A value that judges itself when it is built."""

    def __post_init__(self) -> None:
        kind: type = type(self)
        out_of_bounds = [
            (name, sentence)
            for name, bounds in _bounds_of(kind)
            if (number := getattr(self, name)) is not None and (sentence := bounds.mistake(number))
        ]
        mistakes = out_of_bounds or list(self.mistakes())
        if mistakes:
            raise SettingsInvalid(kind.__name__, tuple(mistakes))

    def mistakes(self) -> Iterator[Mistake]:
        """What is wrong by field, of a value that is within its bounds."""
        yield from ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A password or token; neither shown nor part of the configuration's digest.

    Args:
        source: Where it came from, such as ``env:PACS_PASSWORD``.
    """

    source: str
    value: str = field(repr=False)


def mistakes_of_secrets(
    kind: Literal["basic", "token"], password: Secret | None, token: Secret | None
) -> Iterator[Mistake]:
    """Whether there is the secret that a kind of credentials takes, and not the other one."""
    word, given, other = "password", password, token
    if kind == "token":
        word, given, other = "token", token, password
    if other is not None:
        key = f"{'token' if kind == 'basic' else 'password'}_{other.source.partition(':')[0]}"
        yield key, f"kind asks for a {word}: use {word}_env or {word}_file"
    elif given is None:
        yield "", f"needs either {word}_env or {word}_file"


@dataclass(frozen=True, slots=True)
class Bounds:
    """A finite number of a range.

    Args:
        above: Lower end that is itself outside.
    """

    low: float = -inf
    high: float = inf
    above: float = -inf

    def mistake(self, value: float) -> str:
        """What to write instead; empty where the number is fine."""
        if not isfinite(value):
            return "must be a finite number"
        if value <= self.above:
            return f"takes more than {self.above:g}"
        if value < self.low:
            return f"takes {self.low:g} or more"
        return f"takes {self.high:g} or less" if value > self.high else ""


class Given(Enum):
    """A text that does not stand in the file at the place of the field."""

    BY_KEY = "the key that holds the value"
    BY_NODE = "the first AE title of this node"
    BY_FOLDER = "a path from the folder of the file"


Port = Annotated[int, Bounds(1, 65535)]
Count = Annotated[int, Bounds(1)]
Seconds = Annotated[float, Bounds(0)]
Timeout = Annotated[float, Bounds(above=0)]
Amount = Annotated[float, Bounds(0)]
Percent = Annotated[float, Bounds(above=0, high=100)]
KeyName = Annotated[str, Given.BY_KEY]
OwnAeTitle = Annotated[str, Given.BY_NODE]
FileName = Annotated[str, Given.BY_FOLDER]


@cache
def hints_of(settings: Any) -> Mapping[str, Any]:
    """The fields of a value with their whole annotations."""
    hints = get_type_hints(settings, include_extras=True)
    return {each.name: hints[each.name] for each in fields(settings)}


@cache
def _bounds_of(settings: type) -> tuple[tuple[str, Bounds], ...]:
    return tuple(
        (name, mark)
        for name, annotation in hints_of(settings).items()
        for mark in marks_of(annotation)
        if isinstance(mark, Bounds)
    )


def marks_of(annotation: Any) -> tuple[Any, ...]:
    """Metadata of an annotation, and of the members of a union such as ``Timeout | None``."""
    if hasattr(annotation, "__metadata__"):
        return tuple(annotation.__metadata__)
    return tuple(
        mark for part in get_args(annotation) for mark in getattr(part, "__metadata__", ())
    )
