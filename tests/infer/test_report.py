"""Stages add up to the time that they took together, told to a child's parent or kept."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from node.infer.child import ChannelReport, Inbox
from node.infer.report import Report, Stopwatch

PAUSE_S = 0.03


def told_to_parent(work: Callable[[Report], None]) -> list[tuple[str, float]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        work(ChannelReport(theirs))
        messages = Inbox().feed(ours.recv(1 << 16))
    return [(m["name"], m["seconds"]) for m in messages if m["kind"] == "stage_finished"]


def kept(work: Callable[[Report], None]) -> list[tuple[str, float]]:
    watch = Stopwatch()
    work(watch)
    return list(watch.seconds.items())


@pytest.mark.parametrize("told_by", [told_to_parent, kept])
def test_the_seconds_of_a_stage_inside_another_are_told_once(
    told_by: Callable[[Callable[[Report], None]], list[tuple[str, float]]],
) -> None:
    def work(report: Report) -> None:
        with report.stage("infer"):
            time.sleep(PAUSE_S)
            for name in ("shapes", "compose"):
                with report.stage(name):
                    time.sleep(2 * PAUSE_S)

    began = time.monotonic()
    stages = told_by(work)
    whole_s = time.monotonic() - began

    assert {name for name, _ in stages} == {"infer", "shapes", "compose"}
    assert 5 * PAUSE_S <= sum(seconds for _, seconds in stages) <= whole_s
