"""The worker's side of the kind ``python``: volumes, the function, labels.

Functions of a model's own folder are read once, held to their hashes, and run as those very bytes. The
files that ``runner.code`` lists are the modules of one package, so that one may import another
(``from . import shapes``). Nothing else of the folder can be imported, and no compiled file is read or
written. The package is named by what is in it: a changed file is another package.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from node.domain.errors import JobFailed, JobRefused
from node.domain.result import LabelArray
from node.infer.assets import Kept, check_assets
from node.infer.python.spec import PythonPart
from node.infer.registry import ModelSpec
from node.infer.report import Report
from node.infer.run_context import ModelOutput, RunContext, SeriesInput, read_volumes
from node.infer.volume import Volume

Entry = Callable[[ModelSpec, Mapping[str, Volume], RunContext, Report], LabelArray]


def warm(spec: ModelSpec, weights_dir: Path, device: str, kept: Kept) -> None:
    """Import the entry.

    Raises:
        JobFailed: It is not there.
    """
    del weights_dir, device, kept
    entry_of(spec)


check = warm


def run(
    spec: ModelSpec, inputs: Mapping[str, SeriesInput], context: RunContext, report: Report
) -> ModelOutput:
    """Call the model's entry with its volumes; its weights, if it has any, are the right ones."""
    entry = entry_of(spec)
    check_assets(spec, context.weights_dir, hashes=context.kept.hashes)
    read = read_volumes(spec, inputs, report)
    with report.stage("infer"):
        labels = entry(spec, read.volumes, context, report)
    return ModelOutput(labels=labels, padding=read.padding.get(spec.grid_role))


def entry_of(spec: ModelSpec) -> Entry:
    """The function of a model.

    Raises:
        JobRefused: It is not there, or its file is not the declared one.
    """
    settings = spec.runner
    if not isinstance(settings, PythonPart):
        raise TypeError(f"{spec.name} is no model in Python")
    where, _, name = settings.entry.partition(":")
    is_own = settings.is_own_code
    module = _own_module(settings, spec.folder) if is_own else importlib.import_module(where)
    entry: Entry | None = getattr(module, name, None)
    if not callable(entry):
        raise JobRefused(f"{where} has no function {name}")
    return entry


def _own_module(settings: PythonPart, folder: Path) -> ModuleType:
    """The file of a model's folder that the entry names, imported.

    Raises:
        JobRefused: A file is not the declared one, or cannot be imported.
    """
    path = settings.entry.partition(":")[0]
    try:
        return _import(_checked_sources(settings, folder), folder, Path(path).stem)
    except JobFailed:
        raise
    except Exception as error:
        raise JobRefused(f"{path} cannot be imported: {type(error).__name__}: {error}") from error


def _checked_sources(settings: PythonPart, folder: Path) -> dict[str, bytes]:
    """Module name -> source, every file held to its hash before any of it runs."""
    sources = {}
    for each in settings.code:
        path = folder / each.path
        source = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(source).hexdigest() != each.sha256:
            raise JobRefused(
                f"{each.path} is not the file with the sha256 in model.yaml: it was not run"
            )
        sources[path.stem] = source
    return sources


def _import(sources: Mapping[str, bytes], folder: Path, name: str) -> ModuleType:
    identity = hashlib.sha256(str(folder).encode())
    for module, source in sorted(sources.items()):
        identity.update(module.encode() + hashlib.sha256(source).digest())
    package = f"segnode_model_{identity.hexdigest()[:16]}"
    if package not in sys.modules:
        found = ModuleType(package)
        found.__path__ = []
        sys.modules[package] = found
        sys.meta_path.append(_OwnCode(package, sources, folder))
    return importlib.import_module(f"{package}.{name}")


class _OwnCode(MetaPathFinder, SourceLoader):  # type: ignore[misc]  # of typeshed
    """The modules of one package among sources in memory; their paths are for tracebacks."""

    def __init__(self, package: str, sources: Mapping[str, bytes], folder: Path) -> None:
        self._package, self._sources, self._folder = package, sources, folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module ``<package>.<name>``, where there is a source of that name."""
        del path, target
        package, _, name = fullname.rpartition(".")
        if package != self._package or name not in self._sources:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self.get_filename(fullname))

    def get_filename(self, fullname: str) -> str:
        """Where its source lies."""
        return str(self._folder / f"{fullname.rpartition('.')[2]}.py")

    def get_data(self, path: Any) -> bytes:
        """The source, whatever the disk holds by now; no compiled file is looked for."""
        return self._sources[Path(path).stem]
