"""Where models run: what the commands of a node say of it, and how many workers there are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Segnode
from tests.support.gpus import give_gpus
from tests.support.peers import Node, store
from tests.support.phantoms import Phantom
from tests.support.waiting import wait_for

NO_SUCH = "work.devices: cuda:99 is not here"


def with_work(config: Path, **work: object) -> Path:
    content = yaml.safe_load(config.read_text()) | {"work": work}
    config.write_text(yaml.safe_dump(content))
    return config


def devices_of(answer: list[dict[str, str]]) -> dict[str, str]:
    (check,) = (check for check in answer if check["name"] == "devices")
    return check


def test_a_gpu_is_used_by_itself_and_doctor_and_status_say_which(
    segnode: Segnode, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_gpus(tmp_path / "gpus", monkeypatch, 1)

    doctor = segnode("doctor", "--config", config, "--json").json
    status = segnode("status", "--config", config, "--json").json
    text = segnode("status", "--config", config).out

    says = "cuda:0 (Made GPU 0)"
    assert devices_of(doctor) == {"name": "devices", "health": "good", "sentence": says}
    assert status["devices"] == {"workers": ["cuda:0"], "sentence": says}
    assert any(line.split() == ["models", "run", "on", *says.split()] for line in text.splitlines())


def test_a_gpu_that_is_not_here_is_bad_and_stops_the_start(segnode: Segnode, config: Path) -> None:
    with_work(config, devices=["cuda:99"])

    doctor = segnode("doctor", "--config", config, "--json")
    serve = segnode("serve", "--role", "work", "--config", config)

    assert doctor.code == 1
    assert devices_of(doctor.json)["health"] == "bad"
    assert serve.code == 2
    assert NO_SUCH in serve.err


@pytest.mark.parametrize(
    "work",
    [{"devices": ["cpu", "cpu"]}, {"devices": ["cpu"], "workers": 2}],
    ids=["list", "number"],
)
def test_a_job_that_stands_still_does_not_keep_those_of_another_worker_waiting(
    tmp_path: Path, work: dict[str, object]
) -> None:
    rule = {"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": []}
    node = Node(tmp_path, {"rules": [rule], "work": work})
    node.environment = {
        "SEGNODE_CRASH_AT": "mid-inference",
        "SEGNODE_CRASH_HOW": "wait",
        "SEGNODE_CRASH_MARK": str(tmp_path / "waiting"),
    }
    node.start()
    try:
        for number in range(3):
            files = Phantom(shape=(12, 56, 72), spacing_mm=(16.0, 4.0, 4.5), series=f"s{number}")
            store(node.dicom_port, files.files())

        def done() -> bool:
            states = [job["state"] for job in node.api("/jobs")["items"]]
            return sorted(states) == ["done", "done", "running"]

        wait_for("two of three jobs", done)
        (running,) = (job for job in node.api("/jobs")["items"] if job["state"] == "running")
        owners = {line for line in node.log().splitlines() if "role started" in line}
    finally:
        node.kill()

    assert (tmp_path / "waiting").exists()
    assert ".work.cpu" in running["owner"]
    assert sum("work cpu" in line for line in owners) == 2
    assert sum("work cpu #2" in line for line in owners) == 1
