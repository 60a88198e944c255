"""The real cases that tests look at: which files there are, and where they lie on this machine.

``tests/cases`` says what every file must be. The files themselves are in no repository: those that
pydicom's wheel carries are laid beside the others by the first test that asks, the rest is brought by
``make test-data``.
"""

from __future__ import annotations

import csv
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache" / "test-data"
_MANIFEST = REPOSITORY / "tests" / "cases"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who publishes files, and under which licence.

    Args:
        url: The places of its files are below it.
        archive: A zip file whose members its files are.
        package: An installed package that carries its files.
    """

    title: str
    licence: str
    url: str = ""
    archive: str = ""
    package: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.url, self.archive, self.package))) > 1:
            raise ValueError(f"{self.title}: its files have more than one place")

    @property
    def is_public(self) -> bool:
        """Whether anybody can get its files."""
        return bool(self.url or self.archive or self.package)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFile:
    """One file of a case.

    Args:
        path: Below the folder of cases.
        place: Where its source has it.
    """

    path: str
    source: Source
    place: str
    size_bytes: int
    sha256: str

    def is_at(self, root: Path) -> bool:
        """Whether it lies below the folder, by name and size."""
        path = root / self.path
        return path.is_file() and path.stat().st_size == self.size_bytes

    def is_these(self, content: bytes) -> bool:
        """Whether the bytes are those of the file."""
        return hashlib.sha256(content).hexdigest() == self.sha256

    def lay(self, root: Path, content: bytes) -> None:
        """Put the bytes below the folder, whole or not at all.

        Raises:
            ValueError: They are not those of the file.
        """
        if not self.is_these(content):
            raise ValueError(f"{self.path}: what came is another file (its SHA-256 differs)")
        path = root / self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        with os.fdopen(handle, "wb") as part:
            part.write(content)
        Path(name).replace(path)


@cache
def sources() -> Mapping[str, Source]:
    """Every source by its name in the manifest."""
    listed = yaml.safe_load((_MANIFEST / "sources.yaml").read_text())
    return {name: Source(**row) for name, row in listed.items() if not name.startswith("x-")}


@cache
def manifest() -> tuple[CaseFile, ...]:
    """Every file that a test may ask for."""
    with (_MANIFEST / "files.csv").open(newline="") as lines:
        return tuple(
            CaseFile(
                path=row["path"],
                source=sources()[row["source"]],
                place=row["place"],
                size_bytes=int(row["size_bytes"]),
                sha256=row["sha256"],
            )
            for row in csv.DictReader(lines)
        )


def lay_packaged(root: Path) -> None:
    """Copy what installed packages carry into the folder of cases, as far as it is not there."""
    for file in manifest():
        if file.source.package and not file.is_at(root):
            carried = package_files(file.source.package) / file.place
            # another release of the package may have dropped or changed it
            if carried.is_file() and file.is_these(content := carried.read_bytes()):
                file.lay(root, content)


def roots() -> list[Path]:
    """Where cases may lie, best first: the folder named or beside the repository, the cache."""
    named = os.environ.get("SEGNODE_TEST_DATA")
    return [Path(named) if named else REPOSITORY.parent / "shared", CACHE]


@dataclass(frozen=True, slots=True)
class Cases:
    """Cases of one kind; a test that asks for one that is not here is skipped.

    Args:
        kind: Their folder: ``data``, ``labels`` or ``models``.
        roots: Where they may lie, best first.
    """

    kind: str
    roots: tuple[Path, ...]

    def __truediv__(self, name: str) -> Path:
        """The file or folder of a case, whole; skips the test that asks where it is not here."""
        found = self.find(name)
        if found is None:
            public = all(file.source.is_public for file in self._files(name))
            way = "make test-data" if public else "no public address, make test-data MIRROR=..."
            pytest.skip(f"{self.kind}/{name or '*'} is not here whole: {way}")
        return found

    def all(self) -> Path:
        """The folder of all cases of this kind; skips as for one of them."""
        return self / ""

    def find(self, name: str) -> Path | None:
        """The file or folder of a case, where every file of it is here."""
        wanted = self._files(name)
        for root in self.roots:
            if all(file.is_at(root) for file in wanted):
                return root / self.kind / name
        return None

    def _files(self, name: str) -> list[CaseFile]:
        path = f"{self.kind}/{name}".removesuffix("/")
        files = [f for f in manifest() if f.path == path or f.path.startswith(f"{path}/")]
        if not files:
            raise LookupError(f"{path} is not in tests/cases/files.csv")
        return files
