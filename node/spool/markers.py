"""Series markers: one small file per series that says whose it is.

The first instance of a series makes the file, by ``link``, which only one process can do; every
later one must agree with it. So "two patients in one series" is found without the database.
"""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from node.domain.uids import file_stem

_MOST_BYTES = 1024  # a key has 64


class SeriesMarkers:
    """The folder of markers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def claim(self, series_instance_uid: str, key: str) -> bool:
        """Whether the series belongs to ``key``: it did before, or does from now on.

        Raises:
            OSError: The marker can neither be read nor written.
        """
        path = self._path(series_instance_uid)
        try:
            found = _read(path)
        except FileNotFoundError:
            found = self._make(path, key)
        # a marker cut off by a power failure says nothing: the rebuild writes it anew
        return found in (key, "")

    def release(self, series_instance_uid: str) -> None:
        """Forget a series none of whose files is left."""
        self._path(series_instance_uid).unlink(missing_ok=True)

    def _path(self, series_instance_uid: str) -> Path:
        stem = file_stem(series_instance_uid)
        return self._folder / stem[:2] / stem

    def _make(self, path: Path, key: str) -> str:
        path.parent.mkdir(exist_ok=True)
        fresh = path.parent / f".{uuid4().hex}"
        try:
            with fresh.open("x", encoding="ascii") as file:
                file.write(key)
                file.flush()
                os.fdatasync(file.fileno())
            path.hardlink_to(fresh)
        except FileExistsError:
            return _read(path)
        finally:
            fresh.unlink(missing_ok=True)
        return key


def _read(path: Path) -> str:
    """The text of a marker; asked for every instance, so without the layers of a Python file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MOST_BYTES).decode("ascii")
    finally:
        os.close(descriptor)
