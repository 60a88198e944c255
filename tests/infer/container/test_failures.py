"""What an engine or a container fails with: told with the place of its log, and tried again only where that helps.

The engine is a program of the test, so that each of its failures can be had; real ones are asked in
the long tests.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from node.domain.errors import JobFailed
from node.infer.container import container_process
from node.infer.container.engine import ENGINE_VARIABLE
from node.infer.registry import ModelSpec, load_model
from node.infer.report import Stopwatch
from node.infer.run_context import run_model
from tests.support.node_in_process import MODELS_PROBE
from tests.support.phantoms import Phantom
from tests.support.rooms import given_files, room

ENGINE = """#!/bin/sh
here="$(dirname "$0")"
case "$1" in
  image) echo '[{"Id": "sha256:aa"}]' ;;
  create) cat "$here/create" >&2; [ ! -s "$here/create" ] || exit 125 ;;
  start) cat "$here/start"; exit 1 ;;
  inspect) cat "$here/state" ;;
  cp) tar -c -f - -T /dev/null ;;
esac
"""
NEVER = "0001-01-01T00:00:00Z"
BEGAN, SOON, LATER = (f"2026-11-28T00:{at}.5Z" for at in ("00:00", "00:02", "09:00"))


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an engine; files in it say how each of its commands ends."""
    folder = tmp_path / "engine"
    folder.mkdir()
    program = folder / "podman"
    program.write_text(ENGINE)
    program.chmod(0o755)
    (folder / "create").write_text("")
    (folder / "start").write_text("")
    monkeypatch.setenv(ENGINE_VARIABLE, str(program))
    return folder


def state(folder: Path, code: int, *, began: str = BEGAN, ended: str = LATER) -> None:
    found = {"ExitCode": code, "OOMKilled": False, "StartedAt": began, "FinishedAt": ended}
    (folder / "state").write_text(json.dumps(found))


def container_model(folder: Path) -> ModelSpec:
    shutil.copytree(MODELS_PROBE / "probe", folder / "probe")
    content = {
        "name": "probe",
        "version": "1",
        "title": "A container",
        "inputs": {"image": {}},
        "runner": {"kind": "container", "entry": "mhubai/x"},
    }
    (folder / "probe" / "model.yaml").write_text(json.dumps(content))
    return load_model(folder / "probe")


def failure(tmp_path: Path) -> JobFailed:
    inputs = {"image": given_files(Phantom(shape=(3, 20, 20)), tmp_path / "series")}
    with pytest.raises(JobFailed) as failed:
        run_model(container_model(tmp_path / "models"), inputs, room(tmp_path), Stopwatch())
    return failed.value


@pytest.mark.parametrize(
    ("said", "is_permanent"),
    [
        ("Error: mhubai/x: image not known", True),
        ("docker: Error response from daemon: No such image: sha256:aa.", True),
        ("Error: unknown flag: --gpu", True),
        ("could not select device driver '' with capabilities: [[gpu]]", True),
        ("Error: unresolvable CDI devices nvidia.com/gpu=all", True),
        ("Cannot connect to the Docker daemon. Is the docker daemon running?", False),
        ("Error: database is locked", False),
    ],
)
def test_a_container_that_cannot_be_made(
    engine: Path, tmp_path: Path, said: str, is_permanent: bool
) -> None:
    (engine / "create").write_text(said)
    state(engine, 0, began=NEVER)

    failed = failure(tmp_path)

    assert (failed.reason, failed.permanent) == (f"podman create failed: {said}", is_permanent)


@pytest.mark.parametrize(
    ("said", "is_permanent"),
    [
        ("OCI runtime error: crun: open executable: Permission denied", True),
        ('exec: "run": executable file not found in $PATH', True),
        ("exec /app/run: exec format error", True),
        ("Error: unable to start container: cgroup is busy", False),
    ],
)
def test_a_container_that_does_not_start(
    engine: Path, tmp_path: Path, said: str, is_permanent: bool
) -> None:
    (engine / "start").write_text(said)
    state(engine, 0, began=NEVER)

    failed = failure(tmp_path)

    log = tmp_path / "run.log"
    assert failed.reason == f"podman could not start the container; its log says why: {log}"
    assert log.read_text() == said
    assert failed.permanent is is_permanent


def test_a_clock_that_is_set_back_while_a_container_runs_drops_none_of_its_files_unsaid(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = iter([0.0, -3600.0])
    monkeypatch.setattr(container_process, "_clock_s", lambda: next(shown))
    state(engine, 0)

    failed = failure(tmp_path)

    assert "the clock was set back by 3600 s" in failed.reason
    assert not failed.permanent


@pytest.mark.parametrize(
    ("code", "ended", "said", "is_permanent"),
    [
        (126, LATER, "", True),
        (127, LATER, "", True),
        (255, LATER, "exec /app/run: Exec format error", True),
        (1, SOON, "unknown workflow", True),
        (1, LATER, "CUDA out of memory", False),
        (0, LATER, "", True),
    ],
)
def test_a_container_that_ends_without_a_file(
    engine: Path, tmp_path: Path, code: int, ended: str, said: str, is_permanent: bool
) -> None:
    (engine / "start").write_text(said)
    state(engine, code, ended=ended)

    failed = failure(tmp_path)

    assert failed.reason == (
        f"the container ended with exit code {code} and wrote no file; its log says why:"
        f" {tmp_path / 'run.log'}"
    )
    assert failed.permanent is is_permanent
