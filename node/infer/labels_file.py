"""The label volume of a job as one durable file.

A zip archive of ``labels.npy`` and ``facts.json``, deflated at level 1: labels shrink a hundredfold
and every member carries a CRC-32. The same labels and facts give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from node.domain.errors import JobFailed
from node.domain.result import LabelArray
from node.infer.assets import sync_folder

_LABELS = "labels.npy"
_FACTS = "facts.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a zip archive can name
_HASH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsFile:
    """A label file that is on the disk for good.

    Args:
        voxels: Label value -> number of voxels; background and absent labels are left out.
    """

    path: Path
    size_bytes: int
    sha256: str
    voxels: Mapping[int, int]


def count_voxels(labels: LabelArray) -> dict[int, int]:
    """Label value -> number of voxels, without background."""
    counts = np.zeros(int(np.iinfo(labels.dtype).max) + 1, np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=counts.size)
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts) if value}


def write_labels(path: Path, labels: LabelArray, facts: Mapping[str, Any]) -> LabelsFile:
    """Write labels and what is known of them; durable and whole when this returns.

    Args:
        facts: Plain values kept beside the labels, such as model and job key.
    """
    voxels = count_voxels(labels)
    own = {"shape": list(labels.shape), "dtype": str(labels.dtype), "voxels": _text_keys(voxels)}
    part = path.with_name(path.name + ".part")
    with part.open("w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(_member(_LABELS), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(labels), allow_pickle=False)
            body = json.dumps({"facts": dict(facts), **own}, sort_keys=True)
            archive.writestr(_member(_FACTS), body)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(_HASH_BYTES):
            digest.update(block)
        size_bytes = file.tell()
    part.replace(path)
    sync_folder(path.parent)
    return LabelsFile(path=path, size_bytes=size_bytes, sha256=digest.hexdigest(), voxels=voxels)


def read_labels(path: Path) -> tuple[LabelArray, dict[str, Any]]:
    """The labels of a file and the facts written with them.

    Raises:
        JobFailed: The file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read(_FACTS))
            with archive.open(_LABELS) as member:
                labels: LabelArray = np.lib.format.read_array(member, allow_pickle=False)
                member.read(1)  # the end of the member is where its CRC is checked
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError) as error:
        raise JobFailed(f"the label file {path.name} is damaged") from error
    written = (tuple(facts["shape"]), facts["dtype"], facts["voxels"])
    if written != (labels.shape, str(labels.dtype), _text_keys(count_voxels(labels))):
        raise JobFailed(f"the label file {path.name} does not hold what was written")
    return labels, facts["facts"]


def _text_keys(voxels: Mapping[int, int]) -> dict[str, int]:
    return {str(value): count for value, count in voxels.items()}


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    member._compresslevel = 1  # type: ignore[attr-defined]
    return member
