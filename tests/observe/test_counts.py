"""Counts of all processes are summed, outlive them, and are what Prometheus reads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path

from node.observe import counts
from node.observe.counts import HTTP_REFUSED, KINDS, Counts, counted_in, exposed


def count_and_die(folder: Path, times: int) -> None:
    mine = Counts()
    mine.keep_in(folder, "receive")
    for _ in range(times):
        mine.add(HTTP_REFUSED, 503)
    os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, times: int) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=count_and_die, args=(folder, times)
    )
    process.start()
    process.join()


def test_counts_outlive_a_kill_and_the_next_process_goes_on(tmp_path: Path) -> None:
    run(tmp_path, 3)
    run(tmp_path, 4)

    assert counted_in(tmp_path) == {(HTTP_REFUSED.name, "503"): 7}
    assert len(list(tmp_path.iterdir())) == 1


def test_two_processes_of_a_role_count_apart_and_are_summed(tmp_path: Path) -> None:
    one, other = Counts(), Counts()
    one.add(HTTP_REFUSED, 404)  # before it has a file
    one.keep_in(tmp_path, "web")
    other.keep_in(tmp_path, "web")

    one.add(HTTP_REFUSED, 404)
    other.add(HTTP_REFUSED, 404)
    other.add(HTTP_REFUSED, 500)

    assert counted_in(tmp_path) == {(HTTP_REFUSED.name, "404"): 3, (HTTP_REFUSED.name, "500"): 1}
    assert one.of(HTTP_REFUSED, 404) == 2


def test_no_count_is_lost_between_threads(tmp_path: Path) -> None:
    mine = Counts()
    mine.keep_in(tmp_path, "web")
    threads = [
        threading.Thread(target=lambda: [mine.add(HTTP_REFUSED, 503) for _ in range(2000)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counted_in(tmp_path) == {(HTTP_REFUSED.name, "503"): 8000}


def test_more_kinds_of_labels_than_a_file_holds_do_no_harm(tmp_path: Path) -> None:
    mine = Counts()
    mine.keep_in(tmp_path, "web")
    for number in range(600):
        mine.add(HTTP_REFUSED, number)
    mine.add(HTTP_REFUSED, 0)

    found = counted_in(tmp_path)
    assert found[(HTTP_REFUSED.name, "0")] == 2
    assert len(found) == 512


def test_the_text_is_what_prometheus_reads() -> None:
    text = exposed({(HTTP_REFUSED.name, "503"): 2, (counts.LOG_LINES_LEFT_OUT.name,): 5})

    assert f'# TYPE {HTTP_REFUSED.name} counter\n{HTTP_REFUSED.name}{{status="503"}} 2\n' in text
    assert f"\n{counts.LOG_LINES_LEFT_OUT.name} 5\n" in text
    assert all(f"# HELP {kind.name} " in text for kind in KINDS)


def test_without_any_process_there_are_no_counts(tmp_path: Path) -> None:
    assert counted_in(tmp_path / "none") == {}
