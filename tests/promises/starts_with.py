"""A rule operator, as somebody would add it: ``{SeriesDescription: {starts: axial}}``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from node.domain.header import Scalar
from node.route.conditions import Operator


@dataclass(frozen=True, slots=True, kw_only=True)
class StartsWith(Operator):
    """A value of the attribute begins with this text, without case."""

    example: ClassVar[str] = "axial"
    meaning: ClassVar[str] = "the text begins with it"

    start: str

    @classmethod
    def compile(cls, name: str, value: object) -> Self:
        """Of one text."""
        if not isinstance(value, str) or not value.strip():
            raise ValueError("starts takes a text that is not empty")
        return cls(name=name, start=value)

    def fits(self, value: Scalar) -> bool:
        """Whether a value of the attribute begins with the text."""
        return str(value).casefold().startswith(self.start.strip().casefold())

    @property
    def asked(self) -> str:
        """The text."""
        return f"{{starts: {self.start}}}"
