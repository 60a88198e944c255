"""What a form is: one value per form, cheap to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Protocol, cast

from node.domain.delivery import FormsTaken, TakesForms
from node.domain.result import EncodedFile, Result


class Reader(StrEnum):
    """Who reads a form."""

    VIEWER = "viewer"
    PERSON = "person"
    PROGRAM = "program"


class Encode(Protocol):
    """Makes the files of a result: none where it holds nothing that this form could show."""

    def __call__(self, result: Result) -> Sequence[EncodedFile]:
        """The files, each of another part; the same result gives the same bytes.

        Raises:
            JobFailed: Labels, their description and their source do not belong together.
        """
        ...


class Verify(Protocol):
    """Compares the files of a result with labels and source; shares no step with ``Encode``."""

    def __call__(self, files: Mapping[str, memoryview], result: Result) -> None:
        """Say nothing, or what is wrong.

        Args:
            files: Part -> the bytes as the disk has them; empty where none was made.
        Raises:
            ResultRefused: With each fault as one sentence.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form of a result.

    Args:
        name: As configuration, rows and API call it.
        encode: ``module:function`` of an ``Encode``, imported where jobs are done.
        verify: ``module:function`` of a ``Verify``.
        modality: Of its files, for layouts of folders.
        extension: Of its files, without the first dot.
        is_dicom: Whether its files are DICOM objects, which a PACS takes.
        output: What a file holds, for names of files.
        named_in_uids: What UIDs of its files are made from; it never changes.
        read_by: Whom it is for.
    """

    name: str
    encode: str
    verify: str
    modality: str
    extension: str
    is_dicom: bool
    output: str
    named_in_uids: str
    read_by: Reader

    def encoder(self) -> Encode:
        return cast(Encode, _imported(self.encode))

    def verifier(self) -> Verify:
        return cast(Verify, _imported(self.verify))

    def extension_of(self, part: str) -> str:
        """What the name of a file ends with that holds this part."""
        return f"{part}.{self.extension}" if part else self.extension


def forms_taken(destinations: Mapping[str, TakesForms]) -> FormsTaken:
    """What each of these destinations takes."""
    return FormsTaken({name: each.forms for name, each in destinations.items()})


def _imported(entry: str) -> object:
    module, _, function = entry.partition(":")
    return getattr(import_module(module), function)
