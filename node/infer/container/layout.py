"""The input folder of a container, laid out from roles; file names are counters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from node.domain.errors import JobFailed
from node.infer.container.spec import default_template
from node.infer.run_context import SeriesInput

_READ_BY_ALL = 0o444


def lay_out(inputs: Mapping[str, SeriesInput], layout: Mapping[str, str], folder: Path) -> None:
    """Fill a new folder with the files of all inputs, readable by whoever the image runs as.

    Raises:
        JobFailed: A file is gone, or an input does not say which series it is.
    """
    folder.mkdir(mode=0o755)
    for role, given in inputs.items():
        template = layout.get(role, default_template(role, inputs.keys()))
        place = folder / template.format(**_names(role, given))
        place.mkdir(parents=True, exist_ok=True)
        for number, (sop_instance_uid, source) in enumerate(given.files.items(), 1):
            try:
                _provide(source, place / f"{number:06d}.dcm")
            except FileNotFoundError as error:
                raise JobFailed(f"the file of instance {sop_instance_uid} is gone") from error


def _names(role: str, given: SeriesInput) -> dict[str, str]:
    names = {"role": role}
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        value = given.header.text(keyword)
        if not value or set(value) - set("0123456789."):
            raise JobFailed(f"input {role} has no {keyword}", permanent=True)
        names[keyword] = value
    return names


def _provide(source: Path, target: Path) -> None:
    """A second name of the file where that is enough, else a copy: its mode is not ours to change."""
    if source.stat().st_mode & _READ_BY_ALL == _READ_BY_ALL:
        try:
            os.link(source, target)
        except OSError:
            pass  # another file system, or one without hard links
        else:
            return
    shutil.copyfile(source, target)
    target.chmod(_READ_BY_ALL)
