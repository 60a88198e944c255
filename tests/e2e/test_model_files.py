"""A model whose files are missing or wrong, or whose licence nobody accepted, never runs.

Its job ends with one sentence, nothing leaves for it, the worker does the next job, and no socket is
opened to fetch what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_in_process import MODELS_PROBE, NodeInProcess, SharedWorker, node_in_process
from tests.support.phantoms import Phantom

CT = Phantom(shape=(12, 64, 64), spacing_mm=(16.0, 5.0, 5.0))
WEIGHTS = b"what was learned"

# tells of every address that a process or one of its children connects to, or asks the name of
WATCH = """
import os, sys
def watch(event, arguments):
    if event == "socket.getaddrinfo" or (
        event == "socket.connect" and isinstance(arguments[1], tuple)
    ):
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {arguments[-1]}\\n")
sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[SharedWorker]:
    worker = SharedWorker()
    yield worker
    worker.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The model ``learned``: that of the tests, with weights that may not be used commercially."""
    folder = tmp_path / "models" / "learned"
    shutil.copytree(MODELS_PROBE / "probe", folder)
    weights = {
        "path": "models/learned.bin",
        "url": "http://127.0.0.1:1/learned.bin",
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
        "licence": "Research-Only",
        "commercial_use": False,
    }
    path = folder / "model.yaml"
    text = path.read_text().replace("name: probe", "name: learned")
    path.write_text(f"{text}\nweights: [{json.dumps(weights)}]\n")
    return tmp_path / "models"


def put_weights(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights/learned/models/learned.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def config_of(tmp_path: Path, models: Path, *, accepted: bool) -> dict[str, Any]:
    (tmp_path / "shelf").mkdir()
    rule = {"when": {"Modality": "CT"}, "send": ["shelf"]}
    return {
        "storage": {"reserve_gb": 0, "max_used_percent": 100},
        "models_dirs": [str(models), str(MODELS_PROBE)],
        "weights_dir": str(tmp_path / "weights"),
        "accept_licences": ["Research-Only"] if accepted else [],
        "destinations": {"shelf": {"kind": "folder", "path": str(tmp_path / "shelf")}},
        "rules": [
            {**rule, "name": "learned", "run": "learned", "priority": "urgent"},
            {**rule, "name": "plain", "run": "probe"},
        ],
    }


@contextmanager
def worked(
    tmp_path: Path, models: Path, worker: SharedWorker, *, accepted: bool
) -> Iterator[NodeInProcess]:
    """A node that got one CT and did what it could with it."""
    CT.write(tmp_path / "in")
    config = config_of(tmp_path, models, accepted=accepted)
    with node_in_process(tmp_path, config, worker) as node:
        node.scan(tmp_path / "in")
        node.settle()
        node.work()
        yield node


def by_model(node: NodeInProcess) -> dict[str, Mapping[str, Any]]:
    return {job["model"]: job for job in node.jobs}


@pytest.mark.parametrize(
    ("content", "accepted", "sentence"),
    [
        (None, True, "models/learned.bin of learned is missing: segnode models pull learned"),
        (b"else", True, "models/learned.bin of learned is not the file with the hash"),
        (
            WEIGHTS,
            False,
            "the weights of learned forbid commercial use: read Research-Only and name it in"
            " accept_licences",
        ),
    ],
    ids=["missing", "wrong", "licence"],
)
def test_the_job_says_why_and_the_next_one_runs(
    tmp_path: Path,
    models: Path,
    worker: SharedWorker,
    content: bytes | None,
    accepted: bool,
    sentence: str,
) -> None:
    if content is not None:
        put_weights(tmp_path, content)
    with worked(tmp_path, models, worker, accepted=accepted) as node:
        jobs = by_model(node)
        sent = node.api("/deliveries")["items"]

    assert jobs["learned"]["state"] in ("failed", "parked")
    assert sentence in jobs["learned"]["sentence"]
    assert jobs["learned"]["attempts"] == 1
    assert jobs["probe"]["state"] == "done"
    assert {row["job_id"] for row in sent} == {jobs["probe"]["id"]}


def test_right_weights_under_an_accepted_licence_run(
    tmp_path: Path, models: Path, worker: SharedWorker
) -> None:
    put_weights(tmp_path, WEIGHTS)

    with worked(tmp_path, models, worker, accepted=True) as node:
        assert {job["state"] for job in node.jobs} == {"done"}


@pytest.mark.parametrize("model", ["learned", pytest.param("wholebody_ct", marks=pytest.mark.long)])
def test_nothing_is_fetched_behind_the_users_back(tmp_path: Path, models: Path, model: str) -> None:
    if model == "wholebody_ct":
        pytest.importorskip("monai")
    CT.write(tmp_path / "in")
    config = config_of(tmp_path, models, accepted=True)
    config["rules"] = [{"name": "it", "when": {"Modality": "CT"}, "run": model, "send": []}]
    (tmp_path / "node.yaml").write_text(json.dumps(config))
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(WATCH)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "hook"), str(Path.cwd())]),
        "WATCHED": str(tmp_path / "watched"),
    }
    run = [sys.executable, "-m", "node", "run", "in", "out", "--config", "node.yaml", "--json"]
    probe = "import socket; socket.getaddrinfo('localhost', 1)"

    ended = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, check=False)

    assert ended.returncode == 1
    assert f"of {model} is missing: segnode models pull {model}" in ended.stdout.decode()
    assert not (tmp_path / "watched").exists()
    subprocess.run([sys.executable, "-c", probe], env=environment, check=True)
    assert (tmp_path / "watched").exists()  # the watch does watch
