"""Files that a model needs beyond its folder: declared in model.yaml, pulled once, checked each run.

``Kept`` is what a child keeps of them, and of what was loaded from them, until it ends.

Asset PATH of the model NAME lies in ``weights_dir/NAME/PATH``. Where a publisher gives no hash, or
only an md5, the pull writes the sha256 it saw into ``weights_dir/NAME/pulled.json``, and runs hold
the file to that. Such a record is of one declared file: when model.yaml names another md5 or URL, the
file must be pulled anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from node.domain.errors import JobRefused

if TYPE_CHECKING:  # a child that does not run models does not wait for pydantic
    from node.infer.registry import ModelSpec

T = TypeVar("T")

PULLED = "pulled.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file: where it is from, what it must be, and what may be done with it.

    Args:
        path: Relative, below the model's own folder of pulled files.
        sha256: Empty where the publisher does not tell it.
        md5: Of files whose publisher tells only that.
        licence: Of weights; empty for a bundle's configuration and code.
    """

    path: str
    url: str
    sha256: str = ""
    md5: str = ""
    licence: str = ""
    commercial_use: bool = True

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts:
            raise ValueError(f"{self.path!r} is not a path below the model's folder")

    @property
    def identity(self) -> str:
        """What tells this file from another in the model's digest."""
        return self.sha256 or self.md5 or self.url


class FileHashes:
    """Digests of files; one that did not change since it was read is not read again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, int, str]] = {}  # modified, size, sha256

    def of(self, path: Path) -> str:
        """The sha256 of a file."""
        status = path.stat()
        key = path.resolve()
        known = self._known.get(key)
        if known is not None and known[:2] == (status.st_mtime_ns, status.st_size):
            return known[2]
        digest = sha256_of(path)
        self._known[key] = (status.st_mtime_ns, status.st_size, digest)
        return digest


class Kept:
    """One loaded network, since they are large, models as read, and hashes of unchanged files.

    The child's main makes it and hands it to every request; whoever runs without a child has one of
    its own for each run.
    """

    def __init__(self) -> None:
        self.hashes = FileHashes()
        self._models: dict[Path, ModelSpec] = {}
        self._network: tuple[Hashable, Any] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no network is kept."""
        return self._network is None

    def model(self, folder: Path, load: Callable[[Path], ModelSpec], digest: str = "") -> ModelSpec:
        """The model of a folder as it was read before, where that has this digest; else read anew."""
        found = self._models.get(folder)
        if found is None or found.digest != digest:
            found = self._models[folder] = load(folder)
        return found

    def network(self, key: Hashable, load: Callable[[], T], make_room: Callable[[], None]) -> T:
        """The network of this key, loaded where another one is kept, or none.

        Args:
            make_room: Called before the load, when the other one is gone.
        """
        if self._network is None or self._network[0] != key:
            self.drop_network()
            make_room()
            self._network = (key, load())
        found: T = self._network[1]
        return found

    def drop_network(self) -> None:
        """Let go of what is kept."""
        self._network = None


def missing_assets(model: ModelSpec, weights_dir: Path) -> list[Asset]:
    """What ``models pull`` still has to bring; looks for the files, not into them."""
    folder = weights_dir / model.name
    assets = (*model.files, *model.weights)
    return [asset for asset in assets if not (folder / asset.path).is_file()]


def locked_licences(model: ModelSpec, accepted: Collection[str]) -> list[str]:
    """Licences that forbid commercial use and that nobody has accepted."""
    return sorted(
        {a.licence for a in learned(model) if not a.commercial_use and a.licence not in accepted}
    )


def learned(model: ModelSpec) -> tuple[Asset, ...]:
    """What may have a licence of its own: weights, or the image that holds them."""
    return (*model.weights, *([model.image] if model.image else []))


def check_assets(
    model: ModelSpec,
    weights_dir: Path,
    paths: Collection[str] | None = None,
    *,
    hashes: FileHashes | None = None,
) -> dict[str, Path]:
    """The files by their declared path, each held to its hash.

    Args:
        paths: Which of them; all by default.
        hashes: Of files that were read before.
    Raises:
        JobRefused: One is missing, or is not the one that was declared or pulled.
    """
    folder = weights_dir / model.name
    hashes = hashes or FileHashes()
    checked: dict[str, Path] = {}
    for asset in (*model.files, *model.weights):
        if paths is not None and asset.path not in paths:
            continue
        path = checked[asset.path] = folder / asset.path
        expected = asset.sha256 or recorded_sha256(folder, asset)
        pull = f"segnode models pull {model.name}"
        if not path.is_file():
            fault = f"is missing: {pull}"
        elif not expected:
            fault = f"was not brought by {pull}: nothing says that it is the right file"
        elif hashes.of(path) != expected:
            fault = f"is not the file with the hash that is expected: {pull} brings it anew"
        else:
            continue
        raise JobRefused(f"{asset.path} of {model.name} {fault}")
    return checked


def recorded_sha256(folder: Path, asset: Asset) -> str:
    """What the pull saw of a file as it is declared now; empty where it brought none."""
    record = _records(folder).get(asset.path)
    if not isinstance(record, dict) or record.get("identity") != asset.identity:
        return ""
    return str(record.get("sha256", ""))


def record_asset(folder: Path, asset: Asset, *, sha256: str, source: str, at: str) -> None:
    """Write down what came, from where and when.

    Args:
        folder: Of the model, below weights_dir.
    """
    record = {"sha256": sha256, "identity": asset.identity, "source": source, "at": at}
    record["licence"] = asset.licence
    write_json(folder / PULLED, {**_records(folder), asset.path: record})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small file so that it is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _records(folder: Path) -> dict[str, Any]:
    try:
        body = json.loads((folder / PULLED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
