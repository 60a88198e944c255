"""``segnode`` as a program of its own, of this package or of a changed copy of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, kw_only=True)
class Command:
    """Runs commands in a folder.

    Args:
        package: The folder that holds the package ``node``.
    """

    folder: Path
    package: Path = REPOSITORY

    def __call__(self, *arguments: object, **environment: str) -> Said:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "node", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.package), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return Said(code=done.returncode, out=done.stdout, err=done.stderr)


def copy_of_package(folder: Path) -> Path:
    """A copy of the package that a test may add to; the models are those of the repository."""
    shutil.copytree(REPOSITORY / "node", folder / "node", ignore=shutil.ignore_patterns("*.pyc"))
    (folder / "models").symlink_to(REPOSITORY / "models")
    return folder
