"""A container goes when the process that wanted it is gone, however that happened.

The engine here is a program of the test that keeps a list of containers in a folder; real engines are
asked in the long tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from node.infer.container.container_process import OWNER, STARTED, owner_labels, remove_leftovers
from node.infer.container.engine import Engine
from tests.support.waiting import eventually

REPOSITORY = Path(__file__).resolve().parents[3]

# rm fails once before it works, and a container may still come about after its asker has died
ENGINE = """#!/bin/sh
here="$(dirname "$0")"
case "$1" in
  create) while [ "$1" != --name ]; do shift; done; : >"$here/containers/$2" ;;
  start) echo started; sleep 60 ;;
  rm) [ -e "$here/tried" ] || { : >"$here/tried"; echo busy >&2; exit 1; }
      for last; do :; done; rm -f "$here/containers/$last" ;;
  ps) ls "$here/containers" ;;
  inspect) for last; do :; done; cat "$here/containers/$last" ;;
esac
"""

RUNNER = """
import sys
from pathlib import Path
from node.infer.container.engine import ContainerOrder, Engine
from node.infer.container.container_process import held_container

folder = Path(sys.argv[1])
order = ContainerOrder(
    name="segnode-x", labels={}, image_id="x", arguments=(), input_folder=(folder, "/in"),
    output_folder="/out", device="cpu", memory_gb=1, shm_gb=1,
)
with held_container(Engine(str(folder / "engine")), order) as container:
    print("made", flush=True)
    if sys.argv[2] == "stay":
        container.run(folder / "log", folder)
print("over", flush=True)
"""


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    (tmp_path / "containers").mkdir()
    path = tmp_path / "engine"
    path.write_text(ENGINE)
    path.chmod(0o755)
    return path


def containers(engine: Path) -> list[str]:
    return [path.name for path in (engine.parent / "containers").iterdir()]


def runner(engine: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUNNER), str(engine.parent), how],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    return process


def test_a_container_goes_at_the_end_of_its_block(engine: Path) -> None:
    with runner(engine, "leave") as process:
        assert process.wait(20) == 0

    assert containers(engine) == []


@pytest.mark.parametrize("whole_group", [True, False])
def test_a_container_goes_when_its_runner_is_killed(engine: Path, whole_group: bool) -> None:
    with runner(engine, "stay") as process:
        assert eventually(lambda: (engine.parent / "log").exists())
        assert containers(engine) == ["segnode-x"]
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()

    assert eventually(lambda: containers(engine) == [])


def test_a_container_that_comes_after_the_death_of_its_runner_goes_too(engine: Path) -> None:
    with runner(engine, "stay") as process:
        process.kill()
        process.wait()
    assert eventually(lambda: containers(engine) == [])

    (engine.parent / "containers/segnode-x").touch()

    assert eventually(lambda: containers(engine) == [])


@pytest.fixture
def dead() -> str:
    """The owner label of a process that has ended."""
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from node.infer.container.container_process import owner_labels, OWNER;"
            "print(owner_labels()[OWNER])",
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdout is not None
        return process.stdout.read().strip()


def test_what_dead_owners_left_goes_and_what_the_living_hold_stays(engine: Path, dead: str) -> None:
    (engine.parent / "tried").touch()
    mine = owner_labels()
    elsewhere = "another-machine:1/17/4"
    now, long_ago = mine[STARTED], str(int(time.time()) - 2 * 86_400)
    for name, owner, started in (
        ("mine", mine[OWNER], now),
        ("dead", dead, now),
        ("elsewhere", elsewhere, now),
        ("elsewhere-long-ago", elsewhere, long_ago),
        ("not-ours", "", ""),
    ):
        (engine.parent / "containers" / name).write_text(f"{owner} {started}\n")

    removed = remove_leftovers(Engine(str(engine)))

    assert removed == 2
    assert sorted(containers(engine)) == ["elsewhere", "mine", "not-ours"]
