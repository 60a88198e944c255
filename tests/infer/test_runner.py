"""The runner: what happens to a job, a child and a parent when one of them goes wrong."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless

from node.domain.reasons import Reason, ReasonCode
from node.infer.ct_tissue import label_tissues
from node.infer.labels_file import read_labels
from node.infer.registry import default_models_folder
from node.infer.report import Stopwatch
from node.infer.runner import (
    Event,
    Failed,
    Finished,
    Noted,
    Runner,
    StageFinished,
    StageStarted,
)
from node.infer.volume import Volume
from tests.support.phantoms import Phantom

LONG_S = 30.0
TARGETS = "tests.infer.targets"


@pytest.fixture
def runner() -> Iterator[Runner]:
    with Runner() as runner:
        yield runner


def run_to_end(runner: Runner, target: str, deadline_s: float = LONG_S, **request: object):
    runner.start(f"{TARGETS}:{target}", request, deadline_s=deadline_s)
    return listen(runner)


def listen(runner: Runner) -> list[Event]:
    events: list[Event] = []
    while not events or not isinstance(events[-1], Finished | Failed):
        events += runner.poll(LONG_S)
    return events


def first_note(runner: Runner) -> str:
    while True:
        for event in runner.poll(LONG_S):
            assert not isinstance(event, Failed)
            if isinstance(event, Noted):
                return event.sentence


def wait_for_end(process_id: int) -> bool:
    """Whether a process that may be anyone's child is gone within LONG_S."""
    try:
        descriptor = os.pidfd_open(process_id)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], LONG_S)[0])
    finally:
        os.close(descriptor)


def test_a_job_reports_its_stages_and_its_result(runner: Runner) -> None:
    events = run_to_end(runner, "echo", role="ct", slices=36)

    assert events[0] == StageStarted(name="read")
    assert isinstance(events[1], StageFinished)
    assert events[1].name == "read"
    assert events[2] == Noted(sentence="half way")
    assert isinstance(events[3], Finished)
    assert events[3].result["request"] == {"role": "ct", "slices": 36}


def test_the_child_stays_warm_between_jobs(runner: Runner) -> None:
    first, second = (run_to_end(runner, "echo")[-1].result["process_id"] for _ in range(2))

    assert first == second == runner.process_id
    assert first != os.getpid()


def test_output_of_libraries_does_not_reach_the_channel(runner: Runner) -> None:
    assert run_to_end(runner, "noisy") == [Finished(result={})]


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("segfaults", "the runner process was killed by SIGSEGV in stage decode"),
        ("kills_itself", "the runner process was killed by SIGKILL in stage run"),
        ("asks_to_exit", "the model asked its process to exit (3)"),
    ],
)
def test_a_crash_ends_the_attempt_with_its_cause(
    runner: Runner, target: str, sentence: str
) -> None:
    events = run_to_end(runner, target)

    assert events[-1] == Failed(sentence=sentence)


def test_a_child_that_exits_is_named_with_its_code(runner: Runner) -> None:
    events = run_to_end(runner, "exits", code=7)

    assert events[-1] == Failed(
        sentence="the runner process ended with exit code 7 in stage decode"
    )


@pytest.mark.parametrize("target", ["segfaults", "kills_itself", "asks_to_exit", "bug"])
def test_the_next_job_gets_a_fresh_child(runner: Runner, target: str) -> None:
    before = run_to_end(runner, "echo")[-1].result["process_id"]
    run_to_end(runner, target)

    after = run_to_end(runner, "echo")[-1].result["process_id"]

    assert after != before


def test_a_child_killed_between_jobs_costs_no_attempt(runner: Runner) -> None:
    idle = run_to_end(runner, "echo")[-1].result["process_id"]
    os.kill(idle, signal.SIGKILL)
    assert wait_for_end(idle)

    events = run_to_end(runner, "echo")

    assert isinstance(events[-1], Finished)


def test_memory_beyond_the_limit_fails_the_job_and_not_the_machine(runner: Runner) -> None:
    runner.start(f"{TARGETS}:allocates", {"size": 4 << 30}, deadline_s=LONG_S, memory_bytes=1 << 30)

    events = listen(runner)

    assert events[-1] == Failed(sentence="out of memory in stage run")


def test_the_memory_limit_of_one_job_is_not_that_of_the_next(runner: Runner) -> None:
    target = f"{TARGETS}:allocates"
    runner.start(target, {"size": 1024}, deadline_s=LONG_S, memory_bytes=1 << 30)
    listen(runner)

    events = run_to_end(runner, "allocates", size=(1 << 30) + 1)

    assert isinstance(events[-1], Finished)


def test_a_shortage_is_no_fault_of_the_job(runner: Runner) -> None:
    events = run_to_end(runner, "finds_no_room")

    assert events == [Failed(sentence="no room on the disk", waits=True)]


@pytest.mark.parametrize("permanent", [True, False])
def test_a_failure_keeps_its_sentence_and_whether_it_is_permanent(
    runner: Runner, permanent: bool
) -> None:
    events = run_to_end(runner, "fails", permanent=permanent)

    assert events == [Failed(sentence="frame 3 cannot be decoded", permanent=permanent)]


def test_an_unusable_series_is_a_permanent_failure(runner: Runner) -> None:
    events = run_to_end(runner, "unusable")

    assert events == [
        Failed(
            sentence="same_position",
            reasons=(Reason(ReasonCode.SAME_POSITION, {"each": 2, "positions": 1}),),
            permanent=True,
        )
    ]


def test_a_fault_in_the_code_names_its_place(runner: Runner) -> None:
    (failed,) = run_to_end(runner, "bug")

    assert isinstance(failed, Failed)
    assert failed.sentence.startswith("IndexError in targets.py line ")
    assert not failed.permanent
    assert "targets.py" in failed.detail


def test_a_target_that_does_not_exist_fails_the_job(runner: Runner) -> None:
    (failed,) = run_to_end(runner, "nothing_of_that_name")

    assert isinstance(failed, Failed)
    assert "nothing_of_that_name" in failed.sentence


def test_the_deadline_kills_the_child_and_the_processes_it_started(runner: Runner) -> None:
    run_to_end(runner, "echo")  # a busy machine may take longer than that to start a child
    runner.start(f"{TARGETS}:hangs", {}, deadline_s=2.0)
    helper = int(first_note(runner))

    events = listen(runner)

    assert events[-1] == Failed(sentence="passed its deadline of 2 s in stage run")
    assert wait_for_end(helper)
    assert runner.process_id is None


def test_the_deadline_also_ends_code_that_never_returns_to_python(runner: Runner) -> None:
    runner.start(f"{TARGETS}:hangs_in_c", {}, deadline_s=1.0)

    events = listen(runner)

    assert events[-1] == Failed(sentence="passed its deadline of 1 s")


def test_a_cancelled_job_is_gone_and_says_nothing_more(runner: Runner) -> None:
    runner.start(f"{TARGETS}:hangs", {}, deadline_s=LONG_S)
    helper = int(first_note(runner))
    child = runner.process_id

    runner.kill()

    assert runner.poll() == []
    assert not runner.is_busy
    assert wait_for_end(helper)
    assert wait_for_end(child)
    assert isinstance(run_to_end(runner, "echo")[-1], Finished)


def test_an_idle_child_is_unloaded() -> None:
    with Runner(idle_unload_s=0.0) as runner:
        run_to_end(runner, "echo")

        runner.poll()

        assert runner.process_id is None


def test_a_second_job_is_refused_while_one_is_under_way(runner: Runner) -> None:
    runner.start(f"{TARGETS}:hangs", {}, deadline_s=LONG_S)

    with pytest.raises(RuntimeError, match="has a job"):
        runner.start(f"{TARGETS}:echo", {}, deadline_s=LONG_S)


@pytest.mark.parametrize("target", ["waits", "hangs_in_c"])
def test_the_child_dies_with_a_parent_that_is_killed(target: str, tmp_path: Path) -> None:
    script = f"""
import sys
from node.infer.runner import Runner
runner = Runner()
runner.start("{TARGETS}:{target}", {{}}, deadline_s=600)
while True:
    for event in runner.poll(60):
        if hasattr(event, "sentence"):
            print(runner.process_id, flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=tmp_path, env=environment
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())

        parent.kill()

    assert wait_for_end(child)


def test_the_heavy_road_of_a_job_runs_in_the_child(runner: Runner, tmp_path: Path) -> None:
    phantom = Phantom()
    phantom.write(tmp_path / "series")
    volume = Volume(array=phantom.hu_volume, grid=phantom.grid)

    events = run_to_end(
        runner,
        "segments",
        folder=str(tmp_path / "series"),
        model=str(default_models_folder() / "ct_tissue"),
        labels=str(tmp_path / "labels.zip"),
    )

    assert isinstance(events[-1], Finished)
    labels, _ = read_labels(tmp_path / "labels.zip")
    assert np.array_equal(labels, label_tissues(volume, Stopwatch()))
    stages = [event.name for event in events if isinstance(event, StageFinished)]
    assert stages == ["read", "shapes", "compose", "infer", "check", "write"]


def test_an_idle_child_can_be_warmed_for_a_model(runner: Runner) -> None:
    model = {"folder": str(default_models_folder() / "ct_tissue"), "parameters": {}}

    request = {"models": [model], "weights_dir": "", "device": "cpu"}
    runner.start("node.infer.run_context:warm", request, deadline_s=LONG_S)

    assert isinstance(listen(runner)[-1], Finished)


def test_monai_is_imported_without_what_trains_on_many_machines(runner: Runner) -> None:
    pytest.importorskip("monai")

    ended = run_to_end(runner, "imports_monai")[-1]

    assert isinstance(ended, Finished), ended
    assert ended.result["loaded"] == []
    assert ended.result["file"].endswith("torch/distributed/optim/__init__.py")
    assert ended.result["epochs"] == 1


def test_a_broken_frame_fails_its_job_and_the_next_job_runs(runner: Runner, tmp_path: Path) -> None:
    phantom = Phantom(shape=(4, 40, 50), transfer_syntax=JPEG2000Lossless)
    paths = phantom.write(tmp_path / "series")
    instance = dcmread(paths[1])
    stream = next(generate_frames(instance.PixelData, number_of_frames=1))
    instance.PixelData = encapsulate([stream[:200] + bytes(range(200)) * 2])
    instance.save_as(paths[1])
    request = {
        "folder": str(tmp_path / "series"),
        "model": str(default_models_folder() / "ct_tissue"),
        "labels": str(tmp_path / "labels.zip"),
    }

    failed = run_to_end(runner, "segments", **request)[-1]
    phantom.write(tmp_path / "series")
    after = run_to_end(runner, "segments", **request)[-1]

    assert isinstance(failed, Failed)
    assert failed.permanent
    assert str(instance.SOPInstanceUID) in failed.sentence
    assert isinstance(after, Finished)


@pytest.mark.parametrize("chosen", [{}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}])
def test_torch_in_the_child_is_told_how_to_use_a_card_unless_an_operator_did(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str]
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)

    (finished,) = run_to_end(runner, "card")

    own = {} if chosen else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    told = {name: value for name, value in finished.result.items() if value}
    assert told == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **own, **chosen}
