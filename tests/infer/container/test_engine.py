"""The command line that is made, and which engine and image it is made for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.domain.errors import JobFailed
from node.infer.container.engine import (
    ENGINE_VARIABLE,
    FLAGS_VARIABLE,
    ContainerOrder,
    Engine,
    extra_flags,
    find_image,
)
from node.infer.mhub.draft import draft_model
from node.infer.registry import load_model
from node.modelstore.catalog import shortcomings
from tests.infer.mhub.cards import card

ID = f"sha256:{'a' * 64}"
DIGEST = f"sha256:{'d' * 64}"
FOUND = f'[{{"Id": "{"a" * 64}", "RepoDigests": ["docker.io/mhubai/x@{DIGEST}"]}}]'


def order(device: str = "cpu", flags: tuple[str, ...] = ()) -> ContainerOrder:
    return ContainerOrder(
        name="segnode-x",
        labels={"segnode.model": "x"},
        image_id=ID,
        arguments=("--workflow", "default", "--print", "--non-interactive"),
        input_folder=(Path("/job/in"), "/app/data/input_data"),
        output_folder="/app/data/output_data",
        device=device,
        memory_gb=4,
        shm_gb=0.5,
        flags=flags,
    )


def test_the_command_line_keeps_the_contract() -> None:
    assert Engine("/usr/bin/podman").create_command(order()) == [
        *("/usr/bin/podman", "create", "--pull=never", "--name", "segnode-x"),
        "--label=segnode.model=x",
        "--network=none",
        "--log-driver=none",
        "--security-opt=no-new-privileges",
        "--memory=4096m",
        "--shm-size=512m",
        "--mount=type=bind,source=/job/in,target=/app/data/input_data,readonly",
        "--volume=/app/data/output_data",
        ID,
        *("--workflow", "default", "--print", "--non-interactive"),
    ]


@pytest.mark.parametrize(
    ("engine", "device", "flag"),
    [
        ("docker", "cuda", "--gpus=all"),
        ("docker", "cuda:1", "--gpus=device=1"),
        ("podman", "cuda", "--device=nvidia.com/gpu=all"),
        ("podman", "cuda:1", "--device=nvidia.com/gpu=1"),
    ],
)
def test_a_gpu_is_given_in_the_words_of_the_engine(engine: str, device: str, flag: str) -> None:
    with_gpu = Engine(f"/usr/bin/{engine}").create_command(order(device))
    without = Engine(f"/usr/bin/{engine}").create_command(order("cpu"))

    assert set(with_gpu) - set(without) == {flag}


def test_flags_of_the_machine_come_last_so_that_they_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLAGS_VARIABLE, "--security-opt label=disable --memory=0")

    command = Engine("/usr/bin/podman").create_command(order(flags=tuple(extra_flags())))

    flags = command[: command.index(ID)]
    assert flags[-3:] == ["--security-opt", "label=disable", "--memory=0"]


def test_flags_that_no_shell_could_read_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLAGS_VARIABLE, "--label 'a")

    with pytest.raises(JobFailed, match="SEGNODE_CONTAINER_FLAGS cannot be read"):
        extra_flags()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of engines, the only one in which programs are found beside the system's shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    return folder


def program(folder: Path, name: str, *, images: str = "", is_well: bool = True) -> None:
    """An engine that knows one image, or none, or does not answer."""
    inspect = f"echo '{images}'; exit 0" if images else "echo 'no such image' >&2; exit 125"
    body = f'[ "$1 $2" = "image inspect" ] && {{ {inspect}; }}\nexit 0'
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body if is_well else 'echo daemon is down >&2; exit 1'}\n")
    path.chmod(0o755)


def refusal(image_id: str = "") -> JobFailed:
    with pytest.raises(JobFailed) as failure:
        find_image("mhubai/x:v1", image_id)
    return failure.value


def test_the_engine_that_has_the_image_is_taken(programs: Path) -> None:
    program(programs, "podman")
    program(programs, "docker", images=FOUND)

    engine, image_id = find_image("mhubai/x:v1", "")

    assert (engine.name, image_id) == ("docker", ID)
    assert engine.find_image("mhubai/x:v1") == (ID, DIGEST)


def test_an_engine_that_is_not_well_does_not_hide_the_other(programs: Path) -> None:
    program(programs, "docker", is_well=False)
    program(programs, "podman", images=FOUND)

    assert find_image("mhubai/x:v1", "")[0].name == "podman"


def test_the_variable_names_the_engine(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(programs, "podman", images=FOUND)
    program(programs, "nerdctl", images=FOUND)
    monkeypatch.setenv(ENGINE_VARIABLE, os.fspath(programs / "nerdctl"))

    assert find_image("mhubai/x:v1", "")[0].name == "nerdctl"


@pytest.mark.parametrize("pin", [ID, DIGEST])
def test_a_pin_is_the_images_own_digest_or_its_manifests(pin: str, programs: Path) -> None:
    program(programs, "podman", images=FOUND)

    assert find_image("mhubai/x:v1", pin)[1] == ID


def test_another_image_than_the_pinned_one_does_not_run(programs: Path) -> None:
    program(programs, "podman", images=FOUND)

    failure = refusal(f"sha256:{'0' * 64}")

    assert failure.permanent
    assert "is not the one that model.yaml pins" in failure.reason


def test_no_engine_is_one_sentence(programs: Path) -> None:
    failure = refusal()

    assert failure.permanent
    assert failure.reason == (
        "no container engine is installed: install podman or docker, or name another in"
        " SEGNODE_CONTAINER_ENGINE"
    )


def test_a_named_engine_that_is_not_there_is_one_sentence(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(programs, "podman", images=FOUND)
    monkeypatch.setenv(ENGINE_VARIABLE, "dockr")

    assert "SEGNODE_CONTAINER_ENGINE names dockr, which is no program" in refusal().reason


def test_an_absent_image_is_told_with_the_command_that_pulls_it(programs: Path) -> None:
    program(programs, "podman")

    failure = refusal()

    assert failure.permanent
    assert failure.reason == (
        "the image mhubai/x:v1 is not on this machine: podman pull mhubai/x:v1"
    )


def test_the_command_that_pulls_names_an_engine_that_is_well(programs: Path) -> None:
    program(programs, "podman", is_well=False)
    program(programs, "docker")

    assert refusal().reason.endswith(": docker pull mhubai/x:v1")


def test_the_only_engine_not_being_well_is_worth_another_attempt(programs: Path) -> None:
    program(programs, "docker", is_well=False)

    failure = refusal()

    assert not failure.permanent
    assert "daemon is down" in failure.reason


def test_what_a_model_lacks_is_told_before_its_first_job(programs: Path, tmp_path: Path) -> None:
    drafted = draft_model(card(), [])
    folder = tmp_path / drafted.name
    folder.mkdir()
    for name, text in drafted.files.items():
        (folder / name).write_text(text)
    model = load_model(folder)
    licences = ["CC BY-NC 4.0"]

    without_engine = list(shortcomings(model, tmp_path, licences))
    program(programs, "podman")
    without_image = list(shortcomings(model, tmp_path, licences))
    program(programs, "podman", images=FOUND)

    assert "no container engine is installed" in without_engine[0]
    assert "podman pull mhubai/organ_finder:latest" in without_image[0]
    assert list(shortcomings(model, tmp_path, licences)) == []
