"""The least coverage of each room, held against what ``make coverage`` measured.

``tests/coverage_floor.toml`` names a percentage of lines and branches for each folder of ``node``. A
room that falls below its floor fails, and so does a room without one; ``--write`` makes the floors of
what was measured, rounded down.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

FLOORS = Path(__file__).resolve().parents[1] / "coverage_floor.toml"
_HEAD = "# percent of lines and branches, by room; written by python -m tests.support.coverage_floor --write\n"


def measured(report: Mapping[str, Any]) -> dict[str, float]:
    """Percent of lines and branches taken in each room.

    Args:
        report: What ``coverage json`` writes.
    """
    taken: Counter[str] = Counter()
    there: Counter[str] = Counter()
    for path, file in report["files"].items():
        room, summary = room_of(path), file["summary"]
        taken[room] += summary["covered_lines"] + summary["covered_branches"]
        there[room] += summary["num_statements"] + summary["num_branches"]
    return {room: 100 * taken[room] / there[room] for room in sorted(there) if there[room]}


def room_of(path: str) -> str:
    """``spool`` for ``node/spool/index.py``; ``.`` for the files beside the rooms."""
    parts = Path(path).parts[1:]
    return parts[0] if len(parts) > 1 else "."


def shortcomings(rooms: Mapping[str, float], floors: Mapping[str, float]) -> list[str]:
    """One sentence for each room that is below its floor, has none, or is gone."""
    below = [
        f"{room}: {percent:.1f} %, the floor is {floors[room]} %"
        for room, percent in rooms.items()
        if room in floors and percent < floors[room]
    ]
    unknown = [f"{room}: has no floor in {FLOORS.name}" for room in rooms if room not in floors]
    gone = [
        f"{room}: has a floor, and nothing was measured" for room in floors if room not in rooms
    ]
    return [*below, *unknown, *gone]


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = print) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="coverage_floor", description=__doc__)
    parser.add_argument("report", type=Path, help="what coverage json wrote")
    parser.add_argument("--floors", type=Path, default=FLOORS)
    parser.add_argument("--write", action="store_true", help="make the floors of this report")
    options = parser.parse_args(arguments)
    rooms = measured(json.loads(options.report.read_text()))
    if options.write:
        lines = [f'"{room}" = {math.floor(percent)}\n' for room, percent in rooms.items()]
        options.floors.write_text("".join([_HEAD, *lines]))
        return 0
    if not options.floors.is_file():
        say(f"no {options.floors}: measure the whole suite and call this with --write")
        return 2
    wrong = shortcomings(rooms, tomllib.loads(options.floors.read_text()))
    for sentence in wrong:
        say(sentence)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
