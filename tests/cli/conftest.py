"""The command line in this process, and a data folder that a real run left behind."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import MRImageStorage

from node import cli
from tests.support.phantoms import Phantom

CHEST = Phantom(shape=(12, 56, 72), spacing_mm=(16.0, 4.0, 4.5))
FLAT = Phantom(shape=(12, 56, 72), series="flat", attributes=(("FrameOfReferenceUID", None),))
MAGNETIC = Phantom(
    shape=(4, 24, 24),
    series="mr",
    attributes=(("Modality", "MR"), ("SOPClassUID", MRImageStorage)),
)


@dataclass(frozen=True)
class Answer:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Segnode = Callable[..., Answer]


@pytest.fixture
def segnode(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Segnode:
    """``segnode`` as a user calls it, from an empty working folder."""
    monkeypatch.delenv("SEGNODE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["segnode", *(str(each) for each in arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


def write_mixed_folder(folder: Path) -> None:
    """A CT, a CT that is no volume in space, an MR, and a file that is cut off."""
    CHEST.write(folder / "chest")
    FLAT.write(folder / "flat")
    MAGNETIC.write(folder / "mr")
    whole = CHEST.files()[0]
    (folder / "broken.dcm").write_bytes(whole[: len(whole) * 6 // 10])


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of ``segnode run`` over a mixed folder; look, do not touch."""
    root = tmp_path_factory.mktemp("run")
    write_mixed_folder(root / "in")
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["segnode", "run", str(root / "in"), str(root / "out")])
    try:
        with pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        patch.undo()
    assert not end.value.code
    return root / "out"


@pytest.fixture
def config(finished_run: Path, tmp_path: Path) -> Path:
    """A configuration of a node whose data folder is a copy of that run's state."""
    shutil.copytree(finished_run / ".segnode", tmp_path / "data")
    (tmp_path / "shelf").mkdir()
    path = tmp_path / "node.yaml"
    path.write_text(
        """
data_dir: data
storage: {reserve_gb: 0, max_used_percent: 100}
destinations: {shelf: {kind: folder, path: shelf}}
rules:
  - {name: ct, when: {Modality: CT}, run: ct_tissue, send: [shelf]}
"""
    )
    return path
