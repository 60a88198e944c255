"""TensorRT by way of MONAI's own ``trt_export``: what it is told, and what it needs.

Nothing heavy is imported here, so that what is missing is told wherever it is missing.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.domain.errors import JobFailed
from node.infer.bundle.spec import settings_of
from node.infer.registry import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRT:
    """MONAI's ``trt_export``."""

    precision: str
    options: Mapping[str, object]

    @property
    def engine(self) -> str:
        """Goes into results."""
        return f"tensorrt {self.precision}"

    def require(self, device: str) -> None:
        """Torch-TensorRT and a GPU that it can use.

        Raises:
            JobFailed: With all that is missing.
        """
        absent = [
            f"{package} is not installed"
            for package in ("torch", "monai", "torch_tensorrt", "fire")
            if importlib.util.find_spec(package) is None
        ]
        if not device.startswith("cuda") or not _sees_gpu():
            absent.append("no CUDA GPU can be used")
        if absent:
            raise JobFailed(
                f"TensorRT needs more than there is: {', '.join(absent)}", permanent=True
            )

    def arguments(self, device: str) -> Mapping[str, object]:
        """What it is told beside the network, its weights and where to write: as the publisher says."""
        number = int(device.partition(":")[2] or 0)
        return {"device": number, **self.options, "precision": self.precision}

    def export(self, arguments: Path, root: Path, log: Path) -> int:
        """Export as a file of arguments says, in a process of its own: it takes GPU memory, and may die.

        Args:
            root: Of the bundle, whose code the network may need.
            log: Gets all that is said.
        Returns:
            The exit code.
        """
        with log.open("wb") as file:
            ended = subprocess.run(  # noqa: S603 - our own interpreter and MONAI's module
                [
                    sys.executable,
                    *("-P", "-m", "monai.bundle"),
                    *("trt_export", "--args_file", str(arguments)),
                ],
                check=False,
                cwd=arguments.parent,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)]),
                },
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return ended.returncode


def exporter_of(spec: ModelSpec, precision: str) -> TensorRT:
    """How a model is exported, as its model.yaml says.

    Raises:
        JobFailed: It does not say; permanent.
    """
    options: Mapping[str, Any] | None = settings_of(spec).trt_export
    if options is None:
        raise JobFailed(
            f"{spec.name} cannot be exported: its model.yaml has no runner.trt_export",
            permanent=True,
        )
    return TensorRT(precision=precision, options=options)


def _sees_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
