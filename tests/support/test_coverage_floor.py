"""A room below its floor fails, whatever the others have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.coverage_floor import main, measured


def file(lines: int, of: int, branches: int = 0, of_branches: int = 0) -> dict[str, Any]:
    return {
        "summary": {
            "covered_lines": lines,
            "num_statements": of,
            "covered_branches": branches,
            "num_branches": of_branches,
        }
    }


FILES = {
    "node/spool/index.py": file(8, 10, 1, 2),
    "node/spool/deep/files.py": file(9, 9),
    "node/clock.py": file(5, 10),
    "node/empty/__init__.py": file(0, 0),
}


def report(folder: Path) -> str:
    path = folder / "coverage.json"
    path.write_text(json.dumps({"files": FILES}))
    return str(path)


def judged(folder: Path, floors: str) -> tuple[int, list[str]]:
    (folder / "floors.toml").write_text(floors)
    told: list[str] = []
    status = main([report(folder), "--floors", str(folder / "floors.toml")], told.append)
    return status, told


def test_a_room_counts_lines_and_branches_of_all_its_files() -> None:
    assert measured({"files": FILES}) == {".": 50.0, "spool": 100 * 18 / 21}


def test_rooms_at_their_floor_pass(tmp_path: Path) -> None:
    assert judged(tmp_path, '"." = 50\nspool = 85\n') == (0, [])


def test_a_room_below_its_floor_is_named(tmp_path: Path) -> None:
    status, told = judged(tmp_path, '"." = 50\nspool = 86\n')

    assert status == 1
    assert told == ["spool: 85.7 %, the floor is 86 %"]


def test_a_room_without_a_floor_and_a_floor_without_a_room_are_named(tmp_path: Path) -> None:
    status, told = judged(tmp_path, "spool = 80\ngone = 90\n")

    assert status == 1
    assert [line.partition(":")[0] for line in told] == [".", "gone"]


def test_written_floors_pass_what_they_were_made_of(tmp_path: Path) -> None:
    floors = tmp_path / "floors.toml"
    assert main([report(tmp_path), "--floors", str(floors), "--write"]) == 0

    assert main([report(tmp_path), "--floors", str(floors)]) == 0


def test_no_floors_at_all_is_told(tmp_path: Path) -> None:
    told: list[str] = []

    assert main([report(tmp_path), "--floors", str(tmp_path / "none.toml")], told.append) == 2
    assert "--write" in told[0]
