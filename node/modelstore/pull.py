"""Bringing the files of a model to this machine: the only code that fetches any, on command only.

Asset PATH of the model NAME goes to ``weights_dir/NAME/PATH``, by way of a ``.part`` file that is
checked and synced before it takes that name, so that no run ever sees half a file. Facts of what
came (sha256, from where, when) go to ``weights_dir/NAME/pulled.json``; see ``node.infer.assets``.

Files come from one place and no other: where ``--from`` says, else from the configured mirror, else
from the publishers' own URLs. A folder or mirror holds ``NAME/PATH``, as a weights_dir does, or
``PATH``; a folder may also hold a file under the name that its publisher's URL ends with.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeAlias
from urllib.parse import quote, unquote, urlsplit

from node.domain.errors import ConfigInvalid, NodeError
from node.infer.assets import (
    Asset,
    record_asset,
    recorded_sha256,
    sha256_of,
    sync_folder,
)
from node.infer.registry import ModelSpec
from node.modelstore.download import (
    Download,
    FetchFailed,
    Progress,
    disk_sentence,
    forget_part,
    require_space,
    shown,
)

_CHUNK_BYTES = 1 << 20
_LOCK = ".pull.lock"
_POINTER = b"version https://git-lfs."
_OWN_MODE = 0o644

Place: TypeAlias = str | Path


class Watcher(Progress, Protocol):
    """Told what happens to each file."""

    def starts(self, asset: Asset, place: str) -> None:
        """A file is about to be brought from there."""

    def ends(self, asset: Asset, *, was_there: bool) -> None:
        """A file is there and good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSource:
    """Where files come from; neither a folder nor a base: the publishers' own URLs."""

    folder: Path | None = None
    base: str = ""

    @classmethod
    def parse(cls, text: str, option: str) -> WeightsSource:
        """A folder, a ``file://`` URL of one, or the URL below which files are.

        Args:
            option: What a mistake is told under.
        Raises:
            ConfigInvalid: It is none of these.
        """
        scheme = urlsplit(text).scheme if "://" in text else ""
        if scheme in ("http", "https"):
            return cls(base=text.rstrip("/"))
        if scheme not in ("", "file"):
            raise ConfigInvalid(
                [(option, f"{scheme}:// is not known: use a folder, http or https")]
            )
        folder = _local(text) if scheme else Path(text).expanduser().absolute()
        if not folder.is_dir():
            raise ConfigInvalid([(option, f"{folder} is not a folder")])
        return cls(folder=folder)

    def places(self, name: str, asset: Asset) -> list[Place]:
        """Where a file of a model may lie, best first."""
        if self.base:
            return [f"{self.base}/{quote(path)}" for path in (f"{name}/{asset.path}", asset.path)]
        if self.folder is None:
            is_local = urlsplit(asset.url).scheme == "file"
            return [_local(asset.url) if is_local else asset.url]
        found: list[Place] = [self.folder / name / asset.path, self.folder / asset.path]
        if asset.sha256 or asset.md5:  # so that a name alone never decides
            found.append(self.folder / PurePosixPath(unquote(urlsplit(asset.url).path)).name)
        return list(dict.fromkeys(found))


def pull(
    model: ModelSpec,
    weights_dir: Path,
    origin: WeightsSource,
    download: Download,
    watcher: Watcher,
) -> int:
    """Bring what a model lacks, or has wrong; returns how many files were brought.

    Raises:
        NodeError: One could not be brought, with one sentence; those before it are there.
    """
    folder = weights_dir / model.name
    brought = 0
    with _locked(folder, model.name):
        for asset in (*model.files, *model.weights):
            was_there = _is_good(asset, folder)
            if not was_there:
                places = origin.places(model.name, asset)
                place, sha256 = _bring(asset, folder, places, download, watcher)
                _record(folder, asset, sha256, place)
                brought += 1
            watcher.ends(asset, was_there=was_there)
    return brought


def licence_sentences(model: ModelSpec, accepted: Collection[str]) -> Iterator[str]:
    """What whoever pulls these weights must know of their licences."""
    for licence in dict.fromkeys(asset.licence for asset in model.weights):
        is_free = all(asset.commercial_use for asset in model.weights if asset.licence == licence)
        if is_free:
            yield f"licence of the weights: {licence}"
        elif licence in accepted:
            yield f"licence of the weights: {licence}, no commercial use; accepted here"
        else:
            yield (
                f"licence of the weights: {licence}, no commercial use; nothing runs with them"
                f" before you have read it and accept_licences in the configuration names {licence!r}"
            )


def _is_good(asset: Asset, folder: Path) -> bool:
    """Whether the right file is there; one that somebody put there by hand is recorded."""
    path = folder / asset.path
    if not path.is_file():
        return False
    sha256 = sha256_of(path)
    if asset.sha256:
        return sha256 == asset.sha256
    if recorded_sha256(folder, asset) == sha256:
        return True
    if asset.md5 and _md5_of(path) == asset.md5:
        _record(folder, asset, sha256, "found here")
        return True
    return False


def _bring(
    asset: Asset, folder: Path, places: list[Place], download: Download, watcher: Watcher
) -> tuple[str, str]:
    """Put the file in its place; returns where it came from and its sha256."""
    target = folder / asset.path
    part = target.with_name(target.name + ".part")
    failures: list[FetchFailed] = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for place in places:
            try:
                sha256 = _bring_from(place, asset, part, download, watcher)
            except FetchFailed as failure:
                failures.append(failure)
                if isinstance(place, str) and not failure.is_absent:
                    break
                continue
            part.chmod(_OWN_MODE)
            part.replace(target)
            forget_part(part)
            sync_folder(target.parent)
            return _shown(place), sha256
    except OSError as error:
        raise FetchFailed(disk_sentence(error, target)) from None
    raise _worst(failures, f"{asset.path} of {folder.name}", places)


def _bring_from(
    place: Place, asset: Asset, part: Path, download: Download, watcher: Watcher
) -> str:
    """The file at ``part``, held to its hash; returns its sha256."""
    has_hash = bool(asset.sha256 or asset.md5)
    was_begun = isinstance(place, str) and part.is_file()
    if isinstance(place, str):
        if urlsplit(place).scheme not in ("http", "https"):
            raise FetchFailed(f"{shown(place)}: only http, https and file are known")
        watcher.starts(asset, _shown(place))
        download.bring(place, part, has_hash=has_hash)
    else:
        if not place.is_file():
            raise FetchFailed(f"{place} is not there", is_absent=True)
        watcher.starts(asset, _shown(place))
        _copy(place, part, watcher)
    mistake, sha256 = _judge(asset, part)
    if not mistake:
        return sha256
    forget_part(part)
    if was_begun:  # perhaps two states of the file were joined: once more, from its first byte
        return _bring_from(place, asset, part, download, watcher)
    raise FetchFailed(
        f"{_shown(place)} is not the file that the model names: {mistake}; it was not kept"
    )


def _judge(asset: Asset, part: Path) -> tuple[str, str]:
    """What is wrong with a file, or nothing; and its sha256."""
    with part.open("rb") as file:
        is_pointer = file.read(len(_POINTER)) == _POINTER
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if is_pointer:
        return "it is a pointer of Git LFS, which stands for a file elsewhere", sha256
    if asset.sha256 and sha256 != asset.sha256:
        return f"its sha256 is {sha256[:12]}..., not {asset.sha256[:12]}...", sha256
    if asset.md5 and (md5 := _md5_of(part)) != asset.md5:
        return f"its md5 is {md5}, not {asset.md5}", sha256
    return "", sha256


def _copy(source: Path, part: Path, watcher: Watcher) -> None:
    size_bytes = source.stat().st_size
    require_space(part.parent, size_bytes)
    forget_part(part)
    watcher.begin(0, size_bytes)
    with source.open("rb") as given, part.open("wb") as file:
        while chunk := given.read(_CHUNK_BYTES):
            file.write(chunk)
            watcher.advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Keep a second pull of the same model out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("w")
    except OSError as error:
        raise FetchFailed(disk_sentence(error, folder)) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeError(f"another pull of {name} is under way") from None
        yield


def _worst(failures: list[FetchFailed], what: str, places: list[Place]) -> FetchFailed:
    """The failure that says most: a wrong or unreachable file before one that is not there."""
    for failure in reversed(failures):
        if not failure.is_absent:
            return failure
    if len(places) == 1:
        return failures[0]
    return FetchFailed(f"{what} is not there: neither {' nor '.join(map(_shown, places))}")


def _record(folder: Path, asset: Asset, sha256: str, source: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record_asset(folder, asset, sha256=sha256, source=source, at=now)


def _shown(place: Place) -> str:
    return shown(place) if isinstance(place, str) else str(place)


def _local(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
