"""What a peer causes is few lines a minute, and how many were left out is told."""

from __future__ import annotations

import io
import logging

from node.observe import log
from node.observe.log import MINUTE_S, MOST_OF_ADDRESS, MOST_OF_ALL, FewLines, LineFormatter


def record(address: str | None = None, text: str = "refused") -> logging.LogRecord:
    facts = {} if address is None else {"address": address}
    return logging.makeLogRecord({"msg": text, "levelname": "WARNING", **facts})


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def written(few: FewLines, *records: logging.LogRecord) -> list[str]:
    return [line.getMessage() for each in records for line in few.of(each)]


def test_a_peer_that_is_refused_for_ever_costs_few_lines_and_one_with_their_number() -> None:
    clock = Clock()
    few = FewLines(clock)

    first = written(few, *[record("10.0.0.1") for _ in range(1000)])
    clock.now_s = MINUTE_S
    after = written(few, record("10.0.0.1"))

    assert first == ["refused"] * MOST_OF_ADDRESS
    left_out = 1000 - MOST_OF_ADDRESS
    assert after == [f"{left_out} more lines about an address were left out", "refused"]


def test_other_addresses_and_lines_without_one_are_written_meanwhile() -> None:
    few = FewLines(Clock())
    written(few, *[record("10.0.0.1") for _ in range(1000)])

    assert written(few, record("10.0.0.2"), *[record() for _ in range(2000)]) == ["refused"] * 2001


def test_a_crowd_of_addresses_is_bounded_as_well_and_not_remembered() -> None:
    clock = Clock()
    few = FewLines(clock)

    first = written(few, *[record(f"2001:db8::{number:x}") for number in range(50_000)])
    clock.now_s = MINUTE_S
    (told, _) = few.of(record("10.0.0.1"))

    assert len(first) == MOST_OF_ALL
    assert told.getMessage() == f"{50_000 - MOST_OF_ALL} more lines about an address were left out"
    assert told.__dict__["address"] == "others"


def test_what_was_left_out_is_told_although_nothing_else_happens() -> None:
    stream = io.StringIO()
    handler = log.LineHandler(stream)
    handler.setFormatter(LineFormatter())
    for _ in range(MOST_OF_ADDRESS + 5):
        handler.handle(record("10.0.0.1"))
    timer = handler._timer
    assert timer is not None
    assert timer.is_alive()

    timer.function()  # as it does after a minute
    timer.cancel()

    *_, last = stream.getvalue().splitlines()
    assert last.endswith("5 more lines about an address were left out address=10.0.0.1")
