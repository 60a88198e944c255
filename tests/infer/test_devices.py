"""Which devices are chosen; where there is no GPU, over libraries that speak as CUDA's do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from node.infer.devices import choose_devices, find_gpus
from tests.support.gpus import give_gpus


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives this machine GPUs, as far as libcuda and torch's CUDA runtime can tell."""
    return partial(give_gpus, tmp_path, monkeypatch)


def test_auto_is_every_gpu_that_torch_sees(machine: Callable[..., None]) -> None:
    machine(2)

    chosen = choose_devices(["auto"])

    assert chosen.workers == ("cuda:0", "cuda:1")
    assert chosen.sentence == "cuda:0 (Made GPU 0); cuda:1 (Made GPU 1)"
    assert not chosen.missing


@pytest.mark.parametrize(
    ("gpus", "torch_sees", "why"),
    [
        (0, 0, "the NVIDIA driver has no GPU for us (CUDA error 100)"),
        (1, 0, "torch cannot use the GPU: its driver may be too old"),
    ],
)
def test_auto_without_a_gpu_is_the_cpu_and_says_why(
    machine: Callable[..., None], gpus: int, torch_sees: int, why: str
) -> None:
    machine(gpus, torch_sees=torch_sees)

    chosen = choose_devices(["auto"])

    assert chosen.workers == ("cpu",)
    assert chosen.sentence == f"cpu, because {why}"


def test_a_torch_without_cuda_sees_no_gpu(machine: Callable[..., None], tmp_path: Path) -> None:
    machine(1)
    (tmp_path / "torch" / "lib" / "libc10_cuda.so").unlink()

    assert find_gpus().why_none == "torch is built without CUDA"


def test_a_gpu_that_is_named_and_not_here_is_missing(machine: Callable[..., None]) -> None:
    machine(1)

    there, absent = choose_devices(["cuda", "cuda:0", "cpu"]), choose_devices(["cuda:0", "cuda:1"])

    assert not there.missing
    assert there.sentence == "cuda (Made GPU 0); cuda:0 (Made GPU 0); cpu"
    assert absent.missing == (
        "cuda:1 is not here: torch sees cuda:0; name cpu, or nothing for what is here"
    )


@pytest.mark.parametrize(
    ("wanted", "workers"), [(["cuda:0", "cuda:0", "cuda:1"], 1), (["cuda:0", "cuda:1"], 2)]
)
def test_each_worker_of_a_device_has_a_name_of_its_own(
    machine: Callable[..., None], wanted: list[str], workers: int
) -> None:
    machine(2)

    chosen = choose_devices(wanted, workers)

    assert list(chosen.by_name)[:3] == ["cuda:0", "cuda:0 #2", "cuda:1"]
    assert tuple(chosen.by_name.values()) == chosen.workers
    assert chosen.sentence.startswith("cuda:0 (Made GPU 0), 2 workers; cuda:1 (Made GPU 1)")


def test_a_node_that_names_the_cpu_asks_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> None:
        raise AssertionError("asked")

    monkeypatch.setattr("node.infer.devices.find_gpus", ask)

    assert choose_devices(["cpu", "cpu"]).sentence == "cpu, 2 workers"
