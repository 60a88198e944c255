"""Beats: what a loop says of its next round is read by others, whatever becomes of its process."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

from node.observe.beats import START_S, Beats, due_in


def test_a_loop_is_due_when_it_said(tmp_path: Path) -> None:
    beats = Beats(monotonic=lambda: 100.0)
    beats.keep_in(tmp_path / "route")
    assert due_in(tmp_path / "route") == {"start": 100.0 + START_S}

    beats.beat("settle", 5.0)
    beats.beat("time", 2.0)
    beats.beat("settle", 7.0)

    assert due_in(tmp_path / "route") == {"start": float("inf"), "settle": 107.0, "time": 102.0}


def test_a_loop_that_ends_is_never_due(tmp_path: Path) -> None:
    beats = Beats()
    beats.keep_in(tmp_path / "route")
    beats.beat("compare", 5.0)

    beats.end("compare")

    assert due_in(tmp_path / "route")["compare"] == float("inf")


def test_beats_without_a_file_are_heard_by_nobody(tmp_path: Path) -> None:
    Beats().beat("settle", 5.0)

    assert due_in(tmp_path / "none") == {}


def test_more_loops_than_there_is_room_for_do_not_end_a_process(tmp_path: Path) -> None:
    beats = Beats()
    beats.keep_in(tmp_path / "route")

    for number in range(100):
        beats.beat(f"folder {'x' * number}", 5.0)

    assert 1 < len(due_in(tmp_path / "route")) <= 32


def _beat_and_die(path: Path) -> None:
    beats = Beats()
    beats.keep_in(path)
    beats.beat("settle", 5.0)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_said_is_there_still(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=_beat_and_die, args=(tmp_path / "route",)
    )
    process.start()
    process.join()

    assert "settle" in due_in(tmp_path / "route")
