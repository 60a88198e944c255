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
from pathlib import Path
from typing import Any

import numpy as np

from node.domain.errors import JobFailed
from node.domain.result import LabelArray, LabelCounts
from node.infer.assets import sync_folder

_LABELS = "labels.npy"
_FACTS = "facts.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a zip archive can name


def write_labels(path: Path, counts: LabelCounts, facts: Mapping[str, Any]) -> str:
    """Write labels and what is known of them; durable and whole when this returns its sha256.

    Args:
        counts: Of the labels, with them.
        facts: Plain values kept beside the labels, such as model and job key.
    """
    body = json.dumps({"facts": dict(facts), **_told_of(counts)}, sort_keys=True)
    part = path.with_name(path.name + ".part")
    with part.open("w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(_member(_LABELS), "w", force_zip64=True) as member:
                descr = np.lib.format.dtype_to_descr(counts.labels.dtype)
                head = {"descr": descr, "fortran_order": False, "shape": counts.labels.shape}
                np.lib.format.write_array_header_1_0(member, head)
                for plane in counts.labels:  # a copy of them all is not for this to make
                    member.write(np.ascontiguousarray(plane).data)
            archive.writestr(_member(_FACTS), body)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    part.replace(path)
    sync_folder(path.parent)
    return sha256


def read_labels(path: Path) -> tuple[LabelArray, dict[str, Any]]:
    """The labels of a file and the facts written with them.

    Raises:
        JobFailed: The file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            written = json.loads(archive.read(_FACTS))
            with archive.open(_LABELS) as member:
                labels: LabelArray = np.lib.format.read_array(member, allow_pickle=False)
                member.read(1)  # the end of the member is where its CRC is checked
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError) as error:
        raise JobFailed(f"the label file {path.name} is damaged") from error
    facts = written.pop("facts")
    if written != _told_of(LabelCounts.of(labels)):
        raise JobFailed(f"the label file {path.name} does not hold what was written")
    return labels, facts


def _told_of(counts: LabelCounts) -> dict[str, Any]:
    voxels = {str(value): number for value, number in counts.totals.items()}
    labels = counts.labels
    return {"shape": list(labels.shape), "dtype": str(labels.dtype), "voxels": voxels}


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    member._compresslevel = 1  # type: ignore[attr-defined]
    return member
