"""Where ``segnode run`` puts results: under the series they were made of, by a layout."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from node.deliver.folder import FIELDS, FolderDestination
from node.domain.delivery import DeliverableObject, DeliveryClass, Outcome

OUTPUT = "output"
DEFAULT_LAYOUT = "{SeriesInstanceUID}/{model}.{output}.{ext}"
LAYOUT_FIELDS = tuple(sorted(FIELDS))
"""All of the source but the SOP Instance UID, which is the result's; none carries patient data."""

_OWN_NAME = "{SOPInstanceUID}."


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFolder:
    """A folder as a destination, in which series and modality are those of the source.

    Args:
        layout: Relative path with fields of ``LAYOUT_FIELDS``.
        forms: What it takes.
        modality_of: Series Instance UID -> Modality.
    """

    path: Path
    layout: str
    forms: tuple[str, ...]
    modality_of: Callable[[str], str]

    def __post_init__(self) -> None:
        if "{ext}" not in self.layout.rpartition("/")[2]:
            raise ValueError(f"layout {self.layout!r}: the file's name needs {{ext}}")
        list(self._folders())

    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Write a file that is not there yet.

        Where other content has its name, such as an earlier revision, it gets its own.
        """
        found = self._beside_source(deliverable)
        for folder in self._folders():
            outcome = folder.send(found)
            if outcome.kind is not DeliveryClass.BLOCKED:
                return outcome
        place = folder.relative_path(found)
        return replace(outcome, sentence=f"other content lies at {place}: move that file")

    def find(self, deliverable: DeliverableObject) -> Path | None:
        """Where the same file lies that was written before."""
        found = self._beside_source(deliverable)
        source = Path(deliverable.path)
        paths = [self.path / folder.relative_path(found) for folder in self._folders()]
        return next((path for path in paths if _is_same(source, path)), None)

    def _beside_source(self, deliverable: DeliverableObject) -> DeliverableObject:
        series = deliverable.source_series_instance_uid
        return replace(
            deliverable,
            series_instance_uid=series,
            modality=self.modality_of(series) or "unknown",
        )

    def _folders(self) -> Iterator[FolderDestination]:
        """The folder by its layout, and by one that gives every file a name of its own."""
        yield FolderDestination(name=OUTPUT, path=self.path, layout=self.layout)
        folder, slash, name = self.layout.rpartition("/")
        before = "{output}" if "{output}" in name else "{ext}"
        own = name if _OWN_NAME in name else name.replace(before, _OWN_NAME + before, 1)
        yield FolderDestination(name=OUTPUT, path=self.path, layout=folder + slash + own)


def _is_same(source: Path, path: Path) -> bool:
    try:
        return filecmp.cmp(source, path, shallow=False)
    except OSError:
        return False
