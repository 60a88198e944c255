"""What a worker tells its child to do; importing it costs neither of them an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from node.domain.result import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFiles:
    """The files of one input series: SOP Instance UID -> path of the newest version."""

    role: str
    series_instance_uid: str
    files: Mapping[str, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """All that a child needs to know to do a job; plain values, so that it travels as JSON.

    Args:
        forms: What the result is made into.
    """

    job_key: str
    model_folder: Path
    model_digest: str
    parameters: Mapping[str, Any]
    inputs: tuple[InputFiles, ...]
    folder: Path
    weights_dir: Path
    forms: tuple[str, ...]
    provenance: Provenance

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "job_key": self.job_key,
            "model_folder": str(self.model_folder),
            "model_digest": self.model_digest,
            "parameters": dict(self.parameters),
            "inputs": [
                {
                    "role": each.role,
                    "series_instance_uid": each.series_instance_uid,
                    "files": {uid: str(path) for uid, path in each.files.items()},
                }
                for each in self.inputs
            ],
            "folder": str(self.folder),
            "weights_dir": str(self.weights_dir),
            "forms": list(self.forms),
            "provenance": asdict(self.provenance),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> JobOrder:
        """The order that ``to_json`` was made of."""
        inputs = tuple(
            InputFiles(
                role=each["role"],
                series_instance_uid=each["series_instance_uid"],
                files={uid: Path(path) for uid, path in each["files"].items()},
            )
            for each in body["inputs"]
        )
        return cls(
            **{
                **body,
                "model_folder": Path(body["model_folder"]),
                "folder": Path(body["folder"]),
                "weights_dir": Path(body["weights_dir"]),
                "inputs": inputs,
                "forms": tuple(body["forms"]),
                "provenance": Provenance(**body["provenance"]),
            }
        )
