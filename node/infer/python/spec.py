"""What ``model.yaml`` says to the runner kind ``python``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from node.infer.revision import NoRevision, revision_of, source_of
from node.infer.runner_part import Mistake, Part, RunnerPart

if TYPE_CHECKING:
    from node.infer.model_file import ModelFile

_IN_PACKAGE = re.compile(r"node\.infer\.[a-z0-9_.]+:[a-z][a-z0-9_]*")
_IN_FOLDER = re.compile(r"[a-z][a-z0-9_]*\.py:[a-z][a-z0-9_]*")


class CodePart(Part):
    """A file of Python beside model.yaml."""

    path: str = Field(pattern=r"^[a-z][a-z0-9_]*\.py$")
    sha256: str


class PythonPart(RunnerPart):
    """A function: ``node.infer.<module>:<function>``, or ``FILE.py:<function>`` of the model's folder.

    ``code`` are all files of the folder that may run, each with its sha256.
    """

    REVISION: ClassVar[int] = 1
    WORKER: ClassVar[str] = "node.infer.python.runner:run"

    kind: Literal["python"]
    code: list[CodePart] = []

    @property
    def is_own_code(self) -> bool:
        """Whether the function stands in a file of the model's folder."""
        return _IN_FOLDER.fullmatch(self.entry) is not None

    def mistakes(self, file: ModelFile, folder: Path) -> Iterator[Mistake]:
        """An entry that is not there, and code that is not the declared one."""
        del file
        where, _, name = self.entry.partition(":")
        if _IN_PACKAGE.fullmatch(self.entry):
            try:
                revision_of(where)
                if re.search(rf"\b{name}\b", source_of(where)) is None:
                    yield "runner.entry", f"{where} has no function {name}"
            except NoRevision as error:
                yield "runner.entry", str(error)
        elif not self.is_own_code:
            yield (
                "runner.entry",
                f"{self.entry!r} is not node.infer.<module>:<function> or FILE.py:<function>",
            )
        elif where not in {each.path for each in self.code}:
            yield "runner.entry", f"{where} is not among runner.code, with its sha256"
        for index, each in enumerate(self.code):
            path = folder / each.path
            if not path.is_file():
                yield f"runner.code.{index}.path", f"{each.path} is not in the model's folder"
                continue
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != each.sha256:
                yield (
                    f"runner.code.{index}.sha256",
                    f"{each.path} has the sha256 {found}: write that here if you trust the file",
                )

    def modules(self) -> Iterator[str]:
        """The module of the entry; own code is told by the hashes in model.yaml."""
        if not self.is_own_code:
            yield self.entry.partition(":")[0]
