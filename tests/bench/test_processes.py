"""What a tree takes can be read while its threads and processes end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.bench.processes import cpu_s, pss_mb, resident_mb, sum_of_tree, tree

# threads end all the time; now and then a process does
RESTLESS = """
import subprocess, threading, time
print(flush=True)
while True:
    for _ in range(200):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    subprocess.run(["/bin/true"])
"""
# its one child used time, ended, and was waited for
PARENT = """
import subprocess, sys, time
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.3: pass"])
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes to end with the test."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def ready(code: str, started: list[subprocess.Popen[bytes]]) -> int:
    """A process that has said that it is there."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    started.append(process)
    assert process.stdout is not None
    process.stdout.readline()
    return process.pid


def test_threads_and_processes_may_end_while_they_are_looked_at(
    started: list[subprocess.Popen[bytes]],
) -> None:
    pid = ready(RESTLESS, started)
    until = time.monotonic() + 1.5

    while time.monotonic() < until:
        assert pid in set(tree(pid))
        assert sum_of_tree(pid, pss_mb) > 0
        assert sum_of_tree(pid, resident_mb) > 0


def test_a_tree_that_has_ended_takes_nothing(started: list[subprocess.Popen[bytes]]) -> None:
    pid = ready("print(flush=True)", started)
    started[0].wait()

    assert sum_of_tree(pid, pss_mb) == sum_of_tree(pid, resident_mb) == 0
    assert cpu_s(pid) == 0


def test_the_time_of_a_child_that_ended_is_its_parents(
    started: list[subprocess.Popen[bytes]],
) -> None:
    pid = ready(PARENT, started)

    assert cpu_s(pid) >= 0.3
