"""Bring the real cases that tests look at: ``make test-data``, or this module with ``--help``.

Files that are here and right stay; what broke off goes on; nothing takes its place that is not, byte
for byte, what ``tests/cases`` says.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import requests

from node.domain.errors import ConfigInvalid
from node.modelstore.download import Download, FetchFailed
from node.modelstore.pull import WeightsSource
from tests.support.cases import CACHE, CaseFile, Source, lay_packaged, manifest

Say = Callable[[str], None]


class NothingShown:
    """Of a download that is over before anybody looks."""

    def begin(self, done_bytes: int, total_bytes: int | None) -> None:
        """Files are small."""

    def advance(self, count_bytes: int) -> None:
        """Likewise."""


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """How files come into a folder.

    Args:
        mirror: Has every file under its path in the manifest; None: its source's own place.
    """

    root: Path
    mirror: WeightsSource | None
    download: Download = field(
        default_factory=lambda: Download(session=requests.Session(), progress=NothingShown())
    )

    def content(self, file: CaseFile) -> bytes:
        """The bytes of a file as its place has them.

        Raises:
            FetchFailed: It could not be brought.
        """
        if self.mirror and self.mirror.folder:
            try:
                return (self.mirror.folder / file.path).read_bytes()
            except OSError as error:
                raise FetchFailed(f"{file.path}: {error.strerror} in the mirror") from None
        if self.mirror:
            return self._brought(f"{self.mirror.base}/{quote(file.path)}", file.sha256)
        if file.source.archive:
            return self._member(file)
        return self._brought(f"{file.source.url}/{quote(file.place)}", file.sha256)

    def _brought(self, url: str, name: str) -> bytes:
        part = self._part(name)
        self.download.bring(url, part, has_hash=True)
        content = part.read_bytes()
        part.unlink()
        return content

    def _member(self, file: CaseFile) -> bytes:
        archive = self._part("archive-" + Path(file.source.archive).name)
        if not zipfile.is_zipfile(archive):
            self.download.bring(file.source.archive, archive, has_hash=True)
        try:
            with zipfile.ZipFile(archive) as members:
                return members.read(file.place)
        except (zipfile.BadZipFile, KeyError) as error:
            raise FetchFailed(f"{file.path}: not in {file.source.archive}: {error}") from None

    def _part(self, name: str) -> Path:
        folder = self.root / ".parts"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


def fetch(how: Fetch, files: Sequence[CaseFile], say: Say) -> int:
    """Bring what is missing.

    Returns:
        How many files could not be brought.
    """
    lay_packaged(how.root)
    wanted = [file for file in files if not _is_right(file, how.root)]
    say(f"{len(files) - len(wanted)} of {len(files)} files are in {how.root}")
    failed = 0
    for source, theirs in _by_source(wanted):
        if how.mirror is None and not (source.url or source.archive):
            say(f"{len(theirs)} files left out, only a mirror has them: {source.title}")
            continue
        size_mb = sum(file.size_bytes for file in theirs) / 1e6
        say(f"{len(theirs)} files, {size_mb:.1f} MB: {source.title}; licence {source.licence}")
        outcomes = Counter(_bring(how, file, say) for file in theirs)
        failed += outcomes[False]
    return failed


def _is_right(file: CaseFile, root: Path) -> bool:
    return file.is_at(root) and file.is_these((root / file.path).read_bytes())


def _by_source(files: Sequence[CaseFile]) -> Iterator[tuple[Source, list[CaseFile]]]:
    by_source: dict[Source, list[CaseFile]] = defaultdict(list)
    for file in files:
        by_source[file.source].append(file)
    yield from by_source.items()


def _bring(how: Fetch, file: CaseFile, say: Say) -> bool:
    try:
        file.lay(how.root, how.content(file))
    except (FetchFailed, ValueError) as error:
        say(f"  {error}")
        return False
    return True


def main(arguments: Sequence[str] | None = None, say: Say = print) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make test-data", description=__doc__)
    parser.add_argument("--into", type=Path, default=CACHE, help="the folder of cases")
    parser.add_argument("--mirror", default="", help="a folder or URL that has the files by path")
    options = parser.parse_args(arguments)
    try:
        mirror = WeightsSource.parse(options.mirror, "--mirror") if options.mirror else None
    except ConfigInvalid as error:
        say(str(error))
        return 2
    failed = fetch(Fetch(root=options.into, mirror=mirror), manifest(), say)
    say(f"{failed} files could not be brought: call it again" if failed else "done")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
